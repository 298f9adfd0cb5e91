"""A study with everything that a page must bear: all outcomes, long names, gaps, empty series, hostile text."""

import dataclasses
import random

import pytest

from normscope.records import Effect, Figure, Mark, Measurement, Regime, Run, Series, Study, Verdict

HOSTILE = '<script>alert("x")</script></script><!-- $x^2$ & "quoted"'
SEEDS = (10, 11, 12, 13, 14, 15, 16, 17)


def effect(name, estimate, half, *, smallest, null=0.0, unit=""):
    source = random.Random(name)
    spread = [source.gauss(estimate, half * 1.2) for _ in SEEDS]
    return Effect(name, estimate, estimate - half, estimate + half, smallest, null, unit, tuple(spread), SEEDS)


FASTER = effect("plain / batch norm, steps to 90 % accuracy", 2.02, 0.42, smallest=1.25, null=1.0, unit="x")
ARMS = ("plain", "input normalized", "batch norm")


def steps_figure():
    source = random.Random(3)
    heights = {"plain": 640.0, "input normalized": 410.0, "batch norm": 310.0}
    x = tuple(arm for arm in ARMS for _ in SEEDS)
    y = tuple(heights[arm] * source.uniform(0.75, 1.3) for arm in x)
    means = tuple(heights[arm] for arm in ARMS)
    ends = [tuple(value * factor for value in means) for factor in (0.85, 1.17)]
    return Figure(
        "Steps to 90 % accuracy, each arm at its own best rate",
        "Fewer steps is faster. Each open mark is one seed, the filled one the mean with its 95 % interval.",
        "Arm",
        "Steps to 90 % test accuracy",
        (Series("single seeds", "points", x, y), Series("mean, 95 % interval", "interval", ARMS, means, *ends)),
        (Mark("y", 1200.0, "cap: 1200 steps"),),
        y_log=True,
    )


def rates_figure():
    rates = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    return Figure(
        "Accuracy reached at each learning rate",
        "A wider plateau means more rates that train.",
        "Learning rate",
        "Test accuracy after 1200 steps",
        (
            Series("plain", "line", rates, (0.42, 0.71, 0.89, 0.93, 0.31, 0.1, None)),
            Series("input normalized", "line", rates, (0.55, 0.8, 0.92, 0.94, 0.62, 0.1, 0.1)),
            Series("batch norm", "line", rates, (0.71, 0.88, 0.94, 0.96, 0.965, 0.95, 0.9)),
        ),
        (Mark("y", 0.9, "target"), Mark("x", 0.1, "rate chosen for plain")),
        x_log=True,
    )


def noise_figure():
    sizes = (8, 16, 32, 64, 128, 256)
    measured = tuple(0.98 * size**-0.5 for size in sizes)
    return Figure(
        "Deviation of the batch mean against the batch size",
        "Log-log: theory is a line of slope -1/2.",
        "Batch size B",
        "sd of the batch mean / population sd",
        (
            Series(
                "measured, 200 batches",
                "interval",
                sizes,
                measured,
                tuple(0.93 * value for value in measured),
                tuple(1.07 * value for value in measured),
            ),
            Series("theory: 1/√B", "theory", sizes, tuple(size**-0.5 for size in sizes)),
        ),
        x_log=True,
        y_log=True,
    )


def shift_figure():
    renderings = (
        "strokes and background dimmed at random (the default)",
        "coloured strokes on white",
        "coloured background under black strokes",
        "one global pair of colours",
        "contrast divided by three",
        "inverted (cannot be repaired)",
    )
    return Figure(
        "Accuracy under six renderings, as deployed and after re-estimating the statistics",
        "Bars are means over eight seeds.",
        "Rendering of the test images",
        "Test accuracy",
        (
            Series("plain network", "bars", renderings, (0.955, 0.94, 0.93, 0.91, 0.88, 0.2)),
            Series("batch norm, as deployed", "bars", renderings, (0.75, 0.83, 0.71, 0.66, 0.79, 0.11)),
            Series("batch norm, statistics re-estimated on 128 images", "bars", renderings, (0.94,) * 5 + (0.13,)),
        ),
        (Mark("y", 0.1, "chance"),),
    )


def path_figure():
    steps = tuple(range(0, 1200, 2))
    return Figure(
        "Length of the path of the representations",
        "",
        "Training step",
        "Path length / final distance",
        (
            Series("plain", "line", steps, tuple(0.004 * step + 0.3 for step in steps)),
            Series("batch norm", "line", steps, tuple(0.002 * step + 0.1 for step in steps)),
            Series("empty", "points", (), ()),
        ),
    )


def verdicts():
    conv = effect("plain / batch norm, steps to 90 % accuracy", 3.51, 0.8, smallest=1.25, null=1.0, unit="x")
    fall = effect("fall with batch norm minus fall without, accuracy", -0.202, 0.03, smallest=0.03)
    own = effect("path length, plain / batch norm", 0.81, 0.13, smallest=1.25, null=1.0, unit="x")
    one = effect("path length, plain / batch norm", 1.9, 0.3, smallest=1.25, null=1.0, unit="x")
    broken = Effect("ratio", float("nan"), float("nan"), float("nan"), 1.25, 1.0, "x", (float("nan"),), (1,))
    return (
        Verdict(
            "faster-optimization",
            "Batch norm speeds up training",
            "Batch norm makes the whole network train faster, much as normalizing the inputs does.",
            "supported",
            "With batch norm the network needs 2.0 times fewer steps to 90 % accuracy, each arm at its own best rate.",
            FASTER,
            (
                Regime("He initialization", "supported", FASTER),
                Regime("torch's default initialization", "supported", conv, "plain reached 90 % in 5 of 8 seeds"),
            ),
            (effect("plain / input normalized, steps", 1.56, 0.2, smallest=1.25, null=1.0, unit="x"),),
            (),
            (
                (
                    "Arms",
                    "The network as given, with its inputs standardized, and with batch norm, each He-initialized.",
                ),
                ("Rates", "Half-decade grid from 0.003 to 3; four seeds choose each arm's rate, eight others confirm."),
                ("Statistic", "log2 of the steps to 90 % test accuracy, censored at 1200, paired over seeds."),
                ("Smallest effect of interest", "1.25 times fewer steps, at the bound of the interval."),
                ("What would refute it", "An interval below 1, or wholly within 1/1.25 to 1.25."),
                ("When it does not apply", "No learning rate of the grid trains either arm."),
            ),
            "Keep the batch norm of this network: without it, training to the same accuracy takes twice as long.",
            ("lecture", "ioffe2015", "bjorck2018"),
            (steps_figure(), rates_figure()),
        ),
        Verdict(
            "covariate-shift",
            "Batch norm makes a network robust to a shift of its inputs, however the colours of strokes change",
            "A cat classifier trained on black cats does better on coloured ones.",
            "refuted",
            "As deployed, accuracy falls by 0.20 more with batch norm than without it.",
            fall,
            (Regime("default rendering", "refuted", fall), Regime("contrast", "refuted", None, "not measured")),
            figures=(shift_figure(),),
            meaning="Re-estimate the statistics on about 128 unlabelled images of the new kind before deploying.",
            sources=("lecture", "schneider2020", "a work that is in no bibliography"),
        ),
        Verdict(
            "internal-shift",
            "Batch norm lessens internal covariate shift",
            "It limits how far updates of earlier layers move what later layers see.",
            "inconclusive",
            "At one rate the representations move less, at each arm's own rate they move more.",
            own,
            (Regime("both at one rate", "supported", one), Regime("each at its own best rate", "inconclusive", own)),
            construction=("The moments of each normalized layer move by 0.00 against 0.35: batch norm pins them.",),
            figures=(path_figure(),),
            sources=("santurkar2018",),
        ),
        Verdict(
            "mini-batch-noise",
            "Each mini-batch's statistics are noisy",
            "The mean and variance of a mini-batch are a little noisy.",
            "supported",
            "The slope is −0.50.",
            effect("slope of log sd against log B", -0.503, 0.012, smallest=-0.47),
            figures=(noise_figure(),),
            sources=("shekhovtsov2018",),
        ),
        Verdict("pins", "Batch norm pins the moments of a layer", "", "by construction", "Algebra."),
        Verdict(
            "dropout-regularizes",
            "It works like dropout",
            "Used together with dropout it regularizes more.",
            "not applicable",
            "The network has no layer before which dropout could stand.",
        ),
        Verdict("gap", HOSTILE, HOSTILE, "inconclusive", HOSTILE, broken, figures=(hostile_figure(), empty_figure())),
    )


def hostile_figure():
    return Figure(
        HOSTILE,
        HOSTILE,
        HOSTILE,
        HOSTILE,
        (
            Series(HOSTILE, "points", (HOSTILE, "層 ü"), (1.0, None)),
            Series("theory", "theory", (HOSTILE,), (1.1,)),
        ),
        (Mark("y", 1.2, HOSTILE), Mark("y", float("nan"), "nowhere")),
    )


def empty_figure():
    series = (Series("nothing", "line", (), ()), Series("gaps", "points", (1.0, 2.0), (None, -3.0)))
    return Figure("Nothing at all", "", "x", "y", series, x_log=True, y_log=True)


@pytest.fixture(scope="session")
def study():
    return Study(
        question="Why does batch norm help this network?",
        network="Convolutional network 8-16-16 with 3 batch-norm layers and 5 530 parameters",
        data="scikit-learn's digits: 1797 images of 8 × 8 pixels in ten classes",
        command="normscope why --seeds 8 --jobs 2 --out runs/digits --model package.with_a_very_long_name:make_model",
        settings={"effort": "standard", "seeds": 8, "jobs": 2, "device": "cpu", "claims": ["a", "b"], "budget": None},
        versions={"normscope": "0.1.0", "torch": "2.13.0", "Python": "3.11.2", "processor": HOSTILE},
        verdicts=verdicts(),
        runs=tuple(
            Run(f"k{i}", "faster-optimization", {"arm": "plain", "seed": i}, {"steps": 3 * i}, 0.4) for i in range(50)
        ),
        notes=("The layer 'head.norm' is a functional call inside a forward and could not be seen.",),
        seconds=83.2,
        created="2026-11-23 18:02",
    )


@pytest.fixture(scope="session")
def small(study):
    """The study with one claim only: quick to draw."""
    return dataclasses.replace(study, verdicts=study.verdicts[3:4])


@pytest.fixture(scope="session")
def page(study):
    from normscope.report import render_study

    return render_study(study)


@pytest.fixture(scope="session")
def measurements():
    layers = ("conv1.norm", "layer1.0.bn1", "layer1.0.bn2", "a.very.long.path.to.a.layer.of.the.network.bn")
    moments = [
        Measurement("moments", quantity, layer, step, place + 0.01 * step, unit, None, "saved by torch")
        for quantity, unit in (("drift of the mean", "sd"), ("mean", ""))
        for place, layer in enumerate(layers)
        for step in range(0, 300, 3)
    ]
    noise = [
        Measurement("noise", "sd of the batch mean", layer, None, 0.1 + place / 100, "sd", 0.11, "recomputed")
        for place, layer in enumerate(layers)
    ]
    others = [
        Measurement("gradients", "gradient shift", HOSTILE, 0, None, "", None, "not run: no closure"),
        Measurement("smoothness", "effective smoothness", "", 7, 3.2e-7, "", None, "recomputed"),
    ]
    return [*moments, *noise, *others]


@pytest.fixture(scope="session")
def figures():
    made = (steps_figure, rates_figure, noise_figure, shift_figure, path_figure, hostile_figure, empty_figure)
    return {make.__name__.removesuffix("_figure"): make() for make in made}


@pytest.fixture(scope="session")
def hostile():
    return HOSTILE
