"""Mini-batch noise of trained networks, measured once for the claims about it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from normscope.records import Figure, Series
from normscope.why import rates
from normscope.why.arms import BATCH_NORM
from normscope.why.claim import Plan, Task
from normscope.why.job import Job, Numbers, Results

if TYPE_CHECKING:
    from torch import Tensor, nn

    from normscope.model.batch import Examples
    from normscope.probes.examples import ExampleMoments
    from normscope.why.arms import Arm

KEY = "mini-batch-noise"
# Batch sizes at which noise is measured, batches drawn at each, and batches that run through the whole network.
SIZES = (8, 16, 32, 64, 128, 256)
DRAWS, PASSES = 200, 8
# A user's own network may be narrow: more batches stand in for the channels over which an embedded one averages.
OWN_DRAWS = 600
# From this size on theory to first order holds for tails as heavy as those of real layers.
FIRST_ORDER = 64
# Batch size of the noise that accumulates over depth, where the network has none of its own.
_ACCUMULATED = 32
# Examples, and input values, that are the population: at most.
_POOL, _POOL_VALUES = 2048, 1 << 22
_RATE = 0.1


def networks(task: Task) -> dict[str, str]:
    """Network -> its name for people."""
    return {"own": "this network"} if task.own else {"mlp6": "fully connected", "conv": "convolutional"}


def sizes(task: Task) -> tuple[int, ...]:
    """Batch sizes at which noise is measured, a user's own among them."""
    return tuple(sorted({*SIZES, max(2, task.batch)})) if task.own else SIZES


def batch_of(task: Task) -> int:
    """The batch size at which noise is followed over depth."""
    return max(2, task.batch) if task.own else _ACCUMULATED


def jobs(task: Task, study: Plan, results: Results) -> list[Job]:
    """Briefly trained networks with batch norm; a user's own first looks for its learning rate."""
    found: list[Job] = []
    for network in networks(task):
        if task.own:
            found += rates.jobs(task, study, network, [BATCH_NORM])
        rate = _rate(task, study, results, network)
        if rate is None:
            continue
        members = tuple((seed, rate) for seed in study.seeds)
        groups = [members] if network.startswith("mlp") else [(member,) for member in members]
        steps, batch = study.steps(20, 50, 150), task.batch if task.own else 64
        weight = 14.0 if network.startswith("mlp") else 3.0
        found += [Job(KEY, network, BATCH_NORM, group, steps, batch, weight=weight) for group in groups]
    return found


def _rate(task: Task, study: Plan, results: Results, network: str) -> float | None:
    return rates.best(task, study, results, network, BATCH_NORM) if task.own else _RATE


def found(task: Task, study: Plan, results: Results, network: str) -> list[Numbers]:
    """The numbers of every seed of `network`."""
    rate = _rate(task, study, results, network)
    assert rate is not None
    return [cast("Numbers", results.get(KEY, network, BATCH_NORM, seed, rate)) for seed in study.seeds]


def run(task: Task, job: Job) -> list[Numbers]:
    """Train, then measure each member's noise: every layer alone at each size, and all together at one.

    Returns:
        For each member 'sizes' and 'layers': a list in forward order, each with its 'name', 'positions' per example,
        each field of `normscope.probes.noise.Noise` as a list over sizes, and 'accumulated' noise power.
    """
    from normscope.why import bench

    members = bench.make_members(task, job)
    bench.run_training(task, job, members)
    return [
        _measure(task, model, data.train, job.arm, seed)
        for model, data, seed in zip(members.models(), members.datas, job.seeds, strict=True)
    ]


def _measure(task: Task, model: nn.Module, train: Examples, arm: Arm, seed: int) -> Numbers:
    import torch

    from normscope.probes import noise as probe
    from normscope.probes.population import population_mode

    values = sum(x[:1].numel() for _, x in train.whole.leaves)
    pool = train.subset(torch.arange(min(len(train), _POOL, max(64, _POOL_VALUES // max(1, values)))))
    device = next(model.parameters()).device
    whole = pool.whole.to(device)
    with population_mode(model, lambda: whole(model)) as pools:
        layers = [_layer(name, _drawn(each, arm), task, seed) for name, each in pools.items()]

    def run_batch(index: Tensor) -> object:
        return pool.take(index).to(device)(model)

    together = probe.accumulated(
        model, lambda: whole(model), run_batch, len(pool), batch_of(task), repeats=PASSES, seed=seed
    )
    for layer in layers:
        layer["accumulated"] = _finite(together.get(layer["name"], math.nan))
    return {"sizes": list(sizes(task)), "layers": layers}


def _layer(name: str, pool: ExampleMoments, task: Task, seed: int) -> dict[str, Any]:
    from normscope.probes.noise import noise_of

    draws = OWN_DRAWS if task.own else DRAWS
    found = [noise_of(pool, size, draws, seed=1000 * seed + size) for size in sizes(task)]
    numbers = {key: [_finite(getattr(each, key)) for each in found] for key in vars(found[0]) if key != "batch"}
    return {"name": name, "positions": pool.positions, **numbers}


def _drawn(pool: ExampleMoments, arm: Arm) -> ExampleMoments:
    """`pool`, whose batches hold correlated examples if the arm says so."""
    from normscope.why.correlated import CorrelatedDraws

    if not arm.correlation:
        return pool
    return CorrelatedDraws(pool.positions, pool.mean, pool.m2, arm.correlation)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def over_layers(numbers: Numbers, keys: Sequence[str], smallest_size: int = 0) -> list[tuple[list[float], ...]]:
    """For each layer the values of `keys` at the sizes from `smallest_size` on, where all are finite and positive.

    The first list of each layer holds the sizes; layers with fewer than two sizes left are skipped.
    """
    out = []
    for layer in numbers["layers"]:
        rows = [
            (float(size), *values)
            for size, *values in zip(numbers["sizes"], *(layer[key] for key in keys), strict=True)
            if size >= smallest_size and all(value is not None and value > 0 for value in values)
        ]
        if len(rows) > 1:
            out.append(tuple(list(column) for column in zip(*rows, strict=True)))
    return out


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean; NaN of nothing."""
    return math.fsum(values) / len(values) if values else math.nan


def by_layer(members: Sequence[Numbers], value: str, size: int | None = None) -> dict[str, float]:
    """Geometric mean over seeds of one positive number of each layer, at `size` where it is a list over sizes."""
    seen: dict[str, list[float]] = {}
    for numbers in members:
        for layer in numbers["layers"]:
            number = layer[value] if size is None else layer[value][list(numbers["sizes"]).index(size)]
            if number is not None and number > 0:
                seen.setdefault(layer["name"], []).append(math.log(number))
    return {name: math.exp(mean(logs)) for name, logs in seen.items()}


def by_size(members: Sequence[Numbers], value: str) -> dict[int, float]:
    """Geometric mean over seeds and layers of one number at each batch size."""
    out = {}
    for size in members[0]["sizes"]:
        layers = by_layer(members, value, size)
        if layers:
            out[int(size)] = math.exp(mean([math.log(each) for each in layers.values()]))
    return out


def size_figure(title: str, description: str, label: str, rows: Sequence[tuple[str, bool, dict[int, float]]]) -> Figure:
    """Numbers against the batch size on logarithmic axes; `rows` are (name, whether it is theory, size -> number)."""
    series = tuple(
        Series(name, "theory" if theory else "points", tuple(map(float, found)), tuple(found.values()))
        for name, theory, found in rows
    )
    return Figure(title, description, "examples in a mini-batch", label, series, x_log=True, y_log=True)
