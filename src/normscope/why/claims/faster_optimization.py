"""Batch norm makes optimization faster: steps to a target, each arm at its own best learning rate."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import cast

from normscope.records import Effect, Figure, Regime, Series, Verdict
from normscope.why import decide, draw, rates
from normscope.why.arms import Arm
from normscope.why.claim import Calibration, Claim, Plan, Task
from normscope.why.job import Job, Numbers, Results

KEY = "faster-optimization"
SMALLEST = math.log(1.25)

_PAIRS = {
    "given": (Arm("plain", norm="removed"), Arm("batch norm")),
    "default": (
        Arm("plain, torch's init", norm="removed", init="default"),
        Arm("batch norm, torch's init", init="default"),
    ),
    "he": (Arm("plain, He init", norm="removed", init="he"), Arm("batch norm, He init", init="he")),
}
_RAW = Arm("plain, raw inputs", norm="removed", inputs="raw")
_SCALED = Arm("plain, standardized inputs", norm="removed", inputs="standardized")


def _regimes(task: Task) -> dict[str, tuple[Arm, Arm]]:
    """Regime in words -> (plain arm, batch-norm arm)."""
    if not task.own:
        return {"He's initialization": _PAIRS["given"], "torch's initialization": _PAIRS["default"]}
    own = {"its own initialization": _PAIRS["given"]}
    return own if task.spec is not None and task.spec.checkpoint else {**own, "He's initialization": _PAIRS["he"]}


def _inputs(task: Task) -> tuple[Arm, Arm]:
    """The pair that differs in its inputs alone: (as they are, standardized); no batch norm."""
    return (_PAIRS["given"][0], _SCALED) if task.own else (_RAW, _PAIRS["given"][0])


def _arms(task: Task) -> list[Arm]:
    pairs = [*_regimes(task).values(), _inputs(task)]
    return list(dict.fromkeys(arm for pair in pairs for arm in pair))


def applies(_task: Task) -> str:
    """It applies to every network."""
    return ""


def plan(task: Task, study: Plan, results: Results) -> list[Job]:
    """The grid on the selection seeds first; then each arm at its own rate on the seeds that confirm."""
    network = task.network("mlp6")
    jobs = rates.jobs(task, study, network, _arms(task))
    for arm in _arms(task):
        rate = rates.best(task, study, results, network, arm)
        if rate is None:
            continue
        members = [(seed, rate) for seed in study.seeds]
        groups = [tuple(members)] if network == "mlp6" else [(member,) for member in members]
        batch = task.batch if task.own else 64
        jobs += [Job(KEY, network, arm, group, rates.steps(task, study), batch) for group in groups]
    return jobs


def run(task: Task, job: Job) -> list[Numbers]:
    """Learning curves of every member."""
    return rates.run(task, job)


def _found(task: Task, study: Plan, results: Results, arm: Arm) -> list[Numbers]:
    network = task.network("mlp6")
    rate = rates.best(task, study, results, network, arm)
    assert rate is not None
    return [cast("Numbers", results.get(KEY, network, arm, seed, rate)) for seed in study.seeds]


def _target_loss(task: Task, study: Plan, results: Results, pair: tuple[Arm, Arm]) -> float:
    """For a user's own network: the loss nine tenths of the way down that the slower arm goes on the selection seeds.

    Half of the faster arm's way where the slower one goes less far or diverges; -inf where no arm learns anything.
    """
    starts, ends = [], []
    for arm in pair:
        rate = rates.best(task, study, results, "own", arm)
        assert rate is not None
        found = [results.get(rates.KEY, "own", arm, seed, rate) for seed in study.selection]
        known = [numbers for numbers in found if numbers]
        starts.append(statistics.median(math.inf if n["loss"][0] is None else n["loss"][0] for n in known))
        ends.append(statistics.median(rates.end_loss(task, numbers) for numbers in known))
    start, slow, fast = min(starts), max(ends), min(ends)
    if not (math.isfinite(start) and fast < start):
        return -math.inf
    return start - max(0.9 * (start - slow), 0.5 * (start - fast))


def _waits(task: Task, study: Plan, results: Results, pair: tuple[Arm, Arm]) -> tuple[list[float], list[float], str]:
    """(steps of the first arm, steps of the second, the target in words), a number for each seed."""
    cap = rates.steps(task, study)
    found = [_found(task, study, results, arm) for arm in pair]
    if task.own:
        target = -_target_loss(task, study, results, pair)
        words = f"a training loss of {-target:.3g}" if math.isfinite(target) else "a loss that no arm reaches"
        found = [[{**n, "metric": [None if v is None else -v for v in n["loss"]]} for n in arm] for arm in found]
    else:
        target, words = rates.TARGET, "90 % held-out accuracy"
    first, second = ([rates.steps_to(numbers, target, cap) for numbers in arm] for arm in found)
    return first, second, words


def _speedup(task: Task, study: Plan, results: Results, pair: tuple[Arm, Arm]) -> tuple[Effect, list[float]]:
    slow, fast, words = _waits(task, study, results, pair)
    values = [math.log(a / b) for a, b in zip(slow, fast, strict=True)]
    name = f"{pair[0].name} / {pair[1].name}, steps to {words}"
    return decide.effect(name, values, study.seeds, SMALLEST, decide.RATIO), values


def conclude(task: Task, study: Plan, results: Results) -> Verdict:
    """Supported where the interval's lower end reaches 1.25x under every initialization."""
    network, cap = task.network("mlp6"), rates.steps(task, study)
    regimes, figures = [], []
    for name, pair in _regimes(task).items():
        effect, values = _speedup(task, study, results, pair)
        chosen = [rates.best(task, study, results, network, arm) for arm in pair]
        slow, fast, _ = _waits(task, study, results, pair)
        censored = sum(wait >= 2 * cap for wait in slow)
        neither = sum(min(waits) >= 2 * cap for waits in zip(slow, fast, strict=True))
        note = f"rates {chosen[0]:g} (plain) and {chosen[1]:g} (batch norm)"
        if censored:
            note += f"; {censored} of {len(values)} plain runs never got there and count as {2 * cap} steps"
        found = decide.outcome(values, SMALLEST, bound=True)
        if 2 * neither >= len(values):
            found, note = "inconclusive", f"{note}; in {neither} of {len(values)} seeds neither arm got there"
        regimes.append(Regime(name, found, effect, note))
        figures.append(_curves(task, study, results, pair, name))
    inputs, _ = _speedup(task, study, results, _inputs(task))
    rows = [(regime.name, regime.effect) for regime in regimes if regime.effect] + [("inputs alone", inputs)]
    dots = draw.seeds_figure(
        "How many times fewer steps",
        "Ratio of steps to the target for each seed, by initialization; above 1 the second arm is faster. 'inputs"
        " alone' compares raw with standardized inputs, without batch norm.",
        rows,
        "steps without / steps with (x)",
    )
    return CLAIM.verdict(
        outcome=decide.combine([regime.outcome for regime in regimes]),
        summary="; ".join(f"{regime.name}: {draw.phrase(regime.effect)}" for regime in regimes if regime.effect)
        + f" fewer steps; standardizing the inputs alone: {draw.phrase(inputs)}",
        effect=regimes[0].effect,
        regimes=tuple(regimes),
        controls=(inputs,),
        meaning=_meaning(regimes),
        figures=(dots, *figures),
    )


def _meaning(regimes: Sequence[Regime]) -> str:
    ratios = [regime.effect.estimate for regime in regimes if regime.effect]
    share = f"{1 / max(ratios):.0%} to {1 / min(ratios):.0%}" if len(ratios) > 1 else f"{1 / ratios[0]:.0%}"
    text = f"With batch norm this network reaches its target in {share} of the steps that it takes without"
    if len(ratios) > 1 and max(ratios) > 2 * min(ratios):
        text += "; how much of that is batch norm, and how much a cure for a poor initialization, the two regimes show"
    return text + "."


def _curves(task: Task, study: Plan, results: Results, pair: tuple[Arm, Arm], regime: str) -> Figure:
    series = []
    for arm in pair:
        found = _found(task, study, results, arm)
        grid = max((numbers["step"] for numbers in found), key=len)
        middle = []
        for at in range(len(grid)):
            values = [n["loss"][min(at, len(n["loss"]) - 1)] for n in found]
            finite = [value for value in values if value is not None]
            middle.append(statistics.median(finite) if finite else None)
        series.append(Series(arm.name, "line", tuple(float(step) for step in grid), tuple(middle)))
    return Figure(
        f"Training loss, {regime}",
        "Median loss over seeds on a fixed part of the training set against the step, each arm at the rate chosen for"
        " it; a run ends when it has reached the target.",
        "step",
        "loss",
        tuple(series),
        y_log=True,
    )


CLAIM = Claim(
    key=KEY,
    title="Batch norm speeds optimization up",
    sentence="Normalizing the hidden units like the inputs puts their values in one range and speeds up learning.",
    sources=("lecture", "ioffe2015", "bjorck2018"),
    arms="plain (batch norm taken out, gamma and beta kept) against batch norm, under two initializations; standardized"
    " against raw inputs, without batch norm, as an arm of its own. Each arm trains at the learning rate that is best"
    " for it, chosen from half-decades on other seeds.",
    statistic="log ratio of the steps to the target, paired by seed; runs that never get there count as twice the cap",
    smallest="1.25 times fewer steps, at the interval's lower end",
    refuted_by="an interval below 1, or one wholly between 1/1.25 and 1.25",
    not_when="never: it is run on any network with batch norm",
    applies=applies,
    plan=plan,
    run=run,
    conclude=conclude,
    calibration=Calibration(
        control=_PAIRS["given"][0],
        treated=_PAIRS["given"][1],
        planted=(
            (1.0, Arm("1.25 updates a step", norm="removed", updates=1.25)),
            (2.0, Arm("1.56 updates a step", norm="removed", updates=1.5625)),
        ),
        network="mlp6",
        also=(_PAIRS["default"][1].name,),
    ),
)
