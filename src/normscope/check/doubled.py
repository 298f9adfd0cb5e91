"""Where the running statistics of a layer settle when a training step updates them with several distributions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from normscope.check.offsets import Offset
from normscope.check.steps import extra, per_layer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from normscope.check.steps import Pass, Step
    from normscope.model.find import NormLayer
    from normscope.surgery.population import Sample


def blends(steps: tuple[Step, ...], layers: Iterable[NormLayer], population: dict[str, Sample]) -> dict[str, Offset]:
    """By layer, the running average over all updates of a step against the pass that is nearest to the training data.

    A running average of momentum m that sees the passes 1 to k of every step in turn weighs pass i by (1 - m)^(k - i),
    over the sum of these. Layers that one update a step reaches, or several with the same values, are left out.
    """
    found = {}
    every = per_layer(steps)
    for layer in layers:
        moved, _ = extra(*every.get(layer.name, ([], 1)))
        if not moved or layer.name not in population:
            continue
        rows = [[one for one in moved if one.step == at] for at in sorted({one.step for one in moved})]
        count = max(map(len, rows))
        means, variances = _by_place([row for row in rows if len(row) == count])
        weights = _weights(count, getattr(layer.module, "momentum", None)).to(means)
        near = int((means - population[layer.name].moments.mean).square().sum(1).argmin())
        offset = Offset.between((means[near], variances[near]), (weights @ means, weights @ variances), layer.eps)
        if not offset.nothing:
            found[layer.name] = offset
    return found


def _by_place(rows: list[list[Pass]]) -> tuple[Tensor, Tensor]:
    """Means and biased variances, both shape [passes of a step, channels], averaged over steps."""
    means = torch.stack([torch.stack([one.moments.mean for one in row]) for row in rows]).mean(0)
    variances = torch.stack([torch.stack([one.moments.variance("biased") for one in row]) for row in rows]).mean(0)
    return means, variances


def _weights(count: int, momentum: float | None) -> Tensor:
    kept = 1.0 if momentum is None else 1 - momentum
    powers = torch.tensor([kept ** (count - 1 - at) for at in range(count)], dtype=torch.float64)
    return powers / powers.sum()
