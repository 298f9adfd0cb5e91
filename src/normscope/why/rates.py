"""Each arm's own learning rate, chosen on seeds that confirm nothing: to do both on the same seeds breaks the null."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from normscope.why.arms import Arm
from normscope.why.claim import Plan, Task
from normscope.why.job import Job, Numbers, Results

if TYPE_CHECKING:
    from normscope.why.members import Members

KEY = "rates"
# Half-decades, as protocols for comparing arms want them: each arm gets the same grid.
GRID = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
TARGET = 0.9
# Steps between two looks at the held-out accuracy: where a rate is confirmed, and where it is looked for.
EVERY, EVERY_SEARCHING = 4, 8
# Held-out examples of a look, where one look may be coarse.
HELD_OUT = 256


def steps(task: Task, plan: Plan) -> int:
    """The cap on the steps of a run that looks for its learning rate."""
    return plan.steps(80, 160, 320) if task.own else plan.steps(160, 320, 480)


def jobs(task: Task, plan: Plan, network: str, arms: Sequence[Arm]) -> list[Job]:
    """The runs from which `best` chooses: the whole grid for each arm and selection seed."""
    grid = _grid(task, plan)
    members = [(seed, rate) for rate in grid for seed in plan.selection]
    groups = [tuple(members)] if network.startswith("mlp") else [(member,) for member in members]
    batch = task.batch if network == "own" else 64
    # Members of a stack leave it at their target: half of the steps are run.
    weight = 0.5 if network.startswith("mlp") else 1.0
    length = steps(task, plan)
    return [Job(KEY, network, arm, group, length, batch, weight=weight) for arm in arms for group in groups]


def _grid(task: Task, plan: Plan) -> tuple[float, ...]:
    if plan.effort == "quick":
        return GRID[1::2] if task.own else GRID[1:6]
    return GRID[:6] if task.own and plan.effort == "standard" else GRID


def run(task: Task, job: Job) -> list[Numbers]:
    """Train every member; record the probe loss along the way and, where a target is set, the steps to it."""
    from normscope.why import bench

    members = bench.make_members(task, job)
    return curves(task, job, members)


def curves(task: Task, job: Job, members: Members) -> list[Numbers]:
    """Probe loss and metric of each member every few steps, until it is at its target or its loss no longer finite.

    The search for a rate, and a user's own network, look at `HELD_OUT` held-out examples.
    """
    import torch

    from normscope.why import bench

    index = bench.probe_index(members)
    target = members.datas[0].train.target
    metric = bench.metric_of(task, target)
    searching = job.claim == KEY
    every = max(EVERY_SEARCHING if searching and not task.own else EVERY, job.steps // 80)
    held = min(len(each.test) for each in members.datas)
    look = torch.arange(min(HELD_OUT, held)) if searching or task.own else None
    found: list[Numbers] = [{"step": [], "loss": [], "metric": []} for _ in job.members]
    going = found

    def observe(step: int, current: Members) -> list[int]:
        nonlocal going
        losses = bench.probe_losses(task, current, index)
        metrics = bench.score(current, "test", metric, look)
        for numbers, *values in zip(going, losses, metrics, strict=True):
            for name, value in zip(numbers, (step, *values), strict=True):
                numbers[name].append(value)
        reached = [not task.own and value >= TARGET for value in metrics]
        places = [at for at, value in enumerate(losses) if math.isfinite(value) and not reached[at]]
        going = [going[at] for at in places]
        return places

    bench.run_training(task, job, members, observe, every)
    return found


def best(task: Task, plan: Plan, results: Results, network: str, arm: Arm) -> float | None:
    """The arm's rate: fewest steps to the target on average (censored at twice the cap), then the lowest end loss.

    None while the runs are not there.
    """
    scored: list[tuple[float, float, float]] = []
    for rate in _grid(task, plan):
        found = [results.get(KEY, network, arm, seed, rate) for seed in plan.selection]
        if any(numbers is None for numbers in found):
            return None
        known = [numbers for numbers in found if numbers is not None]
        waits = [0.0 if task.own else math.log2(steps_to(numbers, TARGET, steps(task, plan))) for numbers in known]
        losses = [end_loss(task, numbers) for numbers in known]
        scored.append((sum(waits) / len(waits), sorted(losses)[len(losses) // 2], rate))
    return min(scored)[2]


def steps_to(numbers: Numbers, target: float, cap: int) -> float:
    """Steps until the metric reaches `target`, by straight lines in between; twice the cap if it never does."""
    last_step, last = 0, -math.inf
    for step, value in zip(numbers["step"], numbers["metric"], strict=True):
        if value is not None and value >= target:
            share = (target - last) / (value - last) if math.isfinite(last) and value > last else 1.0
            return float(max(1.0, last_step + share * (step - last_step)))
        if value is not None:
            last_step, last = step, value
    return 2.0 * cap


def end_loss(task: Task, numbers: Numbers) -> float:
    """The loss that a run ends at: for a user's own network the median of the last quarter of its looks.

    One look would do where a run stops at its target; without a target it says as much of one mini-batch as of the run.
    """
    last = last_loss(numbers)
    looks = [math.inf if value is None else value for value in numbers["loss"][-max(1, len(numbers["loss"]) // 4) :]]
    return statistics.median(looks) if task.own and math.isfinite(last) else last


def last_loss(numbers: Numbers) -> float:
    """The last probe loss; infinite where the run diverged."""
    value = numbers["loss"][-1]
    return math.inf if value is None or not math.isfinite(value) else float(value)
