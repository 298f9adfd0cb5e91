import pytest

from normscope import records
from normscope.why import noise
from normscope.why.arms import BATCH_NORM
from normscope.why.claim import Plan, Task
from normscope.why.claims.additive_and_multiplicative import CLAIM
from normscope.why.job import Job

SEEDS = Plan("standard", tuple(range(8)), (100,))
SMALL = Plan("quick", (0, 1), (100,))


def made_up(ratio=1.0, multiplicative=0.5, additive=1.0):
    def numbers(_job, seed, _rate):
        sizes = list(noise.SIZES)
        wobble = 1 + 0.01 * (seed % 3)
        theory = [1.5 / size for size in sizes]
        layer = {
            "name": "1",
            "positions": 1,
            "multiplicative": [multiplicative / size for size in sizes],
            "additive": [additive * wobble / size for size in sizes],
            "power": [ratio * wobble * value for value in theory],
            "power_theory": theory,
            "accumulated": 0.1,
        }
        return {"sizes": sizes, "layers": [layer, {**layer, "name": "2", "accumulated": 0.2}]}

    return numbers


@pytest.mark.parametrize(
    ("parts", "outcome"),
    [
        ({}, "supported"),
        ({"ratio": 1.3}, "refuted"),
        ({"ratio": 1.09}, "inconclusive"),
        ({"multiplicative": 0.01}, "refuted"),
        ({"additive": 0.01}, "refuted"),
    ],
)
def test_the_verdict_turns_with_the_numbers(fill, parts, outcome):
    verdict = CLAIM.conclude(Task(), SEEDS, fill(CLAIM, Task(), SEEDS, {}, made_up(**parts)))
    assert verdict.outcome == outcome
    assert verdict.effect.estimate == pytest.approx(1.01 * parts.get("ratio", 1.0), rel=0.01)
    assert verdict.controls[0].estimate == pytest.approx(0.2 / (1.5 / 32 * 1.01 * parts.get("ratio", 1.0)), rel=0.02)
    assert records.from_json(records.to_json(verdict), records.Verdict) == verdict


def test_it_shares_the_runs_of_the_noise():
    assert {job.claim for job in CLAIM.plan(Task(), SEEDS, None)} == {"mini-batch-noise"}


def test_dropout_rates_of_a_real_network():
    (numbers,) = noise.run(Task(), Job(noise.KEY, "mlp6", BATCH_NORM, ((0, 0.1),), 60, 64))
    power = noise.by_size([numbers], "power")
    rates = [power[size] / (1 + power[size]) for size in (8, 32, 256)]
    assert rates == pytest.approx([0.165, 0.045, 0.006], rel=0.25)


def test_networks_of_ones_own(conduct, tabular, images):
    for task, figures in ((tabular(), 3), (images, 3)):
        verdict = CLAIM.conclude(task, SMALL, conduct(CLAIM, task, SMALL))
        assert [regime.effect.estimate for regime in verdict.regimes] == pytest.approx([1, 0.5, 0.5], abs=0.35)
        assert "at a rate of" in verdict.meaning
        assert len(verdict.figures) == figures
