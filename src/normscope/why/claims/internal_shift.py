"""Batch norm reduces internal covariate shift: what later layers see moves less while the earlier ones learn."""

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
    from torch import Tensor, nn

    from normscope.model.batch import Batch
    from normscope.moments import Moments

KEY = "internal-shift"
SMALLEST = math.log(1.25)
SMALLEST_COSINE = 0.01
# Examples whose representations are followed from step to step.
_FOLLOWED = 128
_LEVELS: tuple[matched.Level, ...] = (
    ("early", 1.5, 0.35),
    ("falling", 1.0, 0.55),
    ("low", 0.6, 0.75),
    ("mid-training", 0.3, 0.9),
)
_END = _LEVELS[-1][0]
_PAIR = (PLAIN, BATCH_NORM)
# Regime -> whose best rate batch norm trains at.
_RATES = {"at one rate": PLAIN, "each at its own rate": BATCH_NORM}
_MEASURES = {
    "path": "distance that representations travel",
    "gradient": "relative change of gradients",
    "cosine": "cosine of gradients",
}


def applies(task: Task) -> str:
    """It needs a layer with another below it."""
    return "" if task.layers > 1 else "with one batch-norm layer no normalized layer feeds another"


def plan(task: Task, study: Plan, results: Results) -> list[Job]:
    """Each arm at its own best rate, batch norm at the plain arm's rate too."""
    return matched.plan(task, study, results, KEY, _PAIR, _LEVELS, common=True, weight=3.0)


class _Path:
    """How far one network's layer inputs have travelled, summed over the steps so far.

    Attributes:
        examples: Mean over layers of the sum of each step's change per example, in deviations.
        moments: The same of the input means.
    """

    def __init__(self) -> None:
        self.examples = self.moments = 0.0
        self._last: dict[str, tuple[Tensor, Moments]] = {}
        self._sites: list[tuple[str, nn.Module]] = []

    def follow(self, model: nn.Module, batch: Batch) -> None:
        """Add the change since the last call; the first call sets out."""
        import torch

        from normscope.moments import Moments
        from normscope.probes.coupling import compare, inputs_of
        from normscope.probes.order import order_of

        here = batch.to(next(model.parameters()).device)

        def run() -> Tensor:
            return here(model)

        if not self._sites:
            self._sites = [(stage.name, stage.module) for stage in order_of(model, run).stages()[1:]]
        _, inputs = inputs_of(model, lambda: run().sum(), self._sites)
        now = {name: (x, Moments.of(x)) for name, x in inputs.items()}
        pairs = [(self._last[name], now[name]) for name in now if name in self._last]
        moves = [compare(x, y, moments=(before, after)) for (x, before), (y, after) in pairs]
        self.examples += matched.mean([move.representation for move in moves]) or 0.0
        self.moments += matched.mean([move.distance for move in moves]) or 0.0
        self._last = now if all(bool(torch.isfinite(x).all()) for x in inputs.values()) else self._last


def run(task: Task, job: Job) -> list[Numbers]:
    """The path up to each level, and the gradient shift there."""
    import torch

    job = matched.paced(job)
    paths = [_Path() for _ in job.members]

    def along(model: nn.Module, batch: Batch, at: int) -> None:
        from normscope.model.batch import Examples

        paths[at].follow(model, Examples(batch).take(torch.arange(min(_FOLLOWED, len(batch)))))

    def measure(model: nn.Module, batch: Batch, at: int) -> Numbers:
        return {"path": paths[at].examples, "moments": paths[at].moments} | _shift(task, model, batch, job.rates[at])

    return matched.run(task, job, measure, every=max(1, job.steps // 80) if task.own else 1, along=along)


def _shift(task: Task, model: nn.Module, batch: Batch, rate: float) -> Numbers:
    """Gradient shift under one gradient step at the run's rate: geometric mean and mean cosine over the layers."""
    from normscope.probes.santurkar import gradient_shift

    _, loss = matched.closures(task, model, batch)
    shifts = gradient_shift(model, loss, float(rate)).values()
    logs = [math.log(shift.relative) for shift in shifts if shift.relative > 0]
    middle = matched.mean(logs)
    return {
        "gradient": None if middle is None else math.exp(middle),
        "cosine": matched.mean([shift.cosine for shift in shifts]),
    }


def _values(task: Task, study: Plan, results: Results, at: str, what: str) -> list[float]:
    """Of each seed, positive where batch norm shifts less: log(plain / batch norm), or the difference of cosines."""
    plain = matched.found(task, study, results, KEY, PLAIN, PLAIN)
    normed = matched.found(task, study, results, KEY, BATCH_NORM, _RATES[at])
    if what in ("path", "moments"):
        return matched.log_ratios(*([numbers[_END][what] for numbers in runs] for runs in (plain, normed)))
    first, second = ([_over_levels(numbers, what) for numbers in runs] for runs in (plain, normed))
    if what == "gradient":
        return matched.log_ratios(first, second)
    return [math.nan if a is None or b is None else b - a for a, b in zip(first, second, strict=True)]


def _over_levels(numbers: Numbers, what: str) -> float | None:
    """Mean over the matched losses: geometric for the relative change, plain for the cosine."""
    values = [numbers[name][what] for name, _, _ in _LEVELS]
    if any(value is None or (what == "gradient" and value <= 0) for value in values):
        return None
    return statistics.fmean(values) if what == "cosine" else statistics.geometric_mean(values)


def _effect(task: Task, study: Plan, results: Results, at: str, what: str) -> Effect:
    values = _values(task, study, results, at, what)
    if what == "cosine":
        name = f"cosine of gradients before and after the layers below step, batch norm - plain, {at}"
        return decide.effect(name, values, study.seeds, SMALLEST_COSINE, decide.difference("of the cosine"))
    words = _MEASURES.get(what, "distance that input means travel")
    return matched.shrinking(f"{words}, batch norm / plain, {at}", values, study.seeds, SMALLEST)


def _regime(task: Task, study: Plan, results: Results, at: str, what: str) -> Regime:
    smallest = SMALLEST_COSINE if what == "cosine" else SMALLEST
    outcome = decide.outcome(_values(task, study, results, at, what), smallest)
    effect = _effect(task, study, results, at, what)
    return Regime(
        f"{_MEASURES[what]}, {at}", outcome, effect, matched.note(task, study, results, KEY, _END, _RATES[at])
    )


def conclude(task: Task, study: Plan, results: Results) -> Verdict:
    """Supported where every measure says so, at one rate and at each arm's own."""
    regimes = [_regime(task, study, results, at, what) for at in _RATES for what in _MEASURES]
    moments = [_effect(task, study, results, at, "moments") for at in _RATES]
    paths = [regimes[0].effect, regimes[3].effect]
    return CLAIM.verdict(
        outcome=decide.combine([regime.outcome for regime in regimes]),
        summary="batch norm / plain, down to the same loss: " + "; ".join(map(_words, regimes)),
        effect=paths[1],
        regimes=tuple(regimes),
        construction=tuple(
            f"The means of the layers' inputs travel {draw.phrase(effect)} as far with batch norm, {at}: it pins"
            " the moments that it normalizes, so this holds by construction."
            for at, effect in zip(_RATES, moments, strict=True)
        ),
        meaning=_meaning(regimes),
        figures=(_ratios(regimes), _cosines(regimes), _by_level(task, study, results)),
    )


def _words(regime: Regime) -> str:
    return f"{regime.name} {draw.phrase(regime.effect)}" if regime.effect else regime.name


def _meaning(regimes: list[Regime]) -> str:
    one, own = (regime.effect.estimate for regime in (regimes[0], regimes[3]) if regime.effect)
    text = (
        f"On the way to the same loss, what each example looks like to the later layers of this network travels"
        f" {matched.times(one)} with batch norm at one learning rate, and {matched.times(own)} at the rate that is"
        " best for it"
    )
    if one < 1 <= own:
        text += ": batch norm does not keep the layers' inputs still, it makes larger steps affordable"
    return text + "."


def _ratios(regimes: list[Regime]) -> Figure:
    rows = [(regime.name, regime.effect) for regime in regimes if regime.effect and regime.effect.unit == "x"]
    return draw.seeds_figure(
        "How much later layers' inputs and gradients shift, batch norm / plain",
        "Ratio of each seed: the distance that representations travel up to the same training loss, and the"
        " relative change of a layer's gradient when the layers below take their step (mean over four matched"
        " losses). Below 1 batch norm shifts less.",
        rows,
        "batch norm / plain (x)",
    )


def _cosines(regimes: list[Regime]) -> Figure:
    return draw.seeds_figure(
        "How much better gradients keep their direction with batch norm",
        "Cosine between a layer's gradient before and after the layers below take their step, batch norm minus"
        " plain, for each seed; above 0 gradients turn less with batch norm.",
        [(regime.name, regime.effect) for regime in regimes if regime.effect and regime.effect.unit != "x"],
        "difference of the cosine",
    )


def _by_level(task: Task, study: Plan, results: Results) -> Figure:
    series = []
    for name, arm, rate_of in (
        ("plain", PLAIN, PLAIN),
        ("batch norm, plain's rate", BATCH_NORM, PLAIN),
        ("batch norm, its own rate", BATCH_NORM, BATCH_NORM),
    ):
        runs = matched.found(task, study, results, KEY, arm, rate_of)
        heights = []
        for level, _, _ in _LEVELS:
            known = [numbers[level]["gradient"] for numbers in runs if numbers[level]["gradient"] is not None]
            heights.append(statistics.median(known) if known else None)
        series.append(Series(name, "line", tuple(level for level, _, _ in _LEVELS), tuple(heights)))
    return Figure(
        "Gradient shift on the way down",
        "Relative change of a layer's gradient when the layers below take one gradient step at the run's rate,"
        " geometric mean over layers and median over seeds, at four training losses that all arms pass.",
        "training loss, falling",
        "||g - g'|| / ||g||",
        tuple(series),
        y_log=True,
    )


CLAIM = Claim(
    key=KEY,
    title="Batch norm reduces internal covariate shift",
    sentence="Batch norm limits how much updates of the earlier layers shift the values that the later layers see"
    " and learn on.",
    sources=("lecture", "ioffe2015", "santurkar2018"),
    arms="plain (batch norm taken out, gamma and beta kept) against batch norm, at one rate (the plain arm's best)"
    " and each at the rate that is best for it, chosen on other seeds; compared at equal training loss",
    statistic="summed over the steps down to the same loss, the root mean square change per example of every"
    " layer's input, in its deviations, mean over layers (log ratio); at four matched losses, the relative change"
    " and the cosine of each layer's gradient when the layers below take one gradient step at the run's rate, as"
    " Santurkar et al. define them; paired by seed",
    smallest="a ratio of 0.8, batch norm / plain; .01 of the cosine",
    refuted_by="intervals on the other side, or wholly inside the smallest effects, for every measure at both"
    " rates; measures or rates that disagree leave it inconclusive",
    not_when="with a single batch-norm layer; that the moments of layer inputs move less holds by construction and"
    " decides nothing",
    applies=applies,
    plan=plan,
    run=run,
    conclude=conclude,
    calibration=Calibration(
        control=PLAIN,
        treated=BATCH_NORM,
        planted=(
            (1.0, Arm("plain, 0.65 of the rate", norm="removed", pace=0.65)),
            (2.0, Arm("plain, 0.33 of the rate", norm="removed", pace=0.33)),
        ),
        network="mlp6",
    ),
)
