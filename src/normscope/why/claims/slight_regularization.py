"""The noise of mini-batch statistics regularizes a little: test loss with it against test loss without any."""

from __future__ import annotations

from normscope.records import Effect, Figure, Regime, Verdict
from normscope.why import decide, draw, ghosts
from normscope.why.arms import BATCH_NORM, Arm
from normscope.why.claim import Calibration, Claim, Plan, Task
from normscope.why.job import Job, Numbers, Results

KEY = "slight-regularization"
# Power of the noise of 32 normal values: Var(a) = 1/(2 B), Var(b) = 1/B.
GAUSSIAN = Arm("Gaussian noise, noise-free statistics", norm="full", ghost=32, noise=(0.125, 0.17678))


def _treated(task: Task) -> Arm:
    return ghosts.arm(task, ghosts.treated(task))


def _arms(task: Task, study: Plan) -> list[Arm]:
    control = [] if task.own or study.effort == "quick" else [GAUSSIAN]
    return [ghosts.NOISE_FREE, *(ghosts.arm(task, size) for size in ghosts.sizes(task, study)), *control]


def plan(task: Task, study: Plan, results: Results) -> list[Job]:
    """Every arm on every seed, clean and noisy labels."""
    return ghosts.jobs(task, study, results, _arms(task, study))


def run(task: Task, job: Job) -> list[Numbers]:
    """Losses of every member at the end of its training."""
    return ghosts.run(task, job)


def _against_none(task: Task, study: Plan, results: Results, arm: Arm, regime: str) -> Effect:
    """Test loss of `arm` minus that of noise-free statistics."""
    free = ghosts.values(task, study, results, ghosts.NOISE_FREE, regime)
    noisy = ghosts.values(task, study, results, arm, regime)
    name = f"{arm.name} − {ghosts.NOISE_FREE.name}, test loss, {ghosts.WORDS[regime]}"
    return ghosts.gain(name, free, noisy, study, ghosts.smallest(task, free), ghosts.unit(task))


def _regime(task: Task, study: Plan, results: Results, regime: str) -> Regime:
    free = ghosts.values(task, study, results, ghosts.NOISE_FREE, regime)
    noisy = ghosts.values(task, study, results, _treated(task), regime)
    found = decide.outcome(ghosts.differences(free, noisy), ghosts.smallest(task, free))
    share = decide.interval([(b - a) / abs(a) for a, b in zip(free, noisy, strict=True)])[0]
    note = f"{share:+.1%} of the test loss {decide.interval(free)[0]:.3g} with noise-free statistics"
    note += f", {ghosts.setting(task, study, results)}"
    return Regime(ghosts.WORDS[regime], found, _against_none(task, study, results, _treated(task), regime), note)


def _controls(task: Task, study: Plan, results: Results) -> list[Effect]:
    out = []
    for regime in ghosts.REGIMES:
        for what, words, measured in (("train", "training loss", ghosts.unit(task)), ("metric", "test metric", "")):
            free = ghosts.values(task, study, results, ghosts.NOISE_FREE, regime, what)
            noisy = ghosts.values(task, study, results, _treated(task), regime, what)
            name = f"{_treated(task).name} − {ghosts.NOISE_FREE.name}, {words}, {ghosts.WORDS[regime]}"
            out.append(ghosts.gain(name, free, noisy, study, 0.0, measured))
        if GAUSSIAN in _arms(task, study):
            out.append(_against_none(task, study, results, GAUSSIAN, regime))
    return out


def conclude(task: Task, study: Plan, results: Results) -> Verdict:
    """Supported where the noise lowers the test loss under clean and under noisy labels."""
    regimes = tuple(_regime(task, study, results, regime) for regime in ghosts.REGIMES)
    effects = [regime.effect for regime in regimes if regime.effect]
    return CLAIM.verdict(
        outcome=decide.combine([regime.outcome for regime in regimes]),
        summary=f"the noise of {_group(task)} changes the test loss by "
        + " and by ".join(
            f"{draw.phrase(each)} with {regime.name}" for each, regime in zip(effects, regimes, strict=True)
        ),
        effect=effects[0],
        regimes=regimes,
        controls=tuple(_controls(task, study, results)),
        construction=("that the statistics of a mini-batch are noisy is arithmetic; decided is what the noise does",),
        meaning=_meaning(task, regimes),
        figures=(
            draw.seeds_figure(
                "Test loss with the noise, minus without",
                f"Difference of the test loss between {_treated(task).name} and noise-free statistics for each seed;"
                " below 0 the noise helps.",
                [(regime.name, regime.effect) for regime in regimes if regime.effect],
                f"difference of test loss ({ghosts.unit(task)})",
            ),
            *(_doses(task, study, results, regime) for regime in ghosts.REGIMES),
        ),
    )


def _group(task: Task) -> str:
    return f"mini-batches of {ghosts.treated(task)}"


def _meaning(task: Task, regimes: tuple[Regime, ...]) -> str:
    words = {"supported": "it lowers the test loss", "refuted": "it does not lower the test loss"}
    parts = [
        f"with {regime.name} {words.get(regime.outcome, 'these seeds do not settle what it does')} ({regime.note})"
        for regime in regimes
    ]
    what = "your network" if task.own else "this network"
    return (
        f"The noise that {what} gets from normalizing {ghosts.treated(task)} examples at a time: {'; '.join(parts)}."
        " A regularizer is chosen for the data: what helps with few clean examples can hurt where labels are wrong, the"
        " more the longer the training."
    )


def _doses(task: Task, study: Plan, results: Results, regime: str) -> Figure:
    arms = [arm for arm in _arms(task, study) if arm != ghosts.NOISE_FREE]
    rows = [("whole batch" if arm == BATCH_NORM else arm.name, arm) for arm in arms]
    return draw.seeds_figure(
        f"Every group size against noise-free statistics, {ghosts.WORDS[regime]}",
        "Difference of the test loss to the arm that normalizes by the whole training set, by the number of examples"
        " that are normalized together; smaller groups are noisier. Gaussian noise is the control: independent noise"
        " of the power that groups of 32 have.",
        [(name, _against_none(task, study, results, arm, regime)) for name, arm in rows],
        f"difference of test loss ({ghosts.unit(task)})",
    )


CLAIM = Claim(
    key=KEY,
    title="Batch norm regularizes slightly",
    sentence="Each mini-batch is scaled by its own mean and variance; that adds noise to the hidden units and has a"
    " slight regularization effect.",
    sources=("lecture", "luo2019", "hoffer2017", "summers2020"),
    arms="mini-batch statistics against statistics of the whole training set, which have no noise; the same"
    " mini-batches, learning rate and initial weights, rate falling to 0, exact population statistics at test."
    " Embedded: 300 training examples, batch 128 cut into ghost batches of 32 (8 to 128 beside them). Own network:"
    " its batch as it is, against statistics of up to 512 training examples. Control: independent Gaussian noise of"
    " the same power.",
    statistic="test loss with the noise minus without, paired by seed, under clean and under 20 % wrong training"
    " labels",
    smallest="0.005 nat lower; 2 % of the loss for a network of one's own",
    refuted_by="an interval above 0, or one wholly within the smallest effect, under both kinds of labels",
    not_when="a mini-batch holds fewer than 16 examples, or all training examples",
    applies=ghosts.applies,
    plan=plan,
    run=run,
    conclude=conclude,
    calibration=Calibration(
        control=ghosts.NOISE_FREE,
        treated=Arm("ghost batches of 32", norm="ghost", ghost=32),
        planted=(
            (1.0, Arm("3.2 % more examples", norm="full", examples=1.032)),
            (2.0, Arm("7 % more examples", norm="full", examples=1.07)),
        ),
        network="mlp2",
    ),
)
