import math

import pytest

from normscope import records
from normscope.why import registry
from normscope.why.arms import BATCH_NORM, PLAIN, Arm
from normscope.why.claim import Plan, Task
from normscope.why.claims import same_range
from normscope.why.claims.same_range import CLAIM
from normscope.why.job import Job

BEST = {"plain": 0.03, "batch norm": 0.1}
SEEDS = Plan("standard", tuple(range(8)), (100,))


def made_up(plain, normed, gradients=(0.2, 0.3)):
    def numbers(job, seed, _rate):
        at = 0 if job.arm.name == "plain" else 1
        level = {
            "spread": (plain, normed)[at] + 0.01 * (seed % 3),
            "gradients": gradients[at],
            "low": [0.5],
            "median": [1.0],
            "high": [2.0],
        }
        return {name: {**level, "step": 5, "loss": 0.3, "reached": True} for name, _, _ in same_range._LEVELS}

    return numbers


@pytest.mark.parametrize(
    ("plain", "normed", "outcome"),
    [(0.35, 0.05, "supported"), (0.05, 0.35, "refuted"), (0.2, 0.2, "refuted"), (0.25, 0.2, "refuted")],
)
def test_the_verdict_turns_with_the_numbers(fill, plain, normed, outcome):
    results = fill(CLAIM, Task(), SEEDS, BEST, made_up(plain, normed))
    verdict = CLAIM.conclude(Task(), SEEDS, results)
    assert verdict.outcome == outcome
    assert verdict.effect.estimate == pytest.approx(plain - normed)
    assert records.from_json(records.to_json(verdict), records.Verdict) == verdict


def test_losses_that_disagree_are_inconclusive(fill):
    def numbers(job, seed, rate):
        found = made_up(0.35, 0.05)(job, seed, rate)
        return found | {"late": made_up(0.05, 0.35)(job, seed, rate)["late"]}

    verdict = CLAIM.conclude(Task(), SEEDS, fill(CLAIM, Task(), SEEDS, BEST, numbers))
    assert [regime.outcome for regime in verdict.regimes] == ["supported", "refuted"]
    assert verdict.outcome == "inconclusive"


def test_a_run_that_never_got_there_is_told(fill):
    def numbers(job, seed, rate):
        found = made_up(0.35, 0.05)(job, seed, rate)
        found["late"] = found["late"] | {"reached": seed != 3 or job.arm.name == "plain"}
        return found

    verdict = CLAIM.conclude(Task(), SEEDS, fill(CLAIM, Task(), SEEDS, BEST, numbers))
    assert "1 runs never came down" in verdict.regimes[1].note


def trained(arm, rate, levels):
    options = tuple((f"level {name}", loss) for name, loss in levels)
    job = Job(CLAIM.key, "mlp6", arm, ((0, rate), (1, rate)), 120, 64, options=options)
    return registry.execute(Task(), job)


def test_batch_norm_starts_with_one_range_by_construction_and_keeps_it():
    levels = (("before training", 1e30), ("mid-training", 0.3))
    plain, normed = trained(PLAIN, 0.03, levels), trained(BATCH_NORM, 0.1, levels)
    for a, b in zip(plain, normed, strict=True):
        assert b["before training"]["spread"] < 1e-3
        assert 0.15 < a["before training"]["spread"] < 0.45
        assert a["mid-training"]["spread"] - b["mid-training"]["spread"] > 0.1
        assert b["mid-training"]["gradients"] > 0
        assert b["mid-training"]["low"][0] <= b["mid-training"]["median"][0] <= b["mid-training"]["high"][0]


def test_planted_spread_of_rows_is_seen():
    def spread(deviation):
        found = trained(Arm("x", norm="removed", spread=deviation), 0.03, (("before training", 1e30),))
        return sum(numbers["before training"]["spread"] for numbers in found) / 2

    plain, planted = spread(0.0), spread(0.5)
    assert planted == pytest.approx(math.hypot(plain, 0.5), rel=0.1)


def test_on_a_network_of_ones_own(tabular, conduct, quick):
    task = tabular()
    verdict = CLAIM.conclude(task, quick, conduct(CLAIM, task, quick))
    assert verdict.outcome in ("supported", "refuted", "inconclusive")
    assert verdict.effect.estimate == pytest.approx(sum(verdict.effect.per_seed) / 2)
    assert "network" in verdict.meaning


def test_it_applies_everywhere():
    assert CLAIM.applies(Task()) == ""
