"""A mini-batch's statistics are noisy, and the noisier the smaller it is: as one over the root of its size."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from normscope.records import Effect, Figure, Mark, Outcome, Regime, Series, Verdict
from normscope.why import decide, draw, noise
from normscope.why.arms import BATCH_NORM, Arm
from normscope.why.claim import Calibration, Claim, Plan, Task
from normscope.why.job import Job, Numbers, Results

KEY = noise.KEY
THEORY, MARGIN = -0.5, 0.03
_NEAR = math.log(1.05)
# Number of the probe -> (its name, the power of it that is a standard deviation).
_PARTS = {"mean": ("batch mean", 1.0), "power": ("normalized value", 0.5), "deviation": ("batch deviation", 1.0)}
_DECIDING = ("mean", "power")


def applies(_task: Task) -> str:
    """It applies to every network with batch norm."""
    return ""


def plan(task: Task, study: Plan, results: Results) -> list[Job]:
    """Networks with batch norm, trained for a short while, and their noise."""
    return noise.jobs(task, study, results)


def run(task: Task, job: Job) -> list[Numbers]:
    """The noise of every member's layers."""
    return noise.run(task, job)


def _slope(numbers: Numbers, part: str) -> float:
    """Log-log slope of the noise's standard deviation against batch size, mean over layers.

    Fitted to measured / theory, whose slope is that of the noise plus a half: both leave out, at each size, channels
    that may not vary at all within a batch.
    """
    slopes = []
    for sizes, measured, theory in noise.over_layers(numbers, (part, f"{part}_theory")):
        x = [math.log(size) for size in sizes]
        y = [_PARTS[part][1] * math.log(a / b) for a, b in zip(measured, theory, strict=True)]
        centre = noise.mean(x)
        spread = math.fsum((at - centre) ** 2 for at in x)
        slopes.append(THEORY + math.fsum((at - centre) * value for at, value in zip(x, y, strict=True)) / spread)
    return noise.mean(slopes)


def _ratio(numbers: Numbers, part: str) -> float:
    """Log of measured over theory, as standard deviations, mean over sizes and layers."""
    rows = noise.over_layers(numbers, (part, f"{part}_theory"))
    logs = [noise.mean([math.log(a / b) for a, b in zip(*row[1:], strict=True)]) for row in rows]
    return _PARTS[part][1] * noise.mean(logs)


def _slope_effect(name: str, slopes: Sequence[float], seeds: Sequence[int]) -> tuple[Outcome, Effect]:
    gaps = [slope - THEORY for slope in slopes]
    effect = decide.effect(name, gaps, seeds, MARGIN, decide.difference("log-log slope"))
    moved = dataclasses.replace(
        effect,
        estimate=effect.estimate + THEORY,
        low=effect.low + THEORY,
        high=effect.high + THEORY,
        smallest=effect.smallest + THEORY,
        null=THEORY,
        per_seed=tuple(value + THEORY for value in effect.per_seed),
    )
    return decide.equivalence(gaps, MARGIN), moved


def conclude(task: Task, study: Plan, results: Results) -> Verdict:
    """Supported where the slopes of batch mean and normalized value are -1/2 within the margin, in every network."""
    regimes: list[Regime] = []
    controls: list[Effect] = []
    outcomes: list[Outcome] = []
    for network, words in noise.networks(task).items():
        members = noise.found(task, study, results, network)
        start = len(regimes)
        for part, (what, _) in _PARTS.items():
            name = f"{words}, {what}"
            outcome, effect = _slope_effect(name, [_slope(each, part) for each in members], study.seeds)
            ratios = [_ratio(each, part) for each in members]
            controls.append(decide.effect(f"{name}: measured / theory", ratios, study.seeds, _NEAR, decide.RATIO))
            if part in _DECIDING:
                note = "algebra for independent draws: it checks the measurement" if part == "mean" else ""
                regimes.append(Regime(name, outcome, effect, note))
            else:
                controls.append(effect)
        outcomes.append(decide.conjunction([regime.outcome for regime in regimes[start:]]))
    effects = [each.effect for each in regimes if each.effect]
    words_of = noise.networks(task).values()
    return CLAIM.verdict(
        outcome=decide.combine(outcomes),
        summary="noise falls as the batch size to the power "
        + " and ".join(f"{_short(effect)} ({words})" for words, effect in zip(words_of, effects[1::2], strict=True))
        + f"; theory says {THEORY}",
        effect=max(effects, key=lambda effect: abs(effect.estimate - THEORY)),
        regimes=tuple(regimes),
        controls=tuple(controls),
        construction=(
            (
                "For batches of independent draws Var(batch mean) = (variance between examples) / B is algebra, in any"
                " network."
            ),
            (
                "The deviation follows -1/2 to first order only: an example far out counts less through the root, so"
                " that with heavy tails small batches are less noisy than that."
            ),
        ),
        meaning=_meaning(task, study, results),
        figures=(_slopes(effects), *_by_size(task, study, results), *_effective(task, study, results)),
    )


def _short(effect: Effect) -> str:
    return f"{effect.estimate:.3f} [{effect.low:.3f}, {effect.high:.3f}]"


def _meaning(task: Task, study: Plan, results: Results) -> str:
    parts = []
    batch = max(2, task.batch) if task.own else noise.FIRST_ORDER
    for network, words in noise.networks(task).items():
        members = noise.found(task, study, results, network)
        layers = noise.by_layer(members, "mean", batch)
        if not layers:
            continue
        counts = noise.by_layer(members, "effective", batch)
        high, low = max(layers.values()), min(layers.values())
        text = f"at {batch} examples a batch mean wanders by {low:.1%} to {high:.1%} of a unit's deviation ({words})"
        if _positions(members):
            first, last = next(iter(counts)), list(counts)[-1]
            text += (
                f": such a batch is worth {draw.number(counts[first])} independent values in"
                f" {first or 'the first layer'} and {draw.number(counts[last])} in {last or 'the last'}"
            )
        parts.append(text)
    text = "; ".join(parts) + ". Halving the batch makes this noise 1.4 times as large." if parts else ""
    return text[:1].upper() + text[1:]


def _positions(members: Sequence[Numbers]) -> bool:
    return any(layer["positions"] > 1 for layer in members[0]["layers"])


def _slopes(effects: Sequence[Effect]) -> Figure:
    figure = draw.seeds_figure(
        "How fast the noise falls with the batch",
        "Log-log slope of the noise's standard deviation against the batch size, mean over layers, one point for"
        f" each seed; theory says {THEORY}, and the margin is {MARGIN} to either side.",
        [(effect.name, effect) for effect in effects],
        "log-log slope",
    )
    marks = (Mark("y", THEORY, "theory"), Mark("y", THEORY - MARGIN, "margin"), Mark("y", THEORY + MARGIN, "margin"))
    return dataclasses.replace(figure, marks=marks)


def _by_size(task: Task, study: Plan, results: Results) -> list[Figure]:
    figures = []
    for network, words in noise.networks(task).items():
        members = noise.found(task, study, results, network)
        rows = []
        for part, (name, power) in _PARTS.items():
            for key, theory in ((part, False), (f"{part}_theory", True)):
                points = {size: value**power for size, value in noise.by_size(members, key).items()}
                rows.append((f"{name}, theory" if theory else name, theory, points))
        figures.append(
            noise.size_figure(
                f"Noise of the batch statistics, {words}",
                "Standard deviation of the batch mean and the batch deviation, in deviations of the unit, and root"
                " mean square error of the normalized value, against the examples in a batch; geometric mean over"
                " layers and seeds. Dashed: theory to first order, whole examples being the draws.",
                "noise (deviations of the unit)",
                rows,
            )
        )
    return figures


def _effective(task: Task, study: Plan, results: Results) -> list[Figure]:
    """For networks with positions: how many independent values an example is worth, beside its positions."""
    figures = []
    for network, words in noise.networks(task).items():
        members = noise.found(task, study, results, network)
        if not _positions(members):
            continue
        counts = {
            name: value / noise.FIRST_ORDER
            for name, value in noise.by_layer(members, "effective", noise.FIRST_ORDER).items()
        }
        places = {layer["name"]: float(layer["positions"]) for layer in members[0]["layers"]}
        names = tuple(counts)
        figures.append(
            Figure(
                f"What one image is worth, {words}",
                "Effective independent values of one image, sigma^2 / (B Var(batch mean)), beside its positions H x W"
                " at each batch-norm layer. Above its positions, the values of an image offset each other; far below,"
                " they say the same.",
                "layer",
                "values",
                (
                    Series("effective values of one image", "bars", names, tuple(counts.values())),
                    Series("positions of one image", "bars", names, tuple(places[name] for name in names)),
                ),
                y_log=True,
            )
        )
    return figures


CLAIM = Claim(
    key=KEY,
    title="Mini-batch statistics are noisy",
    sentence="The mean and variance are computed on just one mini-batch, so they carry noise, and the more the"
    " smaller it is.",
    sources=("lecture", "ioffe2015", "shekhovtsov2018"),
    arms=f"one: networks with batch norm, trained for a short while. {noise.DRAWS} batches of each of 8 to 256"
    f" examples ({noise.OWN_DRAWS} in a user's network) are drawn with replacement; the layers below the one that is"
    " measured use the statistics of the whole pool. In convolutions a whole image is one draw.",
    statistic="log-log slope, against the batch size, of the standard deviation of the batch mean and of the root"
    " mean square error that batch statistics make in the normalized value; mean over layers",
    smallest=f"the slope is -1/2 within {MARGIN}: between 8 and 256 examples that is 11 % of the noise",
    refuted_by="in every network, an interval of either slope that lies wholly beyond the margin",
    not_when="never: every network with batch norm has such noise in training",
    applies=applies,
    plan=plan,
    run=run,
    conclude=conclude,
    calibration=Calibration(
        control=BATCH_NORM,
        treated=BATCH_NORM,
        planted=(
            (1.0, Arm("batch norm, examples correlated by 0.00101", correlation=0.00101)),
            (2.0, Arm("batch norm, examples correlated by 0.00225", correlation=0.00225)),
        ),
        network="mlp6",
        equivalence=True,
    ),
)
