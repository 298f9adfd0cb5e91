"""The seams of the speed benchmarks: what counts as measured in quiet memory."""

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def memory(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from speed.memory import Memory

    return Memory


@pytest.mark.parametrize(
    ("rates", "counted"),
    [
        ([70, 62], 1),  # quiet before and after
        ([70, 61, 70, 70], 2),  # what memory left meanwhile is measured again
        ([61, 30, 70, 70], 1),  # nothing is measured until memory is quiet
    ],
)
def test_what_counts_ran_between_two_copies_at_the_floor(memory, monkeypatch, rates, counted):
    found = memory(62)
    left, runs = iter(rates), iter(range(1, 9))
    monkeypatch.setattr(found, "rate", lambda: next(left))
    assert found.undisturbed(lambda: next(runs)) == counted
    assert next(left, None) is None


def test_without_a_floor_nothing_is_asked_of_memory(memory, monkeypatch):
    found = memory(0)
    monkeypatch.delattr(memory, "rate")
    assert found.undisturbed(lambda: "measured") == "measured"


def test_the_rate_is_that_of_both_ways(memory):
    # No machine that runs this copies 96 MiB at less than 0.2 or more than 2000 GB/s.
    assert 0.2 < memory(1).rate() < 2000
