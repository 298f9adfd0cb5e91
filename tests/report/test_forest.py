import math
import re

import pytest

from normscope.records import Effect
from normscope.report import forest


def effect(estimate, low, high, *, smallest=1.25, null=1.0, unit="x", per_seed=()):
    return Effect("name", estimate, low, high, smallest, null, unit, per_seed, ())


def dot(found):
    return float(re.search(r'class="estimate" cx="([\d.]+)"', forest.bar(found)).group(1))


def test_a_ratio_and_its_inverse_lie_as_far_on_either_side():
    assert forest.units(effect(1.25, 1, 2), 1.25) == pytest.approx(1)
    assert forest.units(effect(1.25, 1, 2), 1 / 1.25) == pytest.approx(-1)
    assert dot(effect(2.0, 1.5, 3)) - 100 == pytest.approx(100 - dot(effect(0.5, 0.4, 0.6)), abs=0.11)


def test_the_claimed_direction_is_always_right():
    falling = effect(-0.028, -0.038, -0.017, smallest=-0.005, null=0.0, unit="nats")
    assert dot(falling) > 100
    ratio = effect(0.5, 0.4, 0.65, smallest=0.8)
    assert dot(ratio) > 100


def test_the_scale_is_cut_at_its_edges():
    assert forest.squeeze(1e9) == 5
    assert forest.squeeze(-1e9) == -5
    assert forest.squeeze(0.5) == 0.5
    assert forest.squeeze(4) == 3


def test_every_seed_is_a_dot_and_the_label_says_the_numbers():
    bar = str(forest.bar(effect(2.0, 1.6, 2.5, per_seed=(1.9, 2.1, math.nan))))
    assert bar.count('class="seed"') == 2
    assert 'role="img"' in bar
    assert "2.00×, 95 % interval [1.60, 2.50]" in bar


@pytest.mark.parametrize(
    "found",
    [
        None,
        effect(math.nan, math.nan, math.nan),
        effect(-1.0, -2.0, 1.0),
        effect(2.0, 1.0, 3.0, smallest=1.0),
    ],
)
def test_what_has_no_place_on_the_scale_has_no_bar(found):
    assert forest.bar(found) == ""


def test_an_endless_interval_leaves_the_estimate():
    bar = str(forest.bar(effect(2.0, -math.inf, math.inf)))
    assert "interval" in bar
    assert 'class="interval"' not in bar
    assert 'class="estimate"' in bar


def test_a_unit_is_escaped_in_the_label():
    bar = str(forest.bar(effect(2.0, 1.0, 3.0, null=0.0, unit='"><script>')))
    assert "<script>" not in bar
