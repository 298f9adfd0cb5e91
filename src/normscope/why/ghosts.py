"""Networks that differ in the size of the group that gives batch norm its statistics: runs that several claims share.

Every arm trains on the same mini-batches at the same learning rate; only the groups that are normalized together
differ, up to the whole training set, which leaves no noise. All are tested with exact population statistics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from normscope.records import Effect
from normscope.why import decide, rates
from normscope.why.arms import BATCH_NORM, FULL, Arm
from normscope.why.claim import Plan, Task
from normscope.why.job import Job, Numbers, Results

if TYPE_CHECKING:
    from normscope.why.members import Members

KEY = "ghosts"
RATE = 0.1
REGIMES = ("clean", "noisy")
WORDS = {"clean": "clean labels", "noisy": "20 % wrong labels"}
NOISE_FREE = Arm("noise-free statistics", norm="full")
# Smallest effect of interest on the test loss: in nats for the embedded network, as a share of it for a user's own.
SMALLEST, SMALLEST_SHARE = 0.005, 0.02


def network(task: Task) -> str:
    """The network of these runs."""
    return task.network("mlp2")


def batch(task: Task) -> int:
    """Examples in a mini-batch."""
    return task.batch if task.own else 128


def sizes(task: Task, study: Plan) -> tuple[int, ...]:
    """Examples that are normalized together, rising; the last is the whole mini-batch.

    Below 8 the variance of a group says too little about the one at test: another effect than noise.
    """
    below = (8, 16, 32, 64) if study.effort == "thorough" else (8, 32)
    return (*(size for size in below if size < batch(task)), batch(task))


def arm(task: Task, size: int) -> Arm:
    """The arm that normalizes `size` examples together."""
    return BATCH_NORM if size == batch(task) else Arm(f"ghost batches of {size}", norm="ghost", ghost=size)


def treated(task: Task) -> int:
    """The group whose noise is held against none: 32 in the embedded network, the whole mini-batch in a user's own."""
    return task.batch if task.own else 32


def steps(task: Task, study: Plan) -> int:
    """Training steps, along which the rate falls to 0."""
    return rates.steps(task, study) if task.own else study.steps(100, 200, 400)


def rate(task: Task, study: Plan, results: Results) -> float | None:
    """The learning rate of every arm: the best of the network as it is; None while it is being looked for."""
    return rates.best(task, study, results, "own", BATCH_NORM) if task.own else RATE


def setting(task: Task, study: Plan, results: Results) -> str:
    """Learning rate and steps in words: how long a network trains decides what noise does to it."""
    return f"{steps(task, study)} steps from a learning rate of {rate(task, study, results):g}"


def applies(task: Task) -> str:
    """'' or the reason why groups of examples cannot be compared."""
    if batch(task) < 16:
        return f"a mini-batch of {batch(task)} cannot be cut into groups of at least 8; let the loader give 16 or more"
    if task.examples <= batch(task):
        return f"the {task.examples} training examples are one mini-batch, whose statistics have no noise"
    return ""


def jobs(task: Task, study: Plan, results: Results, arms: Sequence[Arm]) -> list[Job]:
    """The runs of `arms` under clean and noisy labels, behind the search for a user's own learning rate."""
    out = rates.jobs(task, study, "own", [BATCH_NORM]) if task.own else []
    chosen = rate(task, study, results)
    if chosen is None:
        return out
    members = [(seed, chosen) for seed in study.seeds]
    groups = [(member,) for member in members] if task.own else [tuple(members)]
    return out + [
        Job(
            KEY,
            network(task),
            each,
            group,
            steps(task, study),
            batch(task),
            regime,
            (("decay", True),),
            _weight(task, each),
        )
        for regime in REGIMES
        for each in arms
        for group in groups
    ]


def _weight(task: Task, each: Arm) -> float:
    """Cost of a step against one of a plain network with the task's batch."""
    if each.norm == "full":
        return min(FULL, task.examples if task.own else 300) / task.batch
    return 1.5 * batch(task) / task.batch


def run(task: Task, job: Job) -> list[Numbers]:
    """Train every member; its losses at the end, and the variance shift of dropout where the arm has some."""
    from normscope.why import bench

    members = bench.make_members(task, job)
    bench.run_training(task, job, members)
    found = _scores(task, members)
    return _with_shifts(members, found) if job.arm.dropout else found


def _with_shifts(members: Members, found: list[Numbers]) -> list[Numbers]:
    """`found` with [layer, measured, formula] of each variance ratio that dropout causes, on the probe set."""
    from functools import partial

    from normscope.probes.dropout import variance_shift
    from normscope.why import bench

    index = bench.probe_index(members)
    for numbers, model, data in zip(found, members.models(), members.datas, strict=True):
        batch = data.train.take(index).to(next(model.parameters()).device)
        shifts = variance_shift(model, partial(batch, model))
        numbers["shift"] = [[each.layer, each.measured, each.formula] for each in shifts]
    return found


def _scores(task: Task, members: Members) -> list[Numbers]:
    """Test loss and metric and training loss with population statistics, test loss with running averages."""
    from normscope.why import bench

    target = members.datas[0].train.target
    loss, metric = bench.loss_of(task, target), bench.metric_of(task, target)
    index = bench.probe_index(members)
    running = bench.score(members, "test", loss)
    with members.population():
        found = {
            "test": bench.score(members, "test", loss),
            "metric": bench.score(members, "test", metric),
            "train": bench.score(members, "train", loss, index),
            "running": running,
        }
    return [{name: values[at] for name, values in found.items()} for at in range(len(running))]


def values(task: Task, study: Plan, results: Results, each: Arm, regime: str, what: str = "test") -> list[float]:
    """One number of every seed; NaN for a run that diverged."""
    chosen = rate(task, study, results)
    assert chosen is not None
    out = []
    for seed in study.seeds:
        numbers = results.get(KEY, network(task), each, seed, chosen, regime)
        assert numbers is not None
        out.append(math.nan if numbers[what] is None else float(numbers[what]))
    return out


def unit(task: Task) -> str:
    """Unit of the loss."""
    return "of loss" if task.own else "nat"


def smallest(task: Task, reference: Sequence[float]) -> float:
    """Smallest effect of interest on the test loss, `reference` the losses of the arm that is compared with."""
    if not task.own:
        return SMALLEST
    known = [abs(value) for value in reference if math.isfinite(value)]
    return max(SMALLEST_SHARE * sum(known) / max(1, len(known)), 1e-12)


def gain(name: str, first: Sequence[float], second: Sequence[float], study: Plan, least: float, unit: str) -> Effect:
    """The effect of the second arm against the first on a loss, shown as second - first: below 0 where it helps."""
    falls = differences(first, second)
    return decide.effect(name, falls, study.seeds, least, decide.difference(unit), sign=-1.0)


def differences(first: Sequence[float], second: Sequence[float]) -> list[float]:
    """The first minus the second, seed by seed."""
    return [a - b for a, b in zip(first, second, strict=True)]
