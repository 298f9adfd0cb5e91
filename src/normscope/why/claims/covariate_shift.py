"""Covariate shift: how far a network falls on inputs of another look, and what batch-norm statistics win back."""

from __future__ import annotations

import math
import statistics
from typing import cast

from normscope.records import Effect, Figure, Regime, Series, Verdict
from normscope.why import decide, draw, matched, rates
from normscope.why.arms import BATCH_NORM, PLAIN, Arm
from normscope.why.claim import Calibration, Claim, Plan, Task
from normscope.why.falls import MAIN, SIZES, Falls, main, number
from normscope.why.job import Job, Numbers, Results

KEY = "covariate-shift"
SMALLEST = 0.03
# Learning rate on the embedded network, for both arms: each trains well there.
RATE = 0.05
_PAIR = (PLAIN, BATCH_NORM)
_LOOKS = ("coloured", "coloured strokes", "coloured background", "one pair of colours", "inverted")
_OWN = "the shift"


def applies(_task: Task) -> str:
    """It applies to every network; data without a shift of their own get a stated one."""
    return ""


def _looks(task: Task, study: Plan) -> tuple[str, ...]:
    if task.own:
        return (_OWN,)
    return (_LOOKS[0], _LOOKS[-1]) if study.effort == "quick" else _LOOKS


def plan(task: Task, study: Plan, results: Results) -> list[Job]:
    """Both arms: at one rate on the embedded network, each at its own best on a user's."""
    if not task.own:
        steps = study.steps(60, 100, 240)
        looks = (("looks", ",".join(_looks(task, study))),)
        return [
            Job(KEY, "conv", arm, ((seed, RATE),), steps, 64, options=looks, weight=1.7)
            for arm in _PAIR
            for seed in study.seeds
        ]
    out = rates.jobs(task, study, "own", _PAIR)
    for arm in _PAIR:
        rate = rates.best(task, study, results, "own", arm)
        if rate is not None:
            steps = rates.steps(task, study)
            out += [Job(KEY, "own", arm, ((seed, rate),), steps, task.batch) for seed in study.seeds]
    return out


def run(task: Task, job: Job) -> list[Numbers]:
    """Train on the source; measure on it and on every look, as deployed and with statistics re-estimated."""
    from normscope.why import shifted

    return [shifted.run(task, job, SIZES, MAIN)]


def _found(task: Task, study: Plan, results: Results, arm: Arm) -> list[Numbers]:
    if not task.own:
        found = [results.get(KEY, "conv", arm, seed, RATE) for seed in study.seeds]
    else:
        found = [results.get(KEY, "own", arm, seed, matched.rate(task, study, results, arm)) for seed in study.seeds]
    return [cast("Numbers", numbers) for numbers in found]


def conclude(task: Task, study: Plan, results: Results) -> Verdict:
    """The network as deployed decides; what re-estimated statistics win back has an outcome of its own beside it."""
    found = [_found(task, study, results, arm) for arm in _PAIR]
    if "looks" not in found[0][0]:
        return CLAIM.inapplicable("no input holds real numbers that could be shifted; name data with --shifted-data")
    read, look = Falls.of(task, *found), _looks(task, study)[0]
    regimes = _regimes(study, read, look)
    fallen = statistics.fmean(read.fall(look, normed=True))
    share = statistics.fmean(read.gain(look)) / fallen if fallen else math.nan
    controls = _controls(task, study, read, look)
    falls = [statistics.fmean(read.fall(look, normed=normed)) for normed in (False, True)]
    effects = [regime.effect for regime in regimes if regime.effect]
    return CLAIM.verdict(
        outcome=regimes[0].outcome,
        summary=f"on {found[0][0]['kind']} the network falls by {falls[1]:.3f} with and {falls[0]:.3f} without"
        f" batch norm ({read.unit}); statistics re-estimated on {_size(found[1][0], look)} unlabelled examples win back"
        f" {draw.phrase(effects[1])}{_share(share)}" + _lost(task, read),
        effect=effects[0],
        regimes=tuple(regimes),
        controls=tuple(controls),
        meaning=_meaning(falls, share),
        figures=tuple(_figures(task, study, read, look, regimes)),
    )


def _share(share: float) -> str:
    return f", {share:.0%} of the fall" if 0 < share < 2 else ""


def _size(numbers: Numbers, look: str) -> str:
    again = numbers["looks"][look]["again"]
    return str(MAIN) if str(MAIN) in again else max(again, key=int)


def _lost(task: Task, read: Falls) -> str:
    if task.own:
        return ""
    lost = statistics.fmean(read.gain(_LOOKS[-1]))
    return f"; of an inversion they win back {round(lost, 3) + 0.0:.3f}: not every shift is one of moments"


def _regimes(study: Plan, read: Falls, look: str) -> list[Regime]:
    scale = decide.difference(read.unit)
    robust, gain = read.robustness(look), read.gain(look)
    less = decide.effect("fall of plain - fall of batch norm", robust, study.seeds, SMALLEST, scale)
    back = decide.effect("won back by re-estimated statistics", gain, study.seeds, SMALLEST, scale)
    size = _size(read.normed[0], look)
    return [
        Regime("as deployed", decide.outcome(robust, SMALLEST), less, "running averages of the training"),
        Regime(
            "the repair: statistics re-estimated",
            decide.outcome(gain, SMALLEST),
            back,
            f"exact statistics of {size} unlabelled examples in one batch, disjoint from the test ones",
        ),
    ]


def _controls(task: Task, study: Plan, read: Falls, look: str) -> list[Effect]:
    scale = decide.difference(read.unit)
    rows = [("won back by statistics re-estimated on the source instead", read.control(look))]
    for name in _looks(task, study)[1:]:
        rows.append((f"{name}: fall of plain - fall of batch norm", read.robustness(name)))
        rows.append((f"{name}: won back by re-estimated statistics", read.gain(name)))
    return [decide.effect(name, values, study.seeds, SMALLEST, scale) for name, values in rows]


def _meaning(falls: list[float], share: float) -> str:
    plain, normed = falls
    word = "about as much"
    if abs(normed - plain) > SMALLEST:
        word = "more" if normed > plain else "less"
    text = (
        f"Deployed as it is, this network suffers {word} from such a shift of its inputs with batch norm"
        f" {'as' if word.endswith('much') else 'than'} without"
    )
    if share > 0.5 and normed > SMALLEST:
        return text + "; re-estimating the statistics on unlabelled examples from where it is used repairs most of it."
    return text + "."


def _figures(task: Task, study: Plan, read: Falls, look: str, regimes: list[Regime]) -> list[Figure]:
    rows = [(regime.name, regime.effect) for regime in regimes if regime.effect]
    control = decide.effect("", read.control(look), study.seeds, SMALLEST, decide.difference(read.unit))
    figures = [
        draw.seeds_figure(
            "Robustness as deployed, and what the statistics win back",
            "For each seed: how much less the network falls with batch norm than without when its inputs shift"
            " (below 0 it falls more); what statistics re-estimated on unlabelled shifted examples win back; the"
            " same with examples of the source, as a control.",
            [*rows, ("control: re-estimated on the source", control)],
            f"difference ({read.unit})",
        ),
        _looks_figure(task, study, read),
        _sizes_figure(read, look),
    ]
    return figures + ([_layers_figure(read)] if read.normed[0]["layers"] else [])


def _interval(name: str, at: tuple[str, ...], columns: list[list[float]]) -> Series:
    ends = [decide.interval(values) for values in columns]
    mean, low, high = (tuple(end[k] for end in ends) for k in range(3))
    return Series(name, "interval", at, mean, low, high)


def _looks_figure(task: Task, study: Plan, read: Falls) -> Figure:
    names = _looks(task, study)
    where = ("as trained on", *names)

    def row(runs: list[Numbers], *, again: bool) -> list[list[float]]:
        out = [[number(numbers["source"]) for numbers in runs]]
        for name in names:
            looks = [numbers["looks"][name] for numbers in runs]
            out.append([main(each) if again else number(each["deployed"]) for each in looks])
        return out

    return Figure(
        "The metric on every look of the inputs",
        "Mean and 95 % interval over seeds of the held-out metric, on inputs as trained on and on shifted ones:"
        " without batch norm, with batch norm as deployed, and with its statistics re-estimated on unlabelled"
        " examples of that look.",
        "inputs",
        "accuracy" if read.scale == 1.0 else "metric",
        (
            _interval("plain", where, row(read.plain, again=False)),
            _interval("batch norm, as deployed", where, row(read.normed, again=False)),
            _interval("batch norm, re-estimated", where[1:], row(read.normed, again=True)[1:]),
        ),
    )


def _sizes_figure(read: Falls, look: str) -> Figure:
    sizes = tuple(read.normed[0]["looks"][look]["again"])
    where = ("0", *sizes)
    runs = [numbers["looks"][look] for numbers in read.normed]
    columns = [[number(run["deployed"]) for run in runs]]
    columns += [[number(run["again"][size]) for run in runs] for size in sizes]
    points = [(x, value) for x, values in zip(where, columns, strict=True) for value in values]
    source = statistics.fmean(number(numbers["source"]) for numbers in read.normed)
    return Figure(
        "How many unlabelled examples the repair takes",
        "Metric of the network with batch norm on shifted inputs against the number of unlabelled examples on which its"
        " statistics are re-estimated, for each seed; 0 is the network as deployed, the dashed line its metric on"
        " the source.",
        "unlabelled examples",
        "accuracy" if read.scale == 1.0 else "metric",
        (
            Series("one seed", "points", tuple(x for x, _ in points), tuple(value for _, value in points)),
            _interval("mean and 95 % interval", where, columns),
            Series("on the source", "theory", where, tuple(source for _ in where)),
        ),
    )


def _layers_figure(read: Falls) -> Figure:
    names = tuple(read.normed[0]["layers"])
    where = tuple(f"layer {at + 1}" for at in range(len(names)))
    seen, null = ([[number(n["layers"][name][k]) for n in read.normed] for name in names] for k in (0, 1))
    return Figure(
        "How far each layer's input moves",
        "Standardized distance of the means of each batch-norm layer's input between source and shifted test"
        " examples, root mean square over channels, mean and interval over seeds; dashed, what 95 % of pairs of"
        " samples of the source stay under.",
        "",
        "distance (deviations)",
        (
            _interval("shifted inputs", where, seen),
            Series("95 % null", "theory", where, tuple(statistics.fmean(values) for values in null)),
        ),
    )


CLAIM = Claim(
    key=KEY,
    title="Batch norm makes a network robust to covariate shift",
    sentence="When the distribution of the inputs changes, as from black cats to coloured ones, batch norm makes"
    " the network cope with the covariate shift.",
    sources=("lecture", "ioffe2015", "schneider2020", "benz2021"),
    arms="plain (batch norm taken out, gamma and beta kept) against batch norm, trained on black strokes on white"
    " (or on your data); tested on shifted inputs as deployed, and with batch-norm statistics re-estimated on"
    " unlabelled shifted examples, disjoint from the test ones, all layers in one pass",
    statistic="fall of the held-out accuracy from source to shifted inputs, plain minus batch norm; accuracy that"
    " re-estimated statistics win back; both paired by seed. Other metrics are counted in what plain learned beyond"
    " a constant guess",
    smallest=".03 of accuracy, for the fall and for the gain",
    refuted_by="an interval below 0, or one wholly between -.03 and .03, for the network as deployed; the repair is a"
    " statement of its own, decided by the same rule and shown beside",
    not_when="where no input holds real numbers; without shifted data of your own a stated gain and offset per"
    " channel stand in",
    applies=applies,
    plan=plan,
    run=run,
    conclude=conclude,
    calibration=Calibration(
        control=BATCH_NORM,
        treated=BATCH_NORM,
        planted=(
            (1.0, Arm("batch norm, 0.9 % of the training shifted", shifted=0.009)),
            (2.0, Arm("batch norm, 1.8 % of the training shifted", shifted=0.018)),
        ),
        network="conv",
    ),
)
