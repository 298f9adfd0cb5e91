"""Where the ticks of an axis stand and what is written beside them, so that labels never meet."""

from __future__ import annotations

import itertools
import math
import textwrap
from typing import TYPE_CHECKING

from normscope.report import words

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from matplotlib.axis import Axis

SIZE = 11.5
"""Pixels of the text in a figure."""

LETTER = 0.6 * SIZE
"""Width of an average letter of DejaVu Sans; nearly every system font is narrower."""

LINE = 1.25 * SIZE
"""Height of a line of text."""


def wrapped(text: str, pixels: float, lines: int = 3) -> str:
    """`text` broken into at most `lines` lines of `pixels`, the last one cut with an ellipsis."""
    columns = max(4, int(pixels / LETTER))
    broken = textwrap.wrap(" ".join(text.split()), columns, max_lines=lines, placeholder=" …")
    return "\n".join(broken)


def fits(names: Sequence[str], pixels: float) -> bool:
    """Whether every name stands in a slot of `pixels` on at most two lines without a cut word."""
    columns = int((pixels - 8) / LETTER)
    return all(
        max(map(len, name.split() or [""])) <= columns and len(textwrap.wrap(name, max(1, columns))) <= 2
        for name in names
    )


def place_ticks(axis: Axis, values: Iterable[float], *, log: bool, pixels: float, upright: bool) -> list[str]:
    """Put ticks on `axis`, `pixels` long: on the values where their labels fit, else on round numbers; the labels."""
    low, high = sorted(float(end) for end in axis.get_view_interval())
    for ticks in _choices(sorted(set(values)), low, high, log=log):
        inside = [tick for tick in ticks if low <= tick <= high]
        names = labels(inside, log=log)
        if _apart([_place(tick, low, high, log=log) * pixels for tick in inside], names, upright=upright):
            break
    axis.set_ticks(inside, names)
    axis.set_ticks([], minor=True)
    return names


def _choices(values: list[float], low: float, high: float, *, log: bool) -> Iterator[list[float]]:
    """Candidate ticks, the most telling first, the sparsest last."""
    if 1 < len(values) <= 9:
        yield values
    if log:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for steps in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
            ticks = [step * 10.0**power for power in powers for step in steps]
            if 2 <= sum(low <= tick <= high for tick in ticks) <= 9:
                yield ticks
        for stride in range(2, len(powers)):
            yield [10.0**power for power in powers[::stride]]
    for most in range(6, 1, -1):
        yield linear_ticks(low, high, most)
    yield [low if log else (low + high) / 2]


def _place(tick: float, low: float, high: float, *, log: bool) -> float:
    if low == high:
        return 0.0
    return math.log(tick / low) / math.log(high / low) if log else (tick - low) / (high - low)


def _apart(places: Sequence[float], names: Sequence[str], *, upright: bool) -> bool:
    """Whether no label comes nearer than half a line to the next."""
    sizes = [LINE if upright else len(name) * LETTER for name in names]
    marks = list(zip(places, sizes, strict=True))
    return len(set(names)) == len(names) and all(
        b - a >= (width + other) / 2 + LINE / 2 for (a, width), (b, other) in itertools.pairwise(marks)
    )


def linear_ticks(low: float, high: float, most: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten between `low` and `high`, about `most` of them."""
    from matplotlib.ticker import MaxNLocator

    found = MaxNLocator(nbins=most, steps=[1, 2, 5, 10]).tick_values(low, high)
    return [0.0 if abs(tick) < 1e-12 * (high - low) else float(tick) for tick in found]


def labels(ticks: Sequence[float], *, log: bool) -> list[str]:
    """The ticks as text, all with the decimals that the finest of them needs."""
    if log or any(tick and not 1e-4 <= abs(tick) < 1e6 for tick in ticks):
        return [_short(tick) for tick in ticks]
    for decimals in range(7):
        if all(abs(round(tick, decimals) - tick) <= 1e-9 * max(1.0, abs(tick)) for tick in ticks):
            return [words.number(tick, decimals) for tick in ticks]
    return [words.number(tick) for tick in ticks]


def _short(tick: float) -> str:
    if 1e-4 <= abs(tick) < 1e6 or not tick:
        return f"{tick:.4g}".replace("-", "−")
    mantissa, power = f"{tick:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(power)}".replace("-", "−")
