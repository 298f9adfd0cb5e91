"""How much a trained network relies on single units of its earlier layers. Runs in a worker."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from normscope.model.find import find
from normscope.probes.ablation import ablation
from normscope.probes.population import population_mode
from normscope.why import bench
from normscope.why.claim import Task
from normscope.why.data import Data
from normscope.why.job import Numbers

# Units that are taken out one at a time in all, layers that they come from, and held-out examples of the loss.
_UNITS, _LAYERS, _EXAMPLES, _OWN_EXAMPLES = 32, 4, 512, 256
# Examples, and input values, that give the statistics with which the loss is measured: at most.
_POOL, _POOL_VALUES = 1024, 1 << 22


def measure(task: Task, model: nn.Module, data: Data) -> Numbers:
    """The held-out loss of `model` without single units, with the statistics of the training set.

    Returns:
        'intact' (held-out loss of the whole network), 'rises' (of the loss without each unit, largest first),
        'reliance' (their mean, a fall counted as none) and 'output' (mean square change of the output without one
        unit, in variances of the output). All None where the network diverged.
    """
    device = next(model.parameters()).device
    values = max(1, sum(x[:1].numel() for _, x in data.train.whole.leaves))
    pool = data.train.take(torch.arange(min(len(data.train), _POOL, max(64, _POOL_VALUES // values)))).to(device)
    held = data.test.take(torch.arange(min(len(data.test), _OWN_EXAMPLES if task.own else _EXAMPLES))).to(device)
    score, target = bench.loss_of(task, data.train.target), cast("Tensor", held.target)
    seen: list[Tensor] = []

    def loss() -> Tensor:
        seen.append(held(model).float())
        return score(seen[-1], target)

    rises, outputs = [], []
    with population_mode(model, lambda: pool(model)):
        for name, module, units in _chosen(model):
            found = ablation(model, loss, (name, module), units)
            rises += list(found.changes)
            outputs += [_moved(seen[-len(units) - 1], each) for each in seen[-len(units) :]]
            seen.clear()
    if not all(map(math.isfinite, rises)):
        return {"intact": None, "rises": [None] * len(rises), "reliance": None, "output": None}
    return {
        "intact": found.intact,
        "rises": sorted(rises, reverse=True),
        "reliance": math.fsum(max(0.0, rise) for rise in rises) / len(rises),
        "output": math.fsum(outputs) / len(outputs),
    }


def _chosen(model: nn.Module) -> list[tuple[str, nn.Module, list[int]]]:
    """(name, module, units) of up to `_LAYERS` layers below the last, spread over the depth, and of their units."""
    layers = find(model).require().layers
    earlier = layers[:-1] or layers
    some = [earlier[at] for at in _spread(len(earlier), _LAYERS)]
    return [(each.name, each.module, _spread(each.channels, max(1, _UNITS // len(some)))) for each in some]


def _spread(size: int, count: int) -> list[int]:
    """Up to `count` of the numbers below `size`, evenly."""
    count = min(size, count)
    return [at * size // count for at in range(count)]


def _moved(before: Tensor, after: Tensor) -> float:
    spread = (before - before.mean(0)).square().sum()
    return float((after - before).square().sum() / spread)
