"""One run under covariate shift: train on the source, measure on other looks, as deployed and re-estimated."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import cast

import torch

from normscope.model.attach import mode
from normscope.model.batch import Batch, Examples
from normscope.probes.examples import ExampleMoments, example_moments
from normscope.probes.population import population_mode
from normscope.probes.shift import shift
from normscope.why import bench, data, matched, renderings
from normscope.why.claim import Task
from normscope.why.job import Job, Numbers
from normscope.why.members import POOL_VALUES, Single

# The only look of data that are a user's own.
OWN = "the shift"


@dataclasses.dataclass(frozen=True)
class Material:
    """What one run is measured on.

    Attributes:
        source: Held-out examples as trained on.
        pool: Unlabelled examples of the source, none of them in `source`.
        shifted: By look: (the test examples, unlabelled examples to re-estimate statistics on, disjoint from them).
        kind: What the shift is, in words.
    """

    source: Examples
    pool: Examples
    shifted: dict[str, tuple[Examples, Examples]]
    kind: str


def run(task: Task, job: Job, sizes: Sequence[int], main: int) -> Numbers:
    """Numbers of one run.

    Args:
        task: The network and data under test.
        job: The arm, with one member.
        sizes: Unlabelled examples that statistics are re-estimated on, rising.
        main: Which of them are used for every look.
    """
    members = cast("Single", bench.make_members(task, job, stack=False))
    material = _own(members, job, sizes[-1]) if task.own else _digits(members, job, sizes[-1])
    if not material.shifted:
        return {"kind": material.kind}
    bench.run_training(task, job, members)
    return _measure(task, job, members, material, sizes, main)


def _digits(members: Single, job: Job, most: int) -> Material:
    """`most` of the training digits are kept back, unlabelled, to re-estimate statistics on."""
    seed = job.seeds[0]
    raw = data.load("conv", "clean", dataclasses.replace(job.arm, inputs="raw", examples=1.0), seed)
    scale = data.standardizer(raw.train)
    back, kept = raw.train.subset(torch.arange(most)), torch.arange(most, len(raw.train))
    train = raw.train.subset(kept[: max(64, round(job.arm.examples * len(kept)))])
    if job.arm.shifted:
        train = _mixed(train, renderings.render(train, next(iter(renderings.RENDERINGS)), seed + 2), job.arm.shifted)
    members.datas[0] = data.Data(scale(train), scale(raw.test))
    looks = {
        name: (scale(renderings.render(raw.test, name, seed)), scale(renderings.render(back, name, seed + 1)))
        for name in job.option("looks", "coloured").split(",")
    }
    return Material(scale(raw.test), scale(back), looks, "black strokes on white to coloured ones")


def _mixed(train: Examples, other: Examples, share: float) -> Examples:
    """`train` with its first `share` of examples in the other look."""
    count = round(share * len(train))
    x = torch.cat([other.whole.args[0][:count], train.whole.args[0][count:]])
    return Examples(Batch((x,), {}, train.whole.target))


def _own(members: Single, job: Job, most: int) -> Material:
    """The labelled shifted examples given, half of them for the statistics; else a stated gain and offset."""
    train, test, other = members.datas[0].train, members.datas[0].test, members.datas[0].shifted
    generator = torch.Generator().manual_seed(50_000 + job.seeds[0])
    values = sum(x[:1].numel() for _, x in train.whole.leaves)
    most = min(most, max(64, POOL_VALUES // values))
    pool = train.subset(torch.randperm(len(train), generator=generator)[:most])
    if other is not None and other.whole.target is not None and len(other) > 3:
        order, cut = torch.randperm(len(other), generator=generator), min(most, len(other) // 2)
        parts = (other.subset(order[cut:]), other.subset(order[:cut]))
        return Material(test, pool, {OWN: parts}, "the shifted data given")
    if not renderings.shiftable(train):
        return Material(test, pool, {}, "none: no input holds real numbers in channels or features")
    parts = (renderings.gain_and_offset(test, train), renderings.gain_and_offset(pool, train))
    gains, offsets = ("/".join(f"{value:g}" for value in pair) for pair in (renderings.GAINS, renderings.OFFSETS))
    return Material(test, pool, {OWN: parts}, f"gain {gains} and offset {offsets} deviations, channels by turns")


def _measure(task: Task, job: Job, members: Single, material: Material, choices: Sequence[int], main: int) -> Numbers:
    adapts = bool(bench.norm_sites(members.model)) and job.arm.norm != "removed"
    looks: Numbers = {}
    for at, (name, (test, unlabelled)) in enumerate(material.shifted.items()):
        deployed = _score(task, members, test)
        sizes = [size for size in choices if size <= len(unlabelled)] if at == 0 else [main]
        sizes = sizes if sizes and min(sizes) <= len(unlabelled) else [len(unlabelled)]
        again = {str(n): _score(task, members, test, unlabelled, n) if adapts else deployed for n in sizes}
        looks[name] = {"deployed": deployed, "again": again}
    first, _ = next(iter(material.shifted.values()))
    source = _score(task, members, material.source)
    control = _score(task, members, first, material.pool, main) if adapts else looks[next(iter(looks))]["deployed"]
    layers = _layers(members, material.source, first) if adapts else {}
    base = _guess(task, members, material.source)
    return {"kind": material.kind, "source": source, "base": base, "looks": looks, "control": control, "layers": layers}


def _score(task: Task, members: Single, test: Examples, pool: Examples | None = None, size: int = 0) -> float | None:
    """The metric on `test`, with running averages or statistics of `size` examples of `pool`; None if not finite."""
    trained = members.datas[0]
    metric = bench.metric_of(task, test.target)
    try:
        members.datas[0] = data.Data(trained.train, test)
        if pool is None:
            return matched.finite(bench.score(members, "test", metric)[0])
        device = next(members.model.parameters()).device
        batch = pool.take(torch.arange(min(size, len(pool)))).to(device)
        with population_mode(members.model, lambda: batch(members.model)):
            return matched.finite(bench.score(members, "test", metric)[0])
    finally:
        members.datas[0] = trained


def _guess(task: Task, members: Single, test: Examples) -> float | None:
    """The metric of one constant output, the mean over the test examples: what no look at the input reaches."""
    trained = members.datas[0]
    target = test.target
    outputs = members.outputs("test")[0]
    assert len(outputs) == len(trained.test)
    value = bench.metric_of(task, target)(outputs.mean(0, keepdim=True).expand_as(outputs), target)
    return matched.finite(float(value))


def _layers(members: Single, source: Examples, shifted: Examples) -> dict[str, list[float]]:
    """[standardized distance, its 95 % null] of each batch-norm layer's input, as deployed."""
    device = next(members.model.parameters()).device

    def seen(examples: Examples) -> dict[str, ExampleMoments]:
        def run() -> None:
            for batch in examples.chunks(256):
                batch.to(device)(members.model)

        with mode(members.model, training=False):
            return example_moments(members.model, run)

    found = shift(seen(source), seen(shifted), resamples=60)
    return {name: [item.distance, item.distance_null] for name, item in found.items()}
