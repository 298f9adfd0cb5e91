import math

import numpy as np
import pytest
from scipy import stats

from normscope.why import decide


def rate(outcomes, wanted):
    return sum(each == wanted for each in outcomes) / len(outcomes)


def test_the_interval_is_students():
    values = [1.0, 2.0, 4.0, 4.5]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    mean, low, high = decide.interval(values)
    assert mean == pytest.approx(2.875)
    assert (low, high) == pytest.approx((expected.low, expected.high))
    assert decide.interval([3.0]) == (3.0, -math.inf, math.inf)
    assert math.isnan(decide.interval([])[0])


@pytest.mark.parametrize("draw", ["normal", "laplace", "skewed"])
def test_null_effects_are_called_in_either_direction_no_more_often_than_promised(draw):
    # 4000 samples of 8 seeds without an effect whose spread is too wide for equivalence: each tail has a rate of 2.5 %.
    generator = np.random.default_rng(0)
    draws = {
        "normal": generator.normal(size=(4000, 8)),
        "laplace": generator.laplace(size=(4000, 8)),
        "skewed": generator.exponential(size=(4000, 8)) - generator.exponential(size=(4000, 8)),
    }[draw]
    found = [decide.outcome(list(values), 1e-6) for values in draws]
    assert 0.015 < rate(found, "supported") < 0.032
    assert 0.015 < rate(found, "refuted") < 0.032
    bounded = [decide.outcome(list(values), 0.5, bound=True) for values in draws]
    assert rate(bounded, "supported") < 0.005


def test_the_rate_of_false_support_falls_where_the_estimate_must_reach_the_smallest_effect():
    generator = np.random.default_rng(1)
    found = [decide.outcome(list(values), 1.5) for values in generator.normal(size=(4000, 8))]
    assert rate(found, "supported") < 0.005


def test_large_effects_are_found_and_true_nulls_with_small_spread_refuted():
    generator = np.random.default_rng(2)
    large = [decide.outcome(list(values), 1.0) for values in generator.normal(2.0, 1.0, size=(1000, 8))]
    none = [decide.outcome(list(values), 1.0) for values in generator.normal(0.0, 0.2, size=(1000, 8))]
    against = [decide.outcome(list(values), 0.1) for values in generator.normal(-2.0, 1.0, size=(1000, 8))]
    assert rate(large, "supported") > 0.95
    assert rate(none, "refuted") > 0.99
    assert rate(against, "refuted") > 0.95


@pytest.mark.parametrize(
    ("values", "outcome"),
    [
        ([1.0, 1.1, 0.9, 1.0], "supported"),
        ([0.4, 0.5, 0.45, 0.42], "refuted"),
        ([-1.0, -1.1, -0.9, -1.0], "refuted"),
        ([0.0, 0.01, -0.01, 0.0], "refuted"),
        ([1.0, -1.0, 2.0, -2.0], "inconclusive"),
        ([0.3, 0.6, 0.45, 0.5], "inconclusive"),
        ([1.0, math.nan, 1.0, 1.0], "inconclusive"),
        ([math.inf, 1.0, 1.0, 1.0], "inconclusive"),
        ([5.0], "inconclusive"),
        ([], "inconclusive"),
    ],
)
def test_the_rule(values, outcome):
    assert decide.outcome(values, 0.55) == outcome


def test_with_bound_the_intervals_end_must_reach_the_smallest_effect():
    values = [0.9, 1.1, 0.6, 1.4]
    assert decide.outcome(values, 0.8) == "supported"
    assert decide.outcome(values, 0.8, bound=True) == "inconclusive"
    assert decide.outcome(values, 0.4, bound=True) == "supported"


def test_equivalence_needs_the_whole_interval_within_or_beyond_the_margin():
    assert decide.equivalence([0.01, -0.01, 0.0, 0.005], 0.03) == "supported"
    assert decide.equivalence([0.05, 0.06, 0.055, 0.05], 0.03) == "refuted"
    assert decide.equivalence([-0.05, -0.06, -0.055, -0.05], 0.03) == "refuted"
    assert decide.equivalence([0.02, 0.04, 0.0, 0.03], 0.03) == "inconclusive"
    assert decide.equivalence([math.nan, 0.0], 0.03) == "inconclusive"
    generator = np.random.default_rng(3)
    # At the margin itself an interval lies inside in 2.5 % of samples.
    edge = [decide.equivalence(list(values), 0.03) for values in generator.normal(0.03, 0.005, size=(4000, 8))]
    assert 0.015 < rate(edge, "supported") < 0.032


def test_regimes_that_disagree_are_inconclusive():
    assert decide.combine(["supported", "supported"]) == "supported"
    assert decide.combine(["refuted", "supported"]) == "inconclusive"
    assert decide.combine(["supported", "inconclusive"]) == "inconclusive"
    assert decide.combine([]) == "inconclusive"


def test_a_claim_of_several_parts_falls_with_any_of_them():
    assert decide.conjunction(["supported", "supported"]) == "supported"
    assert decide.conjunction(["supported", "refuted", "inconclusive"]) == "refuted"
    assert decide.conjunction(["supported", "inconclusive"]) == "inconclusive"
    assert decide.conjunction([]) == "inconclusive"


def test_an_effect_is_shown_on_the_scale_and_with_the_sign_that_a_person_reads():
    ratio = decide.effect("r", [math.log(2), math.log(8)], (0, 1), math.log(1.25), decide.RATIO)
    assert ratio.estimate == pytest.approx(4.0)
    assert (ratio.null, ratio.smallest, ratio.unit) == (1.0, pytest.approx(1.25), "x")
    assert ratio.per_seed == pytest.approx((2.0, 8.0))
    falls = decide.effect("d", [0.02, 0.04, 0.03], (0, 1, 2), 0.005, decide.difference("nat"), sign=-1.0)
    assert falls.estimate == pytest.approx(-0.03)
    assert falls.low < falls.estimate < falls.high < 0
    assert falls.smallest == -0.005
