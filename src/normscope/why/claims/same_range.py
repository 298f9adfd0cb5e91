"""Batch norm puts every hidden unit into one range: the spread of ranges over units and layers, at equal loss."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from normscope.records import Effect, Figure, Regime, Series, Verdict
from normscope.why import decide, draw, matched
from normscope.why.arms import BATCH_NORM, PLAIN, Arm
from normscope.why.claim import Calibration, Claim, Plan, Task
from normscope.why.job import Job, Numbers, Results

if TYPE_CHECKING:
    from torch import nn

    from normscope.model.batch import Batch

KEY = "same-range"
SMALLEST = 0.1
_UNIT = "in log deviation"
_START = matched.START[0]
_LEVELS: tuple[matched.Level, ...] = (matched.START, ("mid-training", 0.3, 0.7), ("late", 0.1, 0.95))
_PAIR = (PLAIN, BATCH_NORM)


def applies(_task: Task) -> str:
    """It applies to every network."""
    return ""


def plan(task: Task, study: Plan, results: Results) -> list[Job]:
    """Each arm at its own best rate, measured before training and at two matched losses."""
    return matched.plan(task, study, results, KEY, _PAIR, _LEVELS)


def run(task: Task, job: Job) -> list[Numbers]:
    """Spread of ranges, and of gradient norms, at each level."""

    def measure(model: nn.Module, batch: Batch, _at: int) -> Numbers:
        return _measure(task, model, batch)

    return matched.run(task, job, measure)


def _measure(task: Task, model: nn.Module, batch: Batch) -> Numbers:
    from normscope.probes.order import order_of
    from normscope.probes.ranges import ranges, spread
    from normscope.probes.replay import gradient_of
    from normscope.why import bench

    forward, loss = matched.closures(task, model, batch)
    deviations = ranges(model, forward, bench.norm_sites(model))
    stages = order_of(model, forward).stages()[:-1]
    norms = {
        stage.name: gradient_of(model, loss, stage.weights)[1][0].norm().reshape(1) for stage in stages if stage.weights
    }
    middle = [float(values[values > 0].median()) if bool((values > 0).any()) else 0.0 for values in deviations.values()]
    return {
        "spread": matched.finite(spread(deviations)),
        "gradients": matched.finite(spread(norms)),
        "low": [float(values.quantile(0.1)) for values in deviations.values()],
        "median": middle,
        "high": [float(values.quantile(0.9)) for values in deviations.values()],
    }


def _both(task: Task, study: Plan, results: Results) -> list[list[Numbers]]:
    return [matched.found(task, study, results, KEY, arm, arm) for arm in _PAIR]


def _gaps(both: list[list[Numbers]], level: str, what: str) -> list[float]:
    """Plain minus batch norm, for each seed."""
    return [_number(a[level][what]) - _number(b[level][what]) for a, b in zip(*both, strict=True)]


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _mean(both: list[list[Numbers]], arm: int, level: str, what: str) -> float:
    return statistics.fmean(_number(numbers[level][what]) for numbers in both[arm])


def _effect(study: Plan, both: list[list[Numbers]], level: str, what: str) -> Effect:
    name = {"spread": "spread of ranges", "gradients": "spread of the layers' gradient norms"}[what]
    values = _gaps(both, level, what)
    return decide.effect(
        f"{name}, plain - batch norm, {level}", values, study.seeds, SMALLEST, decide.difference(_UNIT)
    )


def _regime(study: Plan, both: list[list[Numbers]], level: str) -> Regime:
    note = f"{_mean(both, 0, level, 'spread'):.3f} without, {_mean(both, 1, level, 'spread'):.3f} with batch norm"
    late = sum(matched.unreached(runs, level) for runs in both)
    if late:
        note += f"; {late} runs never came down to this loss and were measured at their last step"
    outcome = decide.outcome(_gaps(both, level, "spread"), SMALLEST)
    return Regime(level, outcome, _effect(study, both, level, "spread"), note)


def conclude(task: Task, study: Plan, results: Results) -> Verdict:
    """Supported where ranges spread less with batch norm at both losses; at the start it is so by construction."""
    both = _both(task, study, results)
    names = [name for name, _, _ in _LEVELS[1:]]
    regimes = [_regime(study, both, name) for name in names]
    gradients = [_effect(study, both, name, "gradients") for name in names]
    controls = tuple(effect for effect in gradients if all(map(math.isfinite, effect.per_seed)))
    start = [_mean(both, arm, _START, "spread") for arm in (0, 1)]
    effects = [regime.effect for regime in regimes if regime.effect]
    return CLAIM.verdict(
        outcome=decide.combine([regime.outcome for regime in regimes]),
        summary="; ".join(f"{regime.name}: {regime.note.split(';')[0]}" for regime in regimes)
        + f" (standard deviation of the log range over units and layers); difference {draw.phrase(effects[-1])}"
        + _about_gradients(both, names[-1], controls),
        effect=effects[-1],
        regimes=tuple(regimes),
        controls=controls,
        construction=(
            (
                f"Before training the spread is {start[1]:.3f} with batch norm, {start[0]:.3f} without:"
                " each normalized unit then has the same deviation. In training mode the range of a unit is |gamma| s /"
                " sqrt(s^2 + eps), so what lasts is how equal the learned gammas stay."
            ),
        ),
        meaning=_meaning(both, names[-1]),
        figures=(_levels_figure(both), _layers_figure(both, names[-1]), _differences(regimes, controls)),
    )


def _about_gradients(both: list[list[Numbers]], level: str, controls: tuple[Effect, ...]) -> str:
    if not controls:
        return ""
    plain, normed = (_mean(both, arm, level, "gradients") for arm in (0, 1))
    word = "does not extend" if controls[-1].estimate <= 0 else "extends"
    return f"; it {word} to gradient norms: their spread over layers is {plain:.2f} without, {normed:.2f} with"


def _meaning(both: list[list[Numbers]], level: str) -> str:
    plain, normed = (math.exp(_mean(both, arm, level, "spread")) for arm in (0, 1))
    return (
        f"At equal loss ({level}) a unit of this network typically lies within a factor of {normed:.2f} of the"
        f" common range with batch norm, and of {plain:.2f} without."
    )


def _differences(regimes: list[Regime], controls: tuple[Effect, ...]) -> Figure:
    rows = [(f"ranges, {regime.name}", regime.effect) for regime in regimes if regime.effect]
    rows += [(f"gradients, {regime.name}", effect) for regime, effect in zip(regimes, controls, strict=False)]
    return draw.seeds_figure(
        "How much more ranges spread without batch norm",
        "Spread without batch norm minus spread with it, for each seed, at two training losses; above 0 batch norm"
        " makes ranges more equal. Gradient norms, layer by layer, are shown beside and do not decide.",
        rows,
        "difference of spread (log deviation)",
    )


def _levels_figure(both: list[list[Numbers]]) -> Figure:
    series = []
    for arm, runs in zip(_PAIR, both, strict=True):
        points = [(name, numbers[name]["spread"]) for name, _, _ in _LEVELS for numbers in runs]
        series.append(
            Series(f"{arm.name}, one seed", "points", tuple(n for n, _ in points), tuple(v for _, v in points))
        )
    for arm, runs in zip(_PAIR, both, strict=True):
        ends = [decide.interval([_number(numbers[name]["spread"]) for numbers in runs]) for name, _, _ in _LEVELS]
        series.append(
            Series(
                f"{arm.name}, mean and 95 % interval",
                "interval",
                tuple(name for name, _, _ in _LEVELS),
                tuple(mean for mean, _, _ in ends),
                tuple(low for _, low, _ in ends),
                tuple(high for _, _, high in ends),
            )
        )
    return Figure(
        "How unequal the ranges of units are",
        "Standard deviation over all units and layers of the log deviation of the pre-activations, for each seed,"
        " before training and at two training losses that both arms reach. 0 means that all units have one range.",
        "",
        "spread of log deviation",
        tuple(series),
    )


def _layers_figure(both: list[list[Numbers]], level: str) -> Figure:
    series = []
    for arm, runs in zip(_PAIR, both, strict=True):
        rows = list(zip(*(runs_of(numbers[level]) for numbers in runs), strict=True))
        ends = [tuple(_middle(values) for values in zip(*row, strict=True)) for row in rows]
        series.append(
            Series(
                f"{arm.name}, median unit and middle 80 %",
                "interval",
                tuple(f"layer {at + 1}" for at in range(len(ends))),
                tuple(end[1] for end in ends),
                tuple(end[0] for end in ends),
                tuple(end[2] for end in ends),
            )
        )
    return Figure(
        f"Range of the units, layer by layer ({level})",
        "Deviation of the pre-activations: median unit and the range of the middle 80 % of the units of each layer,"
        " mean over seeds.",
        "",
        "deviation of a unit",
        tuple(series),
    )


def _middle(values: Sequence[float | None]) -> float | None:
    """Mean over the runs that did not diverge; None where all did."""
    return matched.mean([value for value in values if value is not None])


def runs_of(numbers: Numbers) -> list[tuple[float | None, float | None, float | None]]:
    """(low, median, high) of each layer in one run; None where it diverged."""
    return list(zip(numbers["low"], numbers["median"], numbers["high"], strict=True))


CLAIM = Claim(
    key=KEY,
    title="Batch norm puts hidden units into one range",
    sentence="As normalizing the inputs brings features of different ranges to one range, batch norm does so for the"
    " hidden units.",
    sources=("lecture", "ioffe2015"),
    arms="plain (batch norm taken out, gamma and beta kept) against batch norm, each at the learning rate that is"
    " best for it, chosen on other seeds; measured when the training loss first falls to the same two values",
    statistic="standard deviation, over all units and layers, of the log deviation of what leaves the norm layer on a"
    " fixed part of the training set, in training mode; plain minus batch norm, paired by seed",
    smallest="0.1: ranges that differ by 10 % less from unit to unit",
    refuted_by="an interval below 0, or one wholly between -0.1 and 0.1; losses that disagree leave it inconclusive",
    not_when="never: it is run on any network with batch norm. Before training it holds by construction and decides"
    " nothing",
    applies=applies,
    plan=plan,
    run=run,
    conclude=conclude,
    calibration=Calibration(
        control=Arm("plain, rows spread 0.5", norm="removed", spread=0.5),
        treated=BATCH_NORM,
        planted=(
            (1.0, Arm("plain, rows spread 0.3", norm="removed", spread=0.3)),
            (2.0, Arm("plain, rows spread 0", norm="removed")),
        ),
        network="mlp6",
    ),
)
