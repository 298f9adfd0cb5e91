"""Dropout is the stronger regularizer; and it shifts the variance that a batch norm behind it was trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence

from normscope.records import Effect, Figure, Regime, Series, Verdict
from normscope.why import decide, draw, ghosts
from normscope.why.arms import Arm
from normscope.why.claim import Calibration, Claim, Plan, Task
from normscope.why.job import Job, Numbers, Results

KEY = "dropout-regularizes"
HALF = Arm("dropout 0.5, noise-free statistics", norm="full", dropout=0.5)
FIFTH = Arm("dropout 0.2, noise-free statistics", norm="full", dropout=0.2)
# Measured and predicted variance ratios agree within this.
AGREE = math.log(1.02)


def _noise(task: Task) -> Arm:
    """The arm with batch norm's own noise."""
    return ghosts.arm(task, ghosts.treated(task))


def _dropouts(study: Plan) -> list[Arm]:
    return [HALF] if study.effort == "quick" else [HALF, FIFTH]


def plan(task: Task, study: Plan, results: Results) -> list[Job]:
    """Dropout, and what it is held against, on every seed, clean and noisy labels."""
    return ghosts.jobs(task, study, results, [ghosts.NOISE_FREE, _noise(task), *_dropouts(study)])


def run(task: Task, job: Job) -> list[Numbers]:
    """Losses of every member at the end of its training, and the variance shift of its dropout."""
    return ghosts.run(task, job)


def _against(
    task: Task, study: Plan, results: Results, arm: Arm, other: Arm, regime: str
) -> tuple[Effect, list[float], float]:
    """Test loss of `arm` minus that of `other`, falls and the smallest effect of interest."""
    least = ghosts.smallest(task, ghosts.values(task, study, results, ghosts.NOISE_FREE, regime))
    first, second = (ghosts.values(task, study, results, each, regime) for each in (other, arm))
    name = f"{arm.name} − {other.name}, test loss, {ghosts.WORDS[regime]}"
    return ghosts.gain(name, first, second, study, least, ghosts.unit(task)), ghosts.differences(first, second), least


def _regime(task: Task, study: Plan, results: Results, regime: str) -> Regime:
    effect, falls, least = _against(task, study, results, HALF, _noise(task), regime)
    alone = [_against(task, study, results, arm, ghosts.NOISE_FREE, regime)[0] for arm in (HALF, _noise(task))]
    note = f"against no noise at all: dropout 0.5 {draw.phrase(alone[0])}, batch norm's noise {draw.phrase(alone[1])}"
    return Regime(ghosts.WORDS[regime], decide.outcome(falls, least), effect, note)


def conclude(task: Task, study: Plan, results: Results) -> Verdict:
    """Supported where dropout lowers the test loss by more than batch norm's noise does, whatever the labels."""
    regimes = tuple(_regime(task, study, results, regime) for regime in ghosts.REGIMES)
    effects = [regime.effect for regime in regimes if regime.effect]
    shifts = _shifts(task, study, results)
    return CLAIM.verdict(
        outcome=decide.combine([regime.outcome for regime in regimes]),
        summary="dropout 0.5 in place of batch norm's noise changes the test loss by "
        + " and by ".join(
            f"{draw.phrase(each)} with {regime.name}" for each, regime in zip(effects, regimes, strict=True)
        )
        + _shift_words(shifts),
        effect=effects[0],
        regimes=regimes,
        controls=(*_controls(task, study, results), *_agreement(study, shifts)),
        construction=(
            "directly before batch norm the ratio of the variances is algebra: v / ((c^2 + v)/p - c^2), p kept",
        ),
        meaning=_meaning(task, regimes, shifts),
        figures=(
            draw.seeds_figure(
                "Test loss with dropout 0.5, minus with batch norm's noise",
                "Difference of the test loss for each seed; below 0 dropout is the stronger regularizer.",
                [(regime.name, regime.effect) for regime in regimes if regime.effect],
                f"difference of test loss ({ghosts.unit(task)})",
            ),
            *_shift_figure(shifts),
        ),
    )


def _controls(task: Task, study: Plan, results: Results) -> list[Effect]:
    """Weaker dropout, and what the running averages of training cost when they are deployed behind dropout."""
    out = []
    for regime in ghosts.REGIMES:
        weaker = [arm for arm in _dropouts(study) if arm != HALF]
        out += [_against(task, study, results, arm, _noise(task), regime)[0] for arm in weaker]
        exact, running = (ghosts.values(task, study, results, HALF, regime, what) for what in ("test", "running"))
        name = f"statistics taken with dropout on − off, dropout 0.5, test loss, {ghosts.WORDS[regime]}"
        out.append(ghosts.gain(name, exact, running, study, 0.0, ghosts.unit(task)))
    return out


def _shifts(task: Task, study: Plan, results: Results) -> dict[str, list[list[tuple[float, float | None]]]]:
    """(measured, predicted) variance ratios of each clean run's layers, by arm and seed."""
    chosen = ghosts.rate(task, study, results)
    assert chosen is not None
    out: dict[str, list[list[tuple[float, float | None]]]] = {}
    for arm in _dropouts(study):
        for seed in study.seeds:
            numbers = results.get(ghosts.KEY, ghosts.network(task), arm, seed, chosen) or {}
            rows = [(measured, formula) for _, measured, formula in numbers.get("shift", []) if measured]
            out.setdefault(arm.name.split(",")[0], []).append(rows)
    return out


def _agreement(study: Plan, shifts: dict[str, list[list[tuple[float, float | None]]]]) -> list[Effect]:
    """Measured over predicted variance ratio, mean over layers, for each seed."""
    out = []
    for name, runs in shifts.items():
        ratios = [[math.log(measured / formula) for measured, formula in run if formula] for run in runs]
        if ratios and all(ratios):
            values = [sum(each) / len(each) for each in ratios]
            title = f"Var_test / Var_train of batch norm's input behind {name}, measured / formula"
            out.append(decide.effect(title, values, study.seeds, AGREE, decide.RATIO))
    return out


def _mean_shift(runs: Sequence[Sequence[tuple[float, float | None]]]) -> float | None:
    ratios = [measured for run in runs for measured, _ in run]
    return sum(ratios) / len(ratios) if ratios else None


def _shift_words(shifts: dict[str, list[list[tuple[float, float | None]]]]) -> str:
    found = [(name, _mean_shift(runs)) for name, runs in shifts.items()]
    words = [f"{draw.number(ratio)} behind {name}" for name, ratio in found if ratio is not None]
    return f"; Var_test / Var_train of the next batch norm's input: {' and '.join(words)}" if words else ""


def _meaning(task: Task, regimes: Sequence[Regime], shifts: dict[str, list[list[tuple[float, float | None]]]]) -> str:
    words = {"supported": "the stronger regularizer", "refuted": "not the better one"}
    parts = [f"{words.get(regime.outcome, 'not told apart from it')} with {regime.name}" for regime in regimes]
    what = "your network" if task.own else "this network"
    noise = f"the noise of normalizing {ghosts.treated(task)} examples at a time"
    text = f"For {what} dropout 0.5, held against {noise}, is {' and '.join(parts)}."
    ratio = _mean_shift(next(iter(shifts.values())))
    if ratio is None:
        return f"{text} No batch norm stands behind a dropout here, so there is no variance shift."
    return (
        f"{text} A batch norm behind dropout 0.5 meets {ratio:.0%} of the variance that it was trained on once"
        " dropout is off: put dropout behind the last batch norm, or recalibrate the running statistics with dropout"
        " off."
    )


def _shift_figure(shifts: dict[str, list[list[tuple[float, float | None]]]]) -> tuple[Figure, ...]:
    clouds = {
        name: [(formula, measured) for run in runs for measured, formula in run if formula]
        for name, runs in shifts.items()
    }
    known = {name: cloud for name, cloud in clouds.items() if cloud}
    if not known:
        return ()
    ends = [value for cloud in known.values() for point in cloud for value in point]
    line = (min(ends), max(ends))
    return (
        Figure(
            "Variance shift of dropout before batch norm",
            "Variance of a batch norm's input at test over that in training, dropout before it: measured against the"
            " formula of Li et al., one point for each layer and seed; on the dashed line they agree.",
            "formula",
            "measured",
            (
                *(
                    Series(name, "points", tuple(x for x, _ in cloud), tuple(y for _, y in cloud))
                    for name, cloud in known.items()
                ),
                Series("measured = formula", "theory", line, line),
            ),
        ),
    )


CLAIM = Claim(
    key=KEY,
    title="Dropout regularizes more",
    sentence="Like dropout, batch norm adds noise to the hidden units; but the noise is slight, and dropout is used"
    " for a more powerful regularization.",
    sources=("lecture", "srivastava2014", "li2018"),
    arms="dropout 0.5 (0.2 beside it) after each batch norm, on statistics of the whole training set, so that dropout"
    " is the only noise; against batch norm's own noise (ghost batches of 32; the mini-batch as it is for a network"
    " of one's own). The same mini-batches, learning rate and initial weights, rate falling to 0, exact population"
    " statistics with dropout off.",
    statistic="test loss with dropout 0.5 minus with batch norm's noise, paired by seed, under clean and under 20 %"
    " wrong training labels; beside it the measured variance shift of batch norm behind dropout over its formula",
    smallest="0.005 nat lower; 2 % of the loss for a network of one's own",
    refuted_by="an interval above 0, or one wholly within the smallest effect, under both kinds of labels",
    not_when="a mini-batch holds fewer than 16 examples, or all training examples",
    applies=ghosts.applies,
    plan=plan,
    run=run,
    conclude=conclude,
    calibration=Calibration(
        control=ghosts.arm(Task(), 32),
        treated=HALF,
        planted=(
            (1.0, Arm("ghost batches of 32, 3 % more examples", norm="ghost", ghost=32, examples=1.03)),
            (2.0, Arm("ghost batches of 32, 6.5 % more examples", norm="ghost", ghost=32, examples=1.065)),
        ),
        network="mlp2",
    ),
)
