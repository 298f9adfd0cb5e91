"""Larger mini-batches regularize less: the slope of the test loss on the size of what is normalized together."""

from __future__ import annotations

import math
from collections.abc import Sequence

from normscope.records import Effect, Figure, Mark, Regime, Series, Verdict
from normscope.why import decide, draw, ghosts
from normscope.why.arms import Arm
from normscope.why.claim import Calibration, Claim, Plan, Task
from normscope.why.job import Job, Numbers, Results

KEY = "larger-batch-less-regularization"


def _arms(task: Task, study: Plan) -> list[Arm]:
    return [ghosts.arm(task, size) for size in ghosts.sizes(task, study)]


def applies(task: Task) -> str:
    """'' or the reason why there are no two sizes to compare."""
    return ghosts.applies(task)


def plan(task: Task, study: Plan, results: Results) -> list[Job]:
    """Every group size on every seed, clean and noisy labels."""
    return ghosts.jobs(task, study, results, _arms(task, study))


def run(task: Task, job: Job) -> list[Numbers]:
    """Losses of every member at the end of its training."""
    return ghosts.run(task, job)


def slope(sizes: Sequence[int], losses: Sequence[float]) -> float:
    """Least-squares slope of the losses on log2 of the sizes: change of the loss per doubling."""
    x = [math.log2(size) for size in sizes]
    middle = sum(x) / len(x)
    spread = sum((each - middle) ** 2 for each in x)
    return sum((each - middle) * loss for each, loss in zip(x, losses, strict=True)) / spread


def _losses(task: Task, study: Plan, results: Results, regime: str, what: str = "test") -> list[list[float]]:
    """Losses of every size, seed by seed."""
    return [ghosts.values(task, study, results, arm, regime, what) for arm in _arms(task, study)]


def _smallest(task: Task, study: Plan, losses: Sequence[Sequence[float]]) -> float:
    """The smallest effect of interest over the whole range of sizes, as a slope."""
    sizes = ghosts.sizes(task, study)
    return ghosts.smallest(task, losses[-1]) / math.log2(sizes[-1] / sizes[0])


def _slopes(task: Task, study: Plan, results: Results, regime: str, what: str = "test") -> list[float]:
    losses = _losses(task, study, results, regime, what)
    return [slope(ghosts.sizes(task, study), each) for each in zip(*losses, strict=True)]


def _effect(task: Task, study: Plan, results: Results, regime: str, what: str = "test") -> Effect:
    words = {"test": "test loss", "train": "training loss"}[what]
    least = _smallest(task, study, _losses(task, study, results, regime)) if what == "test" else 0.0
    name = f"slope of the {words} on log2 of the group size, {ghosts.WORDS[regime]}"
    values = _slopes(task, study, results, regime, what)
    return decide.effect(name, values, study.seeds, least, decide.difference(f"{ghosts.unit(task)} per doubling"))


def conclude(task: Task, study: Plan, results: Results) -> Verdict:
    """Supported where the test loss rises with the group size under clean and under noisy labels."""
    regimes = []
    for regime in ghosts.REGIMES:
        least = _smallest(task, study, _losses(task, study, results, regime))
        values = _slopes(task, study, results, regime)
        note = f"groups of {', '.join(map(str, ghosts.sizes(task, study)))}, {ghosts.setting(task, study, results)}"
        effect = _effect(task, study, results, regime)
        regimes.append(Regime(ghosts.WORDS[regime], decide.outcome(values, least), effect, note))
    effects = [regime.effect for regime in regimes if regime.effect]
    return CLAIM.verdict(
        outcome=decide.combine([regime.outcome for regime in regimes]),
        summary="each doubling of what is normalized together changes the test loss by "
        + " and by ".join(
            f"{draw.phrase(each)} with {regime.name}" for each, regime in zip(effects, regimes, strict=True)
        ),
        effect=effects[0],
        regimes=tuple(regimes),
        controls=tuple(_effect(task, study, results, regime, "train") for regime in ghosts.REGIMES),
        construction=(
            "that larger mini-batches have less noisy statistics is arithmetic: the variance of a mean falls as 1 / B",
        ),
        meaning=_meaning(task, study, regimes),
        figures=(
            draw.seeds_figure(
                "Change of the test loss for each doubling",
                "Slope of the test loss on log2 of the group size for each seed; above 0 larger groups regularize"
                " less.",
                [(regime.name, regime.effect) for regime in regimes if regime.effect],
                f"slope of the test loss ({ghosts.unit(task)} per doubling)",
            ),
            *(_doses(task, study, results, regime) for regime in ghosts.REGIMES),
        ),
    )


def _meaning(task: Task, study: Plan, regimes: Sequence[Regime]) -> str:
    sizes = ghosts.sizes(task, study)
    doublings = math.log2(sizes[-1] / sizes[0])
    totals = [
        f"{draw.number(regime.effect.estimate * doublings)} {ghosts.unit(task)} with {regime.name}"
        for regime in regimes
        if regime.effect
    ]
    what = "your network" if task.own else "this network"
    span = f"From groups of {sizes[0]} to groups of {sizes[-1]} examples"
    text = f"{span} the test loss of {what} changes by {' and by '.join(totals)}"
    if {regime.outcome for regime in regimes} >= {"supported", "refuted"}:
        text += (
            "; the direction depends on the labels, so the size of a mini-batch is no dial for regularization by itself"
        )
    return text + ". Optimization is the same in all of them: the mini-batch that gives the gradient has one size."


def _doses(task: Task, study: Plan, results: Results, regime: str) -> Figure:
    sizes, losses = ghosts.sizes(task, study), _losses(task, study, results, regime)
    relative = [ghosts.differences(each, losses[-1]) for each in losses]
    found = [decide.interval(each) for each in relative]
    rise = decide.interval(_slopes(task, study, results, regime))[0]
    level = sum(mean for mean, _, _ in found) / len(found) - rise * sum(map(math.log2, sizes)) / len(sizes)
    points = [(float(size), value) for size, each in zip(sizes, relative, strict=True) for value in each]
    x = tuple(float(size) for size in sizes)
    return Figure(
        f"Test loss by group size, {ghosts.WORDS[regime]}",
        "Test loss of each group size minus that of the whole mini-batch, for each seed, with the 95 % interval and the"
        " fitted line.",
        "examples normalized together",
        f"difference of test loss ({ghosts.unit(task)})",
        (
            Series("one seed", "points", tuple(at for at, _ in points), tuple(value for _, value in points)),
            Series(
                "mean and 95 % interval",
                "interval",
                x,
                tuple(mean for mean, _, _ in found),
                tuple(low for _, low, _ in found),
                tuple(high for _, _, high in found),
            ),
            Series("fitted line", "line", x, tuple(level + rise * math.log2(size) for size in sizes)),
        ),
        (Mark("y", 0.0, "whole mini-batch"),),
        x_log=True,
    )


CLAIM = Claim(
    key=KEY,
    title="Larger mini-batches regularize less",
    sentence="A larger mini-batch reduces the noise of its statistics, and with it the regularization effect.",
    sources=("lecture", "hoffer2017", "summers2020", "luo2019"),
    arms="groups of 8 to 128 examples that are normalized together, within mini-batches of 128 that give the"
    " gradient, so that only the noise of the statistics changes; the same learning rate and initial weights, rate"
    " falling to 0, exact population statistics at test, 300 training examples. Own network: groups of 8 and 32"
    " examples within its own batch.",
    statistic="least-squares slope of the test loss on log2 of the group size, one for each seed, under clean and"
    " under 20 % wrong training labels",
    smallest="a rise of 0.005 nat from the smallest group to the largest; 2 % of the loss for a network of one's own",
    refuted_by="an interval of slopes below 0, or one wholly within the smallest effect, under both kinds of labels",
    not_when="a mini-batch holds fewer than 16 examples, or all training examples",
    applies=applies,
    plan=plan,
    run=run,
    conclude=conclude,
    # The smallest group weighs -0.25 in the slope over 8, 32, 128: a loss lower by 0.005 nat is the smallest effect.
    calibration=Calibration(
        control=ghosts.arm(Task(), 128),
        treated=ghosts.arm(Task(), 8),
        planted=((1.0, Arm("3.2 % more examples", examples=1.032)), (2.0, Arm("7 % more examples", examples=1.07))),
        network="mlp2",
    ),
)
