"""A figure's series as plain numbers: what is drawn, and the table behind the drawing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from normscope.report import words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from normscope.records import Figure, Mark, Series


@dataclass(frozen=True)
class Point:
    """One position of a series; NaN where there is no number."""

    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True)
class Table:
    """The table behind a figure: heads, rows of text, and how many rows were left out."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left_out: int


def categories(figure: Figure) -> tuple[str, ...]:
    """The words along a categorical axis in order of appearance; () where x is a number everywhere."""
    positions = [x for series in figure.series for x in series.x]
    if not any(isinstance(x, str) for x in positions):
        return ()
    return tuple(dict.fromkeys(_word(x) for x in positions))


def points(figure: Figure, series: Series) -> list[Point]:
    """The drawable points of `series`: known x, and a y that is above 0 on a logarithmic axis."""
    names = {name: float(place) for place, name in enumerate(categories(figure))}
    found = []
    for index, (x, y) in enumerate(zip(series.x, series.y, strict=False)):
        place = names[_word(x)] if names else _scaled(x, log=figure.x_log)
        if not math.isnan(place):
            low, high = (_scaled(_item(ends, index), log=figure.y_log) for ends in (series.low, series.high))
            found.append(Point(place, _scaled(y, log=figure.y_log), low, high))
    return found


def thinned(found: list[Point], most: int) -> list[Point]:
    """At most about `most` of the points, evenly taken, the first and the last among them."""
    if len(found) <= most:
        return found
    step = (len(found) - 1) / (most - 1)
    return [found[round(index * step)] for index in range(most)]


def table(figure: Figure, most: int = 200) -> Table:
    """The table behind `figure`, at most `most` rows long."""
    ends = any(series.low or series.high for series in figure.series)
    rows = [
        (series.name, _word(x), words.number(y), *(_ends(series, index) if ends else ()))
        for series in figure.series
        for index, (x, y) in enumerate(zip(series.x, series.y, strict=False))
    ]
    rows += [(mark.label, *_reference(mark), *(("", "") if ends else ())) for mark in figure.marks]
    heads = ("Series", figure.x_label, figure.y_label, *(("Low", "High") if ends else ()))
    return Table(heads, tuple(rows[:most]), max(0, len(rows) - most))


def _reference(mark: Mark) -> tuple[str, str]:
    at = words.number(mark.at)
    return (at, "any") if mark.axis == "x" else ("any", at)


def _ends(series: Series, index: int) -> tuple[str, str]:
    return words.number(_item(series.low, index)), words.number(_item(series.high, index))


def _item(values: Sequence[float | None], index: int) -> float | None:
    return values[index] if index < len(values) else None


def _word(x: Any) -> str:
    return " ".join(x.split()) if isinstance(x, str) else words.number(x)


def _scaled(value: Any, *, log: bool) -> float:
    real = words.finite(value)
    return math.nan if real is None or (log and real <= 0) else real
