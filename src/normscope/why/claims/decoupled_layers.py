"""Batch norm decouples layers: how much a change of the layers below a layer moves what it sees, and the loss."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

from normscope.records import Effect, Figure, Regime, Series, Verdict
from normscope.why import decide, draw, matched
from normscope.why.arms import BATCH_NORM, PLAIN, Arm
from normscope.why.claim import Calibration, Claim, Plan, Task
from normscope.why.job import Job, Numbers, Results

if TYPE_CHECKING:
    from torch import nn

    from normscope.model.batch import Batch

KEY = "decoupled-layers"
SMALLEST = -math.log(0.8)
NOISE = 0.03
_DRAWS = 3
# Each stage is measured at two matched losses, because one crossing of one run is noisy.
_STAGES: dict[str, tuple[matched.Level, ...]] = {
    "early": (("early 1", 1.6, 0.3), ("early 2", 1.3, 0.4)),
    "mid-training": (("mid 1", 0.4, 0.85), ("mid 2", 0.25, 0.92)),
}
_PAIR = (PLAIN, BATCH_NORM)
# Regime -> (stage, what moved the layers below, whose best rate batch norm trains at).
_REGIMES: dict[str, tuple[str, str, Arm]] = {
    "noise in the weights below, early": ("early", "noise", BATCH_NORM),
    "noise in the weights below, mid-training": ("mid-training", "noise", BATCH_NORM),
    "a step of the layers below, early": ("early", "step", BATCH_NORM),
    "a step of the layers below, mid-training": ("mid-training", "step", BATCH_NORM),
    "a step at one rate, mid-training": ("mid-training", "step", PLAIN),
}


def applies(task: Task) -> str:
    """It needs a layer with another below it."""
    return "" if task.layers > 1 else "with one batch-norm layer there are no layers below another to decouple it from"


def plan(task: Task, study: Plan, results: Results) -> list[Job]:
    """Each arm at its own best rate, batch norm at the plain arm's rate too."""
    each = 1 if study.effort == "quick" else 2
    levels = [level for stage in _STAGES.values() for level in stage[:each]]
    return matched.plan(task, study, results, KEY, _PAIR, levels, common=True)


def run(task: Task, job: Job) -> list[Numbers]:
    """Coupling by noise and by a step at each level."""
    job = matched.paced(job)

    def measure(model: nn.Module, batch: Batch, at: int) -> Numbers:
        return _measure(task, model, batch, job.members[at])

    return matched.run(task, job, measure)


def _measure(task: Task, model: nn.Module, batch: Batch, member: tuple[int, float]) -> Numbers:

    from normscope.probes.coupling import Coupling, coupling_of_noise, coupling_of_step

    seed, rate = member
    _, loss = matched.closures(task, model, batch)
    draws = [coupling_of_noise(model, loss, NOISE, seed=_DRAWS * seed + draw) for draw in range(_DRAWS)]
    step = coupling_of_step(model, loss, float(rate))

    def numbers(found: list[dict[str, Coupling]]) -> Numbers:
        items = [item for layers in found for item in layers.values()]
        return {
            "loss": matched.mean([abs(item.loss) for item in items]),
            "moments": matched.mean([item.distance for item in items]),
            "representation": matched.mean([item.representation for item in items]),
            "by_layer": [matched.mean([abs(layers[name].loss) for layers in found]) for name in found[0]],
        }

    return {"noise": numbers(draws), "step": numbers([step])}


def _values(task: Task, study: Plan, results: Results, regime: str, what: str) -> list[float]:
    """log(plain / batch norm) of each seed: positive where batch norm shrinks it."""
    stage, moved_by, rate_of = _REGIMES[regime]
    plain = matched.found(task, study, results, KEY, PLAIN, PLAIN)
    normed = matched.found(task, study, results, KEY, BATCH_NORM, rate_of)
    return matched.log_ratios(*([_over(n, stage, moved_by, what) for n in runs] for runs in (plain, normed)))


def _over(numbers: Numbers, stage: str, moved_by: str, what: str) -> float | None:
    """Geometric mean over the matched losses of a stage."""
    values = [numbers[name][moved_by][what] for name, _, _ in _STAGES[stage] if name in numbers]
    if any(value is None or value <= 0 for value in values):
        return None
    return statistics.geometric_mean(values)


def _effect(task: Task, study: Plan, results: Results, regime: str, what: str, words: str) -> Effect:
    name = f"{words}, batch norm / plain, {regime}"
    return matched.shrinking(name, _values(task, study, results, regime, what), study.seeds, SMALLEST)


def conclude(task: Task, study: Plan, results: Results) -> Verdict:
    """Supported where noise and a real step below move the loss less with batch norm, early and in mid-training."""
    regimes = []
    for name, (stage, _, rate_of) in _REGIMES.items():
        effect = _effect(task, study, results, name, "loss", "change of the loss")
        outcome = decide.outcome(_values(task, study, results, name, "loss"), SMALLEST)
        regimes.append(
            Regime(name, outcome, effect, matched.note(task, study, results, KEY, _STAGES[stage][0][0], rate_of))
        )
    noisy = "noise in the weights below, mid-training"
    moments = _effect(task, study, results, noisy, "moments", "move of the input means")
    change = _effect(task, study, results, noisy, "representation", "change of each example's representation")
    effects = [regime.effect for regime in regimes if regime.effect]
    return CLAIM.verdict(
        outcome=decide.combine([regime.outcome for regime in regimes]),
        summary="change of the loss, batch norm / plain: "
        + "; ".join(f"{regime.name} {draw.phrase(regime.effect)}" for regime in regimes if regime.effect),
        effect=effects[1],
        regimes=tuple(regimes),
        controls=(change,),
        construction=(
            (
                f"The means that a layer is given move {draw.phrase(moments)} as far under {NOISE:.0%} weight noise"
                " below, batch norm / plain: it normalizes them, so this holds by construction. That the output"
                " does not depend on the scale of a weight matrix before batch norm is algebra too, and no evidence."
            ),
        ),
        meaning=_meaning(regimes),
        figures=(_ratios(regimes), _layers(task, study, results)),
    )


def _meaning(regimes: list[Regime]) -> str:
    ratios = {regime.name: regime.effect.estimate for regime in regimes if regime.effect}
    noise, step = (ratios[f"{what} below, mid-training"] for what in ("noise in the weights", "a step of the layers"))
    text = (
        f"In mid-training the same relative change of the earlier weights disturbs the loss of this network"
        f" {matched.times(noise)} with batch norm as without; the steps that training really takes disturb it"
        f" {matched.times(step)}"
    )
    if noise < 1 <= step:
        text += ": what batch norm gains in robustness, its larger learning rate spends again"
    return text + "."


def _ratios(regimes: list[Regime]) -> Figure:
    return draw.seeds_figure(
        "How much a change below moves the loss, batch norm / plain",
        "Mean over layers of the absolute change of the loss when the layers below a layer, and they alone, are moved;"
        " the ratio of each seed, at matched training losses. Below 1 batch norm shields the later layers.",
        [(regime.name, regime.effect) for regime in regimes if regime.effect],
        "change of the loss, batch norm / plain (x)",
    )


def _layers(task: Task, study: Plan, results: Results) -> Figure:
    series = []
    for arm in _PAIR:
        runs = matched.found(task, study, results, KEY, arm, arm)
        rows = list(zip(*(numbers["mid 1"]["noise"]["by_layer"] for numbers in runs), strict=False))
        heights = tuple(_middle(row) for row in rows)
        series.append(Series(arm.name, "line", tuple(float(at + 2) for at in range(len(rows))), heights))
    return Figure(
        "Where the loss is sensitive to what lies below",
        f"Absolute change of the loss under {NOISE:.0%} relative noise in all weights below a layer, against the layer;"
        " median over seeds, in mid-training.",
        "layer, counted from the input",
        "change of the loss",
        tuple(series),
        y_log=True,
    )


def _middle(values: tuple[float | None, ...]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


CLAIM = Claim(
    key=KEY,
    title="Batch norm decouples the layers",
    sentence="Batch norm weakens the coupling between what the earlier layers' parameters do and what the later"
    " layers have to do, so that each layer can learn more independently of the others.",
    sources=("lecture", "ioffe2015", "santurkar2018"),
    arms="plain (batch norm taken out, gamma and beta kept) against batch norm, each at the learning rate that is"
    " best for it, chosen on other seeds, and batch norm at the plain arm's rate too; measured when the training"
    " loss first falls to the same value, early and in mid-training",
    statistic="|change of the loss| on a fixed part of the training set when the layers below a layer, and they"
    " alone, get 3 % relative Gaussian weight noise, or take one gradient step at the run's rate; mean over layers,"
    " log ratio paired by seed",
    smallest="a ratio of 0.8, batch norm / plain",
    refuted_by="an interval above 1, or one wholly between 0.8 and 1.25; regimes that disagree leave it inconclusive",
    not_when="with a single batch-norm layer; that the input moments move less holds by construction and decides"
    " nothing",
    applies=applies,
    plan=plan,
    run=run,
    conclude=conclude,
    calibration=Calibration(
        control=PLAIN,
        treated=BATCH_NORM,
        planted=(
            (1.0, Arm("plain, 1 layer frozen, 0.85 of the rate", norm="removed", frozen=1, pace=0.85)),
            (2.0, Arm("plain, 3 layers frozen, 0.7 of the rate", norm="removed", frozen=3, pace=0.7)),
        ),
        network="mlp6",
    ),
)
