import math

import pytest

from normscope.records import Effect, Verdict
from normscope.report import words


def effect(estimate, low, high, unit="", per_seed=(1.0, 2.0)):
    return Effect("name", estimate, low, high, 1.25, 1.0, unit, per_seed, (0, 1))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (3, "3"),
        (0.03, "0.03"),
        (-0.02849, "−0.0285"),
        (12.3456, "12.3"),
        (1234.5, "1234"),
        (2.5e7, "2.50e7"),
        (3.2e-7, "3.20e-7".replace("-", "−")),
        (None, "–"),
        (math.nan, "–"),
        (math.inf, "–"),
        ("12", "–"),
        (True, "–"),
    ],
)
def test_number(value, text):
    assert words.number(value) == text


def test_an_interval_decides_how_many_decimals_are_worth_showing():
    found = effect(2.0174, 1.6049, 2.5262, "x")
    assert (words.estimate(found), words.interval(found)) == ("2.02×", "[1.60, 2.53]")
    wide = effect(4.0211, 0.7541, 21.469, "x")
    assert (words.estimate(wide), words.interval(wide)) == ("4.02×", "[0.754, 21.5]")
    small = effect(-0.02812, -0.0381, -0.0169, "nats")
    assert (words.estimate(small), words.interval(small)) == ("−0.028 nats", "[−0.038, −0.017]")


def test_too_few_seeds_give_no_interval():
    assert words.interval(effect(2.0, -math.inf, math.inf)) == "no interval"
    assert words.seeds(effect(1, 1, 1, per_seed=(1.0,))) == "1 seed"


@pytest.mark.parametrize(
    ("seconds", "text"), [(1.26, "1.3 s"), (59.4, "59 s"), (83.2, "1 min 23 s"), (7500, "2 h 5 min"), (None, "–")]
)
def test_duration(seconds, text):
    assert words.duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (True, "yes"), ([1, None], "1, –"), ({"a": False}, "a = no"), ((), "–"), (0, "0"), ("x", "x")],
)
def test_plain(value, text):
    assert words.plain(value) == text


def test_a_sentence_begins_and_ends_like_one():
    assert words.sentence("it holds") == "It holds."
    assert words.sentence("Does it?") == "Does it?"
    assert words.sentence("") == ""


def test_a_moment_is_short_and_names_its_zone():
    assert words.moment("2026-11-23T18:10:46+00:00") == "2026-11-23 18:10 UTC"
    assert words.moment("last Monday") == "last Monday"


@pytest.mark.parametrize("text", ["../../etc/passwd", "a b", "", "/", "É" * 100])
def test_a_slug_is_safe_in_a_path_and_in_an_id(text):
    slug = words.slug(text)
    assert slug
    assert set(slug) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


def test_the_family_rate_counts_the_decided_claims_only():
    verdicts = [
        Verdict(str(place), "t", "s", outcome, "u")
        for place, outcome in enumerate(["supported"] * 3 + ["refuted"] * 2 + ["inconclusive", "not applicable"])
    ]
    text = words.family(verdicts)
    assert "5 claims decided" in text
    assert "1 − 0.95⁵ = 23 %" in text
    assert "at most 5 %" in words.family(verdicts[:1])
    assert "No claim was decided" in words.family(verdicts[-1:])


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("-.03 to .5 of it", "−0.03 to 0.5 of it"),
        ("1.8 x [-1.3, 2.6]; 2 x.", "1.8× [−1.3, 2.6]; 2×."),
        ("images of 8 x 8, H x W, torch 2.13.0, 1e-5, 3-8", "images of 8 x 8, H x W, torch 2.13.0, 1e-5, 3-8"),
        ("55% of plain - batch norm", "55 % of plain − batch norm"),
    ],
)
def test_numbers_are_set_as_a_printer_sets_them(text, printed):
    assert words.typeset(text) == printed


def test_an_end_that_is_not_the_null_does_not_read_as_if_it_were():
    effect = Effect("fall", -0.071, -0.142, -0.0012, 0.03, 0.0, "of accuracy", (-0.07,), (0,))
    assert words.interval(effect) == "[−0.142, −0.001]"
    assert words.estimate(effect) == "−0.071 of accuracy"
    assert words.interval(Effect("fall", -0.166, -0.3318, 0.0002, 0.03, 0.0, "", (0.1,), (0,))) == "[−0.33, 0.00]"
