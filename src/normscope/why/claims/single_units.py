"""Later layers learn not to rely on single noisy earlier units, as with dropout: the loss without each unit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

from normscope.records import Effect, Figure, Regime, Series, Verdict
from normscope.why import decide, draw, rates
from normscope.why.arms import BATCH_NORM, Arm
from normscope.why.claim import Calibration, Claim, Plan, Task
from normscope.why.job import Job, Numbers, Results

KEY = "single-units"
SMALLEST = math.log(1.25)
_BATCH, _RATE = 128, 0.1
_GROUP, _SHARE, _FEWEST = 8, 16, 32
_DROPOUT = Arm("dropout .2", dropout=0.2)


def _batch(task: Task) -> int:
    return task.batch if task.own else _BATCH


def _noisy(task: Task) -> Arm:
    """The network with the noise of small groups."""
    size = max(_GROUP, _batch(task) // _SHARE)
    return Arm(f"groups of {size}", norm="ghost", ghost=size)


def _arms(task: Task) -> tuple[Arm, Arm, Arm]:
    return BATCH_NORM, _noisy(task), _DROPOUT


def _labels(task: Task) -> dict[str, str]:
    """Regime -> its name for people."""
    return {"clean": "its own labels"} if task.own else {"clean": "clean labels", "noisy": "20 % wrong labels"}


def applies(task: Task) -> str:
    """It wants mini-batches that can be split into groups of clearly different noise."""
    if task.own and task.batch < _FEWEST:
        return (
            f"groups of {_GROUP} are compared with the whole mini-batch, and one of {task.batch} examples is as noisy;"
            f" it takes {_FEWEST} or more"
        )
    return ""


def plan(task: Task, study: Plan, results: Results) -> list[Job]:
    """Every arm at one learning rate: batch norm's own."""
    network = task.network("mlp2")
    found = rates.jobs(task, study, network, [BATCH_NORM]) if task.own else []
    rate = _rate(task, study, results)
    if rate is None:
        return found
    members = tuple((seed, rate) for seed in study.seeds)
    groups = [(member,) for member in members] if task.own else [members]
    steps = rates.steps(task, study) if task.own else study.steps(50, 100, 200)
    options = (("decay", True),)
    return found + [
        Job(KEY, network, arm, group, steps, _batch(task), regime, options, weight=3.0)
        for regime in _labels(task)
        for arm in _arms(task)
        for group in groups
    ]


def _rate(task: Task, study: Plan, results: Results) -> float | None:
    return rates.best(task, study, results, "own", BATCH_NORM) if task.own else _RATE


def run(task: Task, job: Job) -> list[Numbers]:
    """Train, then take out single units of the earlier layers.

    Returns:
        For each member what `normscope.why.reliance.measure` returns.
    """
    from normscope.why import bench, reliance

    members = bench.make_members(task, job)
    bench.run_training(task, job, members)
    return [reliance.measure(task, model, data) for model, data in zip(members.models(), members.datas, strict=True)]


def _values(task: Task, study: Plan, results: Results, arm: Arm, regime: str) -> list[Numbers]:
    rate = _rate(task, study, results)
    assert rate is not None
    network = task.network("mlp2")
    return [cast("Numbers", results.get(KEY, network, arm, seed, rate, regime)) for seed in study.seeds]


def _less(task: Task, study: Plan, results: Results, arm: Arm, regime: str, what: str) -> list[float]:
    """Log of how many times less the arm relies on single units than batch norm on the whole mini-batch does."""
    pairs = zip(
        _values(task, study, results, BATCH_NORM, regime), _values(task, study, results, arm, regime), strict=True
    )
    return [_log(base[what]) - _log(other[what]) for base, other in pairs]


def _log(value: float | None) -> float:
    return math.log(value) if value is not None and value > 0 else math.nan


def conclude(task: Task, study: Plan, results: Results) -> Verdict:
    """Supported where small groups rely on single units at most 0.8 times as much, under every kind of labels."""
    noisy = _noisy(task)
    regimes: list[Regime] = []
    controls: list[Effect] = []
    for regime, words in _labels(task).items():
        values = _less(task, study, results, noisy, regime, "reliance")
        name = f"{noisy.name} / whole mini-batch, rise of the loss without a unit, {words}"
        effect = decide.effect(name, values, study.seeds, SMALLEST, decide.RATIO, -1.0)
        regimes.append(Regime(words, decide.outcome(values, SMALLEST), effect, _note(task, study, results, regime)))
        for arm, what, said in (
            (_DROPOUT, "reliance", "rise of the loss"),
            (noisy, "output", "change of the output"),
            (_DROPOUT, "output", "change of the output"),
        ):
            values = _less(task, study, results, arm, regime, what)
            name = f"{arm.name} / whole mini-batch, {said} without a unit, {words}"
            if all(math.isfinite(value) for value in values):
                controls.append(decide.effect(name, values, study.seeds, SMALLEST, decide.RATIO, -1.0))
    effects = [regime.effect for regime in regimes if regime.effect]
    return CLAIM.verdict(
        outcome=decide.combine([regime.outcome for regime in regimes]),
        summary=f"without one unit the loss rises {draw.phrase(effects[0])} as much with {noisy.name} as with the"
        " whole mini-batch"
        + "".join(
            f", {draw.phrase(effect)} with {regime.name}"
            for regime, effect in zip(regimes[1:], effects[1:], strict=True)
        )
        + "; "
        + "; ".join(
            f"{_arm_of(each)}: {draw.phrase(each)}"
            for each in controls
            if "dropout" in each.name and "loss" in each.name
        ),
        effect=effects[0],
        regimes=tuple(regimes),
        controls=tuple(controls),
        meaning=_meaning(task, regimes, controls),
        figures=(_ratios(regimes, controls), *_ranks(task, study, results)),
    )


def _arm_of(effect: Effect) -> str:
    """'dropout .2, clean labels' of the name of an effect."""
    return f"{effect.name.partition(' / ')[0]}, {effect.name.rpartition(', ')[2]}"


def _note(task: Task, study: Plan, results: Results, regime: str) -> str:
    parts = []
    for arm in _arms(task):
        found = _values(task, study, results, arm, regime)
        losses = [each["intact"] for each in found if each["intact"] is not None]
        if losses:
            parts.append(f"{math.fsum(losses) / len(losses):.3g} ({arm.name})")
    return "held-out loss of the whole network: " + ", ".join(parts)


def _meaning(task: Task, regimes: Sequence[Regime], controls: Sequence[Effect]) -> str:
    effect = cast("Effect", regimes[0].effect)
    less = "less" if effect.estimate < 1 else "more"
    text = (
        f"Normalizing {_noisy(task).name} examples instead of the whole mini-batch, the loss of this network depends"
        f" {abs(1 - effect.estimate):.0%} {less} on a single unit of its earlier layers"
    )
    outputs = [each for each in controls if "output" in each.name and "dropout" not in each.name]
    if outputs and effect.estimate < 1 < outputs[0].low:
        text += (
            f"; its output, in its own spread, moves {outputs[0].estimate:.2g} times as far, so that the smaller rise"
            " is not a spreading over more units"
        )
    strong = [each for each in controls if "dropout" in each.name and "loss" in each.name]
    if strong:
        text += f". Dropout at .2 makes it {draw.number(strong[0].estimate)} times"
    return text + "."


def _ratios(regimes: Sequence[Regime], controls: Sequence[Effect]) -> Figure:
    rows = [
        (f"{regime.effect.name.partition(' / ')[0]}, {regime.name}", regime.effect)
        for regime in regimes
        if regime.effect
    ]
    rows += [(_arm_of(each), each) for each in controls if "rise of the loss" in each.name]
    rows += [(f"{_arm_of(each)}, output", each) for each in controls if "output" in each.name]
    return draw.seeds_figure(
        "How much a single unit matters, against the whole mini-batch",
        "Ratio to the network that normalizes the whole mini-batch, for each seed: the mean rise of the held-out loss"
        " when one unit of an earlier layer is set to 0, and, where it says output, the mean square change of the"
        " output in its own variance. Below 1 single units matter less.",
        rows,
        "ratio to the whole mini-batch (x)",
    )


def _ranks(task: Task, study: Plan, results: Results) -> list[Figure]:
    figures = []
    for regime, words in _labels(task).items():
        series = []
        for arm in _arms(task):
            found = [each["rises"] for each in _values(task, study, results, arm, regime)]
            size = min(len(each) for each in found)
            ranks = tuple(float(at + 1) for at in range(size))
            middle = tuple(_mean([each[at] for each in found]) for at in range(size))
            series.append(Series("whole mini-batch" if arm is BATCH_NORM else arm.name, "line", ranks, middle))
        figures.append(
            Figure(
                f"Every unit's share, {words}",
                "Rise of the held-out loss when a unit is set to 0, the units of each network ordered by it; mean"
                " over seeds.",
                "rank of the unit",
                "rise of the loss",
                tuple(series),
            )
        )
    return figures


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


CLAIM = Claim(
    key=KEY,
    title="Noise keeps later layers from relying on single units",
    sentence="As with dropout, noise on the hidden units forces later units not to rely too much on any one of them.",
    sources=("lecture", "srivastava2014", "morcos2018"),
    arms="batch norm on the whole mini-batch (128 examples) against groups of 8 in it, 16 times the noise; dropout .2"
    " beside it, which is made for this. Same learning rate, steps and batches; measured with the statistics of the"
    " training set.",
    statistic="log ratio of reliance, paired by seed: the mean rise of the held-out loss when one unit of an earlier"
    " layer (any but the last that is normalized) is set to 0, which is what dropout does to it. A fall counts as"
    " none: it comes of a network that is too sure, and is no reliance. Beside it, without a vote, the change of the"
    " output in its own variance, which does not depend on how sure a network is.",
    smallest="0.8 times the reliance: about what dropout at a rate of .08 gives; less is not 'as with dropout'",
    refuted_by="an interval above 1, or one wholly between 0.8 and 1.25",
    not_when=f"a user's mini-batches of fewer than {_FEWEST} examples, which hold no groups of clearly other noise",
    applies=applies,
    plan=plan,
    run=run,
    conclude=conclude,
    calibration=Calibration(
        control=BATCH_NORM,
        treated=_noisy(Task()),
        planted=((1.0, Arm("dropout .08", dropout=0.08)), (2.0, Arm("dropout .18", dropout=0.18))),
        network="mlp2",
    ),
)
