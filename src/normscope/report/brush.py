"""How one series of a figure is drawn: points, line, bars, interval or theory."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from normscope.report import palette
from normscope.report.columns import Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from normscope.records import Figure

_ACROSS = ("theory", "line")
"""Kinds that span a category; the others stand side by side in it."""


@dataclass(frozen=True)
class Brush:
    """Draws one series in its own colour, marker and dashes.

    Attributes:
        ax: Where it draws.
        figure: The figure that the series belongs to.
        index: The place of the series in the figure.
        turned: Whether categories stand one below the other.
        named: Whether the positions are categories.
    """

    ax: Axes
    figure: Figure
    index: int
    turned: bool
    named: bool

    def stroke(self, found: list[Point]) -> Any:
        """Draw the points of the series; the handle for the legend."""
        kinds = {"line": self._line, "bars": self._bars, "interval": self._interval, "theory": self._theory}
        return kinds.get(self.figure.series[self.index].kind, self._points)(self._dodged(found))

    @property
    def _style(self) -> dict[str, Any]:
        return {"color": palette.LIGHT[palette.SERIES[self.index % 6]], "zorder": 3}

    @property
    def _marker(self) -> str:
        return palette.MARKERS[self.index % 6]

    @property
    def _slot(self) -> float:
        return 0.8 / max(1, sum(item.kind not in _ACROSS for item in self.figure.series))

    def _dodged(self, found: list[Point]) -> list[Point]:
        """The points moved so that series stand side by side in a category, and points of one series do as well."""
        before = [place for place, item in enumerate(self.figure.series) if item.kind not in _ACROSS]
        if not self.named or self.index not in before:
            return found
        centre = (before.index(self.index) - (len(before) - 1) / 2) * self._slot
        totals, seen, moved = Counter(point.x for point in found), Counter[float](), []
        for point in found:
            last = totals[point.x] - 1
            spread = (seen[point.x] / last - 0.5) * self._slot * 0.5 if last else 0.0
            seen[point.x] += 1
            moved.append(Point(point.x + centre + spread, point.y, point.low, point.high))
        return moved

    def _plot(self, xs: list[float], ys: list[float], **style: Any) -> Any:
        across, up = (ys, xs) if self.turned else (xs, ys)
        return self.ax.plot(across, up, **style)[0]

    def _points(self, found: list[Point]) -> Any:
        return self._plot(
            [point.x for point in found],
            [point.y for point in found],
            linestyle="",
            marker=self._marker,
            markersize=5.5,
            markeredgewidth=1.2,
            markerfacecolor="none",
            **self._style,
        )

    def _line(self, found: list[Point]) -> Any:
        dashes = palette.DASHES[self.index % 6]
        return self._plot(
            [point.x for point in found],
            [point.y for point in found],
            linewidth=1.8,
            linestyle=(0.0, dashes) if dashes else "-",
            marker=self._marker if len(found) <= 24 else "",
            markersize=4.5,
            **self._style,
        )

    def _bars(self, found: list[Point]) -> Any:
        xs = [point.x for point in found]
        width: Any = 0.86 * self._slot
        if not self.named:
            places = sorted(set(xs))
            gap = min((b - a for a, b in itertools.pairwise(places)), default=1.0)
            width = [0.2 * x for x in xs] if self.figure.x_log else 0.7 * gap
        bars = self.ax.barh if self.turned else self.ax.bar
        return bars(xs, [point.y for point in found], width, alpha=0.85, **self._style)

    def _interval(self, found: list[Point]) -> Any:
        whole = [point for point in found if math.isfinite(point.y)]
        errors = [[_gap(point.y, point.low) for point in whole], [_gap(point.high, point.y) for point in whole]]
        xs, ys = [point.x for point in whole], [point.y for point in whole]
        return self.ax.errorbar(
            *((ys, xs) if self.turned else (xs, ys)),
            xerr=errors if self.turned else None,
            yerr=None if self.turned else errors,
            fmt=self._marker,
            markersize=6.5,
            elinewidth=1.8,
            capsize=4,
            capthick=1.4,
            **self._style,
        )

    def _theory(self, found: list[Point]) -> Any:
        order = sum(item.kind == "theory" for item in self.figure.series[: self.index])
        dashes = (0.0, ((6, 3), (2, 2), (8, 2, 2, 2), (12, 4))[order % 4])
        xs, ys = [point.x for point in found], [point.y for point in found]
        if self.named:
            xs = [x for place in xs for x in (place - 0.42, place + 0.42, math.nan)]
            ys = [y for height in ys for y in (height, height, math.nan)]
        lone = "_" if len(xs) == 1 else ""
        ink = palette.LIGHT["ink"]
        return self._plot(xs, ys, linewidth=1.6, linestyle=dashes, marker=lone, markersize=14, color=ink, zorder=4)


def _gap(upper: float, lower: float) -> float:
    gap = upper - lower
    return gap if gap > 0 else 0.0
