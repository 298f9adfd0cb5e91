"""Paired effects, their intervals and the verdicts that follow; numbers in, numbers out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import stdtrit

from normscope.records import Effect, Outcome


@dataclass(frozen=True)
class Scale:
    """How a paired value is read: 'difference' as it is, 'ratio' as the exponential of a natural logarithm."""

    name: str
    unit: str

    def show(self, value: float) -> float:
        """A value of the deciding scale as a person reads it."""
        return math.exp(min(value, 700.0)) if self.name == "ratio" else value

    @property
    def null(self) -> float:
        """Where no effect lies on the scale that a person reads."""
        return 1.0 if self.name == "ratio" else 0.0


RATIO = Scale("ratio", "x")


def difference(unit: str) -> Scale:
    """The scale of plain differences in `unit`."""
    return Scale("difference", unit)


def interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """(mean, low, high) of independent values by Student's t; infinite ends for fewer than two values.

    All NaN where a value is not finite.
    """
    sample = np.asarray(values, dtype=float)
    if not np.isfinite(sample).all():
        return math.nan, math.nan, math.nan
    mean = float(sample.mean()) if len(sample) else math.nan
    if len(sample) < 2:
        return mean, -math.inf, math.inf
    half = _quantile(confidence, len(sample) - 1) * float(sample.std(ddof=1)) / math.sqrt(len(sample))
    return mean, mean - half, mean + half


@lru_cache
def _quantile(confidence: float, freedom: int) -> float:
    """Half the width of the central interval of Student's t."""
    return float(stdtrit(freedom, 0.5 + confidence / 2))


def outcome(values: Sequence[float], smallest: float, *, bound: bool = False) -> Outcome:
    """The verdict on paired values whose claimed direction is positive.

    Supported: the 95 % interval excludes 0 in the claimed direction and the mean (with `bound`, the interval's lower
    end) reaches `smallest`. Refuted: the interval excludes 0 in the other direction, or lies wholly inside
    +- `smallest`. Anything else is inconclusive, as is a sample with a value that is not finite.

    Args:
        values: One number for each seed.
        smallest: Smallest effect of interest, positive, on the same scale.
        bound: Whether the interval's end, not the mean, has to reach it.
    """
    mean, low, high = interval(values)
    if not math.isfinite(mean) or not math.isfinite(low):
        return "inconclusive"
    if low > 0 and (low if bound else mean) >= smallest:
        return "supported"
    if high < 0 or (-smallest < low and high < smallest):
        return "refuted"
    return "inconclusive"


def equivalence(values: Sequence[float], margin: float) -> Outcome:
    """The verdict on values that are claimed to be 0: supported when their interval lies inside +- `margin`.

    Refuted when the whole interval lies beyond the margin on one side.
    """
    mean, low, high = interval(values)
    if not math.isfinite(mean) or not math.isfinite(low):
        return "inconclusive"
    if -margin < low and high < margin:
        return "supported"
    return "refuted" if low > margin or high < -margin else "inconclusive"


def combine(outcomes: Sequence[Outcome]) -> Outcome:
    """One verdict over several deciding regimes: theirs where they agree, else inconclusive."""
    return outcomes[0] if outcomes and len(set(outcomes)) == 1 else "inconclusive"


def conjunction(outcomes: Sequence[Outcome]) -> Outcome:
    """One verdict where a claim has several parts in the same regime: refuted with any of them, supported with all."""
    if "refuted" in outcomes:
        return "refuted"
    return "supported" if outcomes and set(outcomes) == {"supported"} else "inconclusive"


def effect(  # the parts of one record
    name: str, values: Sequence[float], seeds: Sequence[int], smallest: float, scale: Scale, sign: float = 1.0
) -> Effect:
    """The record of a paired effect, on the scale that a person reads.

    Args:
        name: What is compared.
        values: One number for each seed on the deciding scale, claimed direction positive.
        seeds: The seeds.
        smallest: Smallest effect of interest on the deciding scale.
        scale: How values are read.
        sign: -1 where a person reads the effect with the opposite sign (a loss that falls).
    """
    mean, low, high = interval(values)
    ends = sorted(scale.show(sign * end) for end in (low, high))
    return Effect(
        name,
        scale.show(sign * mean),
        ends[0],
        ends[1],
        scale.show(sign * smallest),
        scale.null,
        scale.unit,
        tuple(scale.show(sign * value) for value in values),
        tuple(seeds),
    )
