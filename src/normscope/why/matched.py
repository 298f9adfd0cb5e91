"""Arms compared at equal training loss: each run is measured when its loss first falls to a level."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

from normscope.records import Effect
from normscope.why import decide, rates
from normscope.why.arms import BATCH_NORM, PLAIN, Arm
from normscope.why.claim import Plan, Task
from normscope.why.job import Job, Numbers, Results

if TYPE_CHECKING:
    from torch import Tensor, nn

    from normscope.model.batch import Batch
    from normscope.why.members import Members

# A level: its name, the loss on the embedded network, the share of the way down on a user's own.
Level = tuple[str, float, float]
# (network in train mode, probe batch, which member it is) -> numbers.
Measure = Callable[["nn.Module", "Batch", int], Numbers]
# (network, probe batch, which member it is), at every look until the member is at its last level.
Along = Callable[["nn.Module", "Batch", int], None]

# The level that every run is at before its first step.
START: Level = ("before training", 1e30, 0.0)


def levels(
    task: Task, study: Plan, results: Results, pair: Sequence[Arm], wanted: Sequence[Level]
) -> list[tuple[str, float]] | None:
    """(name, loss) of each level; None while a user's own network has not been through the search for rates.

    The loss of an own network is `share` of the way down that the slower arm goes at its best rate, or half of the
    faster arm's way where the slower one goes less far; -inf where neither learns anything.
    """
    if not task.own:
        return [(name, loss) for name, loss, _ in wanted]
    starts, ends = [], []
    for arm in pair:
        best = rates.best(task, study, results, "own", arm)
        if best is None:
            return None
        runs = [cast("Numbers", results.get(rates.KEY, "own", arm, seed, best)) for seed in study.selection]
        starts.append(statistics.median(math.inf if n["loss"][0] is None else n["loss"][0] for n in runs))
        ends.append(statistics.median(rates.end_loss(task, numbers) for numbers in runs))
    start, slow, fast = min(starts), max(ends), min(ends)
    way = max(start - slow, 0.5 * (start - fast)) if fast < start < math.inf else math.inf
    return [(name, loss if loss == START[1] else start - share * way) for name, loss, share in wanted]


def plan(
    task: Task,
    study: Plan,
    results: Results,
    key: str,
    pair: tuple[Arm, Arm],
    wanted: Sequence[Level],
    *,
    common: bool = False,
    weight: float = 2.0,
    every: int = 2,
) -> list[Job]:
    """The search for rates, then each arm at its own (with `common`, the second arm at the first one's too).

    The loss is looked at every `every` steps.
    """
    network = task.network("mlp6")
    out = rates.jobs(task, study, network, pair)
    chosen = [rates.best(task, study, results, network, arm) for arm in pair]
    falls = levels(task, study, results, pair, wanted)
    if chosen[0] is None or chosen[1] is None or falls is None:
        return out
    runs = [(pair[0], chosen[0]), (pair[1], chosen[1])] + ([(pair[1], chosen[0])] if common else [])
    for arm, rate in dict.fromkeys(runs):
        members = [(seed, rate) for seed in study.seeds]
        groups = [(member,) for member in members] if task.own else [tuple(members)]
        options = (("every", every), *((f"level {name}", loss) for name, loss in falls))
        steps, batch = rates.steps(task, study), task.batch if task.own else 64
        out += [Job(key, network, arm, group, steps, batch, options=options, weight=weight) for group in groups]
    return out


def found(task: Task, study: Plan, results: Results, key: str, arm: Arm, rate_of: Arm) -> list[Numbers]:
    """Numbers of each seed of `arm` at the best rate of `rate_of`."""
    network = task.network("mlp6")
    chosen = rate(task, study, results, rate_of)
    return [cast("Numbers", results.get(key, network, arm, seed, chosen)) for seed in study.seeds]


def unreached(runs: Sequence[Numbers], level: str) -> int:
    """How many runs were measured at their last step because they never came down to `level`."""
    return sum(not numbers[level]["reached"] for numbers in runs)


def note(task: Task, study: Plan, results: Results, key: str, level: str, rate_of: Arm) -> str:
    """The learning rates of plain and of batch norm (at the best rate of `rate_of`), and runs that missed `level`."""
    sides = ((PLAIN, PLAIN), (BATCH_NORM, rate_of))
    late = sum(unreached(found(task, study, results, key, arm, owner), level) for arm, owner in sides)
    chosen = [rate(task, study, results, owner) for _, owner in sides]
    text = f"learning rates {chosen[0]:g} (plain) and {chosen[1]:g} (batch norm)"
    return f"{text}; {late} runs never came down to this loss and were measured at their last step" if late else text


def run(task: Task, job: Job, measure: Measure, *, along: Along | None = None) -> list[Numbers]:
    """Train; measure each member when it first reaches each level of the job, or at the last step where it does not.

    Args:
        task: The network and data under test.
        job: Its options 'level ...' hold the losses, 'every' the steps between two looks.
        measure: What is measured at a level.
        along: What follows the training on the way.

    Returns:
        For each member, by the name of the level: what `measure` returned, with 'step', 'loss' and 'reached'.
    """
    from normscope.why import bench

    members = bench.make_members(task, job)
    index = bench.probe_index(members)
    batches = [data.train.take(index) for data in members.datas]
    wanted = {name.removeprefix("level "): loss for name, loss in job.options if name.startswith("level ")}
    found: list[Numbers] = [{} for _ in job.members]
    going = list(range(len(found)))

    def observe(step: int, current: Members) -> list[int]:
        nonlocal going
        losses = bench.probe_losses(task, current, index) if task.own else training_losses(current, index)
        models: list[nn.Module] = []
        for place, at in enumerate(going):
            numbers, loss = found[at], losses[place]
            due = [name for name in wanted if name not in numbers and (loss <= wanted[name] or step >= job.steps)]
            if not (due or along):
                continue
            models = models or [model.train() for model in current.models()]
            if along is not None:
                along(models[place], batches[at], at)
            for name in due:
                numbers[name] = {"step": step, "loss": finite(loss), "reached": loss <= wanted[name]}
                numbers[name] |= measure(models[place], batches[at], at)
        places = [place for place, at in enumerate(going) if len(found[at]) < len(wanted)]
        going = [going[place] for place in places]
        return places

    bench.run_training(task, job, members, observe, job.option("every", 2))
    return found


def paced(job: Job) -> Job:
    """`job` at its arm's pace: the rates at which its members really train."""
    members = tuple((seed, chosen * job.arm.pace) for seed, chosen in job.members)
    return dataclasses.replace(job, members=members)


def training_losses(members: Members, index: Tensor) -> list[float]:
    """Train-mode losses of the examples at `index` [probe]: batch norm by the probe's own statistics, without a lag.

    Running statistics take the probe in as one more batch; nothing here reads them.
    """
    import torch

    with torch.no_grad():
        return [float(value) for value in members.losses(index.expand(len(members.datas), -1))]


def closures(task: Task, model: nn.Module, batch: Batch) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """(one forward pass, its loss) of `batch`, for the probes."""
    from normscope.why import bench

    device = next(model.parameters()).device
    assert batch.target is not None
    here, score = batch.to(device), bench.loss_of(task, batch.target)
    target = here.target
    assert target is not None
    return lambda: here(model), lambda: score(here(model), target)


def finite(value: float) -> float | None:
    """`value`, or None where it is not finite: as JSON wants it."""
    return float(value) if math.isfinite(value) else None


def log_ratios(first: Sequence[float | None], second: Sequence[float | None]) -> list[float]:
    """log(first / second) for each seed; NaN where either is missing or not positive."""
    return [
        math.log(a / b) if a is not None and b is not None and a > 0 and b > 0 else math.nan
        for a, b in zip(first, second, strict=True)
    ]


def shrinking(name: str, values: Sequence[float], seeds: Sequence[int], smallest: float) -> Effect:
    """The effect behind log(plain / batch norm), shown as batch norm / plain: below 1 where batch norm shrinks it."""
    return decide.effect(name, values, seeds, smallest, decide.RATIO, sign=-1.0)


def mean(values: Sequence[float]) -> float | None:
    """Mean of the finite values; None where there are none."""
    known = [value for value in values if math.isfinite(value)]
    return statistics.fmean(known) if known else None


def rate(task: Task, study: Plan, results: Results, arm: Arm) -> float:
    """The best rate of `arm`, once it is known."""
    chosen = rates.best(task, study, results, task.network("mlp6"), arm)
    assert chosen is not None
    return chosen


def times(ratio: float) -> str:
    """'0.52 times as much' for a sentence."""
    return f"{ratio:.2f} times as much"
