import math

import pytest
import torch

from normscope import records
from normscope.probes.examples import ExampleMoments
from normscope.why import noise
from normscope.why.arms import BATCH_NORM
from normscope.why.calibrate import Pool, calibrate
from normscope.why.claim import Plan, Task
from normscope.why.claims.mini_batch_noise import CLAIM
from normscope.why.correlated import CorrelatedDraws
from normscope.why.job import Job

SEEDS = Plan("standard", tuple(range(8)), (100,))
SMALL = Plan("quick", (0, 1), (100,))


def made_up(mean=-0.5, power=-1.0):
    """Numbers whose noise falls with these powers of the batch size."""

    def numbers(_job, seed, _rate):
        wobble = 1e-3 * (seed % 3)
        sizes = list(noise.SIZES)
        theory = [size**-0.5 for size in sizes]
        layer = {
            "name": "1",
            "positions": 1,
            "mean": [size ** (mean + wobble) for size in sizes],
            "mean_theory": theory,
            "deviation": [0.7 * value for value in theory],
            "deviation_theory": [0.7 * value for value in theory],
            "effective": [float(size) for size in sizes],
            "multiplicative": [0.4 / size for size in sizes],
            "additive": [1 / size for size in sizes],
            "power": [1.4 * size ** (power + wobble) for size in sizes],
            "power_theory": [1.4 / size for size in sizes],
            "accumulated": 0.1,
        }
        return {"sizes": sizes, "layers": [layer, {**layer, "name": "2"}]}

    return numbers


@pytest.mark.parametrize(
    ("mean", "power", "outcome"),
    [(-0.5, -1.0, "supported"), (-0.4, -0.8, "refuted"), (-0.5, -0.8, "refuted"), (-0.5, -0.941, "inconclusive")],
)
def test_the_verdict_turns_with_the_slopes(fill, mean, power, outcome):
    verdict = CLAIM.conclude(Task(), SEEDS, fill(CLAIM, Task(), SEEDS, {}, made_up(mean, power)))
    assert verdict.outcome == outcome
    slopes = [regime.effect.estimate for regime in verdict.regimes]
    assert slopes == pytest.approx([mean, power / 2] * 2, abs=2e-3)
    assert verdict.regimes[0].effect.null == -0.5
    assert records.from_json(records.to_json(verdict), records.Verdict) == verdict


def test_networks_that_disagree_are_inconclusive(fill):
    def numbers(job, seed, rate):
        return made_up(*((-0.5, -1.0) if job.network == "conv" else (-0.4, -0.8)))(job, seed, rate)

    assert CLAIM.conclude(Task(), SEEDS, fill(CLAIM, Task(), SEEDS, {}, numbers)).outcome == "inconclusive"


def test_slopes_of_real_networks_are_minus_a_half():
    job = Job(noise.KEY, "mlp6", BATCH_NORM, ((0, 0.1),), 60, 64)
    (numbers,) = noise.run(Task(), job)
    assert [layer["positions"] for layer in numbers["layers"]] == [1] * 6
    for sizes, measured in noise.over_layers(numbers, ("mean",)):
        low, high = math.log(measured[0] * sizes[0] ** 0.5), math.log(measured[-1] * sizes[-1] ** 0.5)
        assert low == pytest.approx(0, abs=0.1)
        assert high == pytest.approx(0, abs=0.1)
    alone = noise.by_layer([numbers], "power", 32)
    together = noise.by_layer([numbers], "accumulated")
    assert together["1"] == pytest.approx(alone["1"], rel=0.25)
    assert together["16"] > 1.3 * alone["16"]


@pytest.mark.parametrize("correlation", [0.01, 0.1])
def test_correlated_draws_are_as_noisy_as_they_say(correlation):
    x = torch.randn(500, 40, generator=torch.Generator().manual_seed(0))
    pool = ExampleMoments.of(x)
    planted = CorrelatedDraws(pool.positions, pool.mean, pool.m2, correlation)
    index = planted.draws(64, 4000, torch.Generator().manual_seed(1))
    share = torch.bincount(index.flatten(), minlength=500).double() / index.numel()
    deviation = math.sqrt((1 + 63 * correlation) * 500 / index.numel())
    assert float((share * 500 - 1).abs().max()) < 5 * deviation
    ratio = (pool.moments(index).mean.var(0) / pool.moments().variance("biased")).mean()
    assert float(ratio) == pytest.approx((1 + 63 * correlation) / 64, rel=0.05)


def test_a_planted_correlation_is_refuted_and_the_truth_is_not(monkeypatch):
    monkeypatch.setattr(noise, "networks", lambda _task: {"mlp6": "fully connected"})

    def execute(jobs):
        return [(job, noise.run(Task(), job)) for job in jobs]

    pool = Pool((0, 1), (1000,))
    null, edge, beyond = calibrate(CLAIM, Task(), Plan("quick", (0, 1), (1000,)), pool, 2, execute)
    assert null.refuted == 0
    assert edge.supported == 0
    assert beyond.supported == 0
    assert null.effect < edge.effect < beyond.effect


@pytest.mark.parametrize("kind", ["tabular", "tokens", "images"])
def test_networks_of_ones_own(request, conduct, kind):
    task = request.getfixturevalue(kind)
    task = task() if kind == "tabular" else task
    assert CLAIM.applies(task) == ""
    verdict = CLAIM.conclude(task, SMALL, conduct(CLAIM, task, SMALL))
    assert [regime.name for regime in verdict.regimes] == [
        "this network, batch mean",
        "this network, normalized value",
    ]
    assert verdict.regimes[0].effect.estimate == pytest.approx(-0.5, abs=0.04)
    assert "At 16 examples" in verdict.meaning
    assert len(verdict.figures) == (3 if kind == "images" else 2)


def test_channels_that_never_vary_are_left_out(conduct, tabular):
    task = tabular()
    results = conduct(CLAIM, task, SMALL)
    for numbers in noise.found(task, SMALL, results, "own"):
        numbers["layers"][0] |= {key: [None] * len(numbers["sizes"]) for key in ("mean", "power", "deviation")}
    assert math.isfinite(CLAIM.conclude(task, SMALL, results).effect.estimate)
