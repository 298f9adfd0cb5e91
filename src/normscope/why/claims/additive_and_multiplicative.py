"""Batch norm's noise is additive and multiplicative, and as strong as theory says: the dropout rate that equals it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from normscope.records import Effect, Figure, Outcome, Regime, Series, Verdict
from normscope.why import decide, draw, noise
from normscope.why.arms import BATCH_NORM, Arm
from normscope.why.claim import Calibration, Claim, Plan, Task
from normscope.why.job import Job, Numbers, Results

KEY = "additive-and-multiplicative"
MARGIN = math.log(1.1)
SMALLEST_SHARE = 0.1
_SHARE = decide.difference("of the power")


def applies(_task: Task) -> str:
    """It applies to every network with batch norm."""
    return ""


def plan(task: Task, study: Plan, results: Results) -> list[Job]:
    """The same runs as those of mini-batch-noise."""
    return noise.jobs(task, study, results)


def run(task: Task, job: Job) -> list[Numbers]:
    """The noise of every member's layers."""
    return noise.run(task, job)


def _power(numbers: Numbers) -> float:
    """Log of measured over theoretical noise power, mean over layers and the sizes where first order holds."""
    rows = noise.over_layers(numbers, ("power", "power_theory"), noise.FIRST_ORDER)
    return noise.mean([noise.mean([math.log(a / b) for a, b in zip(*row[1:], strict=True)]) for row in rows])


def _additive(numbers: Numbers) -> float:
    """Var(b) / (Var(a) + Var(b)), mean over layers and the same sizes."""
    rows = noise.over_layers(numbers, ("additive", "multiplicative"), noise.FIRST_ORDER)
    return noise.mean([noise.mean([b / (a + b) for b, a in zip(*row[1:], strict=True)]) for row in rows])


def _grows(numbers: Numbers, size: int) -> float:
    """Log of accumulated over own noise power at the last layer."""
    at = list(numbers["sizes"]).index(size)
    pairs = [(layer["accumulated"], layer["power"][at]) for layer in numbers["layers"]]
    known = [math.log(all_of / own) for all_of, own in pairs if all_of and own]
    return known[-1] if known else math.nan


def _regimes(words: str, members: Sequence[Numbers], seeds: Sequence[int]) -> list[Regime]:
    ratios = [_power(each) for each in members]
    shares = [_additive(each) for each in members]
    found = [
        Regime(
            f"{words}, power",
            decide.equivalence(ratios, MARGIN),
            decide.effect(f"{words}: noise power / theory", ratios, seeds, MARGIN, decide.RATIO),
            f"batches of {noise.FIRST_ORDER} and more; equivalence",
        )
    ]
    for name, values in (("additive", shares), ("multiplicative", [1 - share for share in shares])):
        found.append(
            Regime(
                f"{words}, {name} part",
                decide.outcome(values, SMALLEST_SHARE, bound=True),
                decide.effect(f"{words}: {name} share", values, seeds, SMALLEST_SHARE, _SHARE),
            )
        )
    return found


def conclude(task: Task, study: Plan, results: Results) -> Verdict:
    """Supported where the power is theory's within a tenth and either part makes a tenth of it, in every network."""
    regimes: list[Regime] = []
    controls: list[Effect] = []
    outcomes: list[Outcome] = []
    size = noise.batch_of(task)
    for network, words in noise.networks(task).items():
        members = noise.found(task, study, results, network)
        parts = _regimes(words, members, study.seeds)
        outcomes.append(decide.conjunction([part.outcome for part in parts]))
        regimes += parts
        grown = [_grows(each, size) for each in members]
        if all(math.isfinite(value) for value in grown):
            name = f"{words}: last layer's noise with noisy layers below / alone, {size} examples"
            controls.append(decide.effect(name, grown, study.seeds, MARGIN, decide.RATIO))
    effects = [regime.effect for regime in regimes if regime.effect]
    return CLAIM.verdict(
        outcome=decide.combine(outcomes),
        summary="; ".join(
            f"noise power {draw.phrase(power)} of theory's, {additive.estimate:.0%} of it additive ({words})"
            for words, power, additive in zip(noise.networks(task).values(), effects[::3], effects[1::3], strict=True)
        ),
        effect=effects[0],
        regimes=tuple(regimes),
        controls=tuple(controls),
        construction=(
            (
                "x_hat_B = a x_hat + b, a = sigma / s_B and b = (mu - mu_B) / s_B, is algebra: that both parts exist"
                " follows from the formula, how large they are does not. Dropout has the multiplicative part alone."
            ),
        ),
        meaning=_meaning(task, study, results),
        figures=tuple(
            figure
            for network, words in noise.networks(task).items()
            for figure in _figures(words, noise.found(task, study, results, network), size)
        ),
    )


def _rate(power: float) -> float:
    """The drop probability of the same noise power."""
    return power / (1 + power)


def _meaning(task: Task, study: Plan, results: Results) -> str:
    parts = []
    size = noise.batch_of(task)
    for network, words in noise.networks(task).items():
        members = noise.found(task, study, results, network)
        alone = noise.by_layer(members, "power", size)
        together = noise.by_layer(members, "accumulated")
        if alone and together:
            low, high = _rate(min(alone.values())), _rate(max(alone.values()))
            parts.append(
                f"at {size} examples a layer's own noise ({words}) has the power of dropout at a rate of {low:.2%} to"
                f" {high:.2%}, and of {_rate(max(together.values())):.2%} where the layers below are noisy too"
            )
    text = "; ".join(parts)
    return text[:1].upper() + text[1:] + ("." if text else "")


def _figures(words: str, members: Sequence[Numbers], size: int) -> list[Figure]:
    rates = [
        (name, theory, {at: _rate(power) for at, power in noise.by_size(members, key).items()})
        for name, theory, key in (("measured", False, "power"), ("theory, first order", True, "power_theory"))
    ]
    parts = [
        (name, False, noise.by_size(members, key))
        for name, key in (("additive, Var(b)", "additive"), ("multiplicative, Var(a)", "multiplicative"))
    ]
    return [
        noise.size_figure(
            f"The dropout rate that is as noisy, {words}",
            "Drop probability q = r / (1 + r) whose noise has the power r of batch norm's at one layer, against the"
            " batch size; geometric mean over layers and seeds. Dashed: theory.",
            "equivalent drop probability",
            rates,
        ),
        noise.size_figure(
            f"The two parts of the noise, {words}",
            "Variance of the factor a and of the offset b against the batch size; geometric mean over layers and"
            " seeds.",
            "variance",
            parts,
        ),
        _depth(words, members, size),
    ]


def _depth(words: str, members: Sequence[Numbers], size: int) -> Figure:
    alone, together = noise.by_layer(members, "power", size), noise.by_layer(members, "accumulated")
    return Figure(
        f"Noise over depth, {words}",
        f"Dropout-equivalent rate of each batch-norm layer at {size} examples: its own noise alone, and with every"
        " layer below it noisy too, as in training; geometric mean over seeds.",
        "layer",
        "equivalent drop probability",
        (
            Series("alone", "line", tuple(alone), tuple(_rate(value) for value in alone.values())),
            Series(
                "with the layers below", "line", tuple(together), tuple(_rate(value) for value in together.values())
            ),
        ),
    )


CLAIM = Claim(
    key=KEY,
    title="Batch norm's noise adds and multiplies, dropout's only multiplies",
    sentence="Dropout multiplies units by noise; batch norm divides by a noisy deviation and subtracts a noisy mean.",
    sources=("lecture", "shekhovtsov2018", "luo2019", "srivastava2014"),
    arms=f"one: the runs of mini-batch-noise. {noise.DRAWS} batches of each of 8 to 256 examples ({noise.OWN_DRAWS}"
    f" in a user's network), and {noise.PASSES} passes through the whole network in which every layer is noisy.",
    statistic="noise power r = E[(x_hat_B - x_hat)^2] / E[x_hat^2] over theory, (rho + (k - 1) / 4) / B, with rho the"
    " share of the variance between examples and k the kurtosis; the shares of Var(b) and Var(a) in their sum; all"
    " from 64 examples on, mean over layers",
    smallest="power within 1.1 times theory's: people choose dropout rates in steps no finer than a tenth; a tenth of"
    " the noise, at the interval's lower end, for each part: less would be one kind of noise to all purposes",
    refuted_by="in every network, a power whose interval lies wholly beyond 1.1 times, or a part wholly below a tenth",
    not_when="never: every network with batch norm has such noise in training",
    applies=applies,
    plan=plan,
    run=run,
    conclude=conclude,
    calibration=Calibration(
        control=BATCH_NORM,
        treated=BATCH_NORM,
        planted=(
            (1.0, Arm("batch norm, examples correlated by 0.00094", correlation=0.00094)),
            (2.0, Arm("batch norm, examples correlated by 0.00174", correlation=0.00174)),
        ),
        network="mlp6",
        equivalence=True,
    ),
)
