"""Error rates are those of the protocol: a sound one passes, a broken one is caught, and a real claim goes through."""

import dataclasses
import random
from types import SimpleNamespace

import pytest

from normscope.records import Effect
from normscope.why import calibrate, decide, registry
from normscope.why.arms import BATCH_NORM, PLAIN, Arm
from normscope.why.claim import Calibration, Claim, Plan, Task
from normscope.why.job import Job

_SMALLEST = 0.5
_PLANTED = Arm("planted", updates=2.0)


def _plan(_task, plan, _results):
    return [Job("toy", "mlp2", arm, tuple((seed, 0.1) for seed in plan.seeds), 1, 1) for arm in (PLAIN, BATCH_NORM)]


def _run(_task, job):
    """Normal numbers, a different one for each arm, order and seed; the planted arm stands one higher."""
    lift = 2 * _SMALLEST if job.arm.updates > 1 else 0.0
    return [{"x": lift + random.Random(f"{job.arm.order} {seed} {lift}").gauss(0, 0.5)} for seed in job.seeds]


def _values(plan, results):
    found = {
        arm.name: [results.get("toy", "mlp2", arm, seed, 0.1)["x"] for seed in plan.seeds]
        for arm in (PLAIN, BATCH_NORM)
    }
    return [b - a for a, b in zip(found[PLAIN.name], found[BATCH_NORM.name], strict=True)]


def _claim(outcome):
    def conclude(_task, plan, results):
        values = _values(plan, results)
        effect = decide.effect("toy", values, plan.seeds, _SMALLEST, decide.difference("toys"))
        return claim.verdict(outcome=outcome(values), summary="", effect=effect)

    claim = Claim(
        "toy", "", "", (), "", "", "", "", "", lambda _task: "", _plan, _run, conclude,
        Calibration(PLAIN, BATCH_NORM, ((2.0, _PLANTED),), "mlp2"),
    )  # fmt: skip
    return claim


def _execute(claim, task):
    return lambda jobs: [(job, claim.run(task, job)) for job in jobs]


def _rates(outcome, cases=1500):
    claim, pool = _claim(outcome), calibrate.pool_of(60, 4)
    return calibrate.calibrate(claim, Task(), calibrate.plan_of(pool), pool, cases, _execute(claim, Task()))


def test_the_decision_rule_keeps_its_word_and_finds_what_is_planted():
    null, planted = _rates(lambda values: decide.outcome(values, _SMALLEST))
    assert null.bound <= 0.05
    assert null.against <= null.reversed <= 0.05 * null.cases
    assert null.wrong == {"false support": null.supported, "false refutation": null.against}
    assert abs(null.effect) < 0.1
    assert planted.effect == pytest.approx(2 * _SMALLEST, abs=0.15)
    assert planted.power > 0.8
    assert planted.bound <= 0.05


def test_a_rule_that_looks_at_the_mean_alone_is_caught():
    null, _ = _rates(lambda values: "supported" if sum(values) / len(values) > 0.1 else "inconclusive")
    assert null.bound > 0.05


def test_a_refutation_is_wrong_where_it_rests_on_an_effect_the_other_way():
    def case(low, high, smallest=1.25, null=1.0, outcome="refuted"):
        effect = Effect("toy", (low * high) ** 0.5 if null else 0.0, low, high, smallest, null, "x", (), ())
        return SimpleNamespace(outcome=outcome, effect=effect, regimes=())

    wrong = [case(0.7, 0.95), case(1.1, 1.4, smallest=0.8), case(-0.3, -0.01, 0.1, 0.0)]
    right = [case(0.85, 0.95), case(0.9, 1.3, outcome="inconclusive"), case(-0.09, -0.01, 0.1, 0.0), case(1.3, 1.4)]
    claim = SimpleNamespace(key="toy", calibration=None)
    assert calibrate._count(claim, 0.0, wrong + right).against == len(wrong)
    assert calibrate._count(claim, 0.0, right).against == 0


def test_a_claim_of_no_effect_errs_the_other_way_round():
    null = calibrate.Rate("toy", 0.0, 100, 98, 2, 40, 2, 0.0, equivalence=True)
    planted = calibrate.Rate("toy", 2.0, 100, 1, 90, 40, 40, 0.0, equivalence=True)
    assert null.wrong == {"false refutation": 2}
    assert planted.wrong == {"false support": 1}
    assert (null.power, planted.power) == (0.98, 0.9)


def test_the_bound_is_clopper_and_pearson_s():
    rate = calibrate.Rate("toy", 0.0, 300, 8, 0, 0, 0, 0.0)
    assert rate.upper(8) == pytest.approx(0.0476, abs=0.0005)
    assert rate.upper(0) == pytest.approx(1 - 0.05 ** (1 / 300))
    assert rate.upper(300) == 1.0


def test_pairs_stay_pairs_and_never_meet_their_own_run():
    """Both labels of a seed stand for one seed of the pool, in different orders."""
    pool = calibrate.pool_of(10, 4)
    claim = _claim(lambda _values: "inconclusive")
    case = calibrate._Case(calibrate.Results(), claim.calibration, PLAIN, pool, ["plain", "batch norm"], "0")
    seeds = {case.seed(seed) for seed in range(8)}
    assert len(seeds) == 8
    assert all(case.arm("plain", seed).order != case.arm("batch norm", seed).order for seed in range(8))
    assert {case.arm("plain", seed).order for seed in range(8)} == {0, 1}
    assert not seeds & set(pool.selection)


def test_every_claim_says_how_its_null_and_planted_cases_are_made():
    for key in registry.KEYS:
        calibration = registry.claim(key).calibration
        assert calibration is not None
        assert [multiple for multiple, _ in calibration.planted] == [1.0, 2.0]
        assert len({calibration.control, *(arm for _, arm in calibration.planted)}) == 3


def test_a_real_claim_goes_through_with_real_trainings():
    """Small: two cases of each kind, on short runs; benchmarks/error_rates.py does 300."""
    claim, task = registry.claim("slight-regularization"), Task()
    pool = calibrate.pool_of(2, 2)
    plan = Plan("quick", (0, 1), pool.selection[:1])

    def execute(jobs):
        return [(job, registry.execute(task, dataclasses.replace(job, steps=5))) for job in jobs]

    rates = calibrate.calibrate(claim, task, plan, pool, 2, execute)
    assert [rate.planted for rate in rates] == [0.0, 1.0, 2.0]
    assert all(rate.cases == 2 for rate in rates)
