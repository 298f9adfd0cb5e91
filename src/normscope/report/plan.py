"""Where everything of a figure will stand, in pixels from the top, before anything is drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from normscope.report import axes, columns

if TYPE_CHECKING:
    from normscope.records import Figure

_HANDLE = 52.0
"""Pixels that an entry of the legend needs beside its text."""


@dataclass(frozen=True)
class Canvas:
    """The size of a drawing in pixels, and how much it may hold.

    Attributes:
        width: Pixels across.
        titled: Whether the title stands in the drawing itself.
        most: Points drawn for one series at most.
    """

    width: int
    titled: bool = False
    most: int = 400


class Plan:
    """The recipe of one drawing: its texts broken into lines, and the height of each of its parts.

    With categories whose names do not fit side by side the figure is turned, so that they stand one below the other.
    """

    def __init__(self, figure: Figure, canvas: Canvas) -> None:
        self.figure, self.width = figure, canvas.width
        self.categories = columns.categories(figure)
        slot = (canvas.width - 60) / max(1, len(self.categories))
        self.turned = bool(self.categories) and not axes.fits(self.categories, slot)
        above, below = (figure.x_label, figure.y_label) if self.turned else (figure.y_label, figure.x_label)
        self.above, self.below = (axes.wrapped(text, canvas.width - 70) for text in (above, below))
        self.title = axes.wrapped(figure.title, (canvas.width - 40) * axes.SIZE / 13) if canvas.titled else ""

    @cached_property
    def names(self) -> list[str]:
        """The categories' names in lines that fit."""
        room = self.width * 0.34 if self.turned else (self.width - 60) / max(1, len(self.categories)) - 8
        return [axes.wrapped(name, room, 4 if self.turned else 2) for name in self.categories]

    @cached_property
    def across(self) -> int:
        """Entries of the legend in one row."""
        names = [item.name for item in self.figure.series] + [item.label for item in self.figure.marks]
        longest = min(max(map(len, names), default=1) * axes.LETTER + _HANDLE, self.width)
        return max(1, min(len(names) or 1, int((self.width - 10) / longest)))

    def entry(self, name: str) -> str:
        """A name in the legend, in lines that fit."""
        return axes.wrapped(name, self.width / self.across - _HANDLE, 2)

    @cached_property
    def legend_top(self) -> float:
        """Where the legend begins: below the title."""
        return _lines(self.title) * 17.0 + (10.0 if self.title else 4.0)

    @cached_property
    def above_top(self) -> float:
        """Where the label above the plot begins: below the legend."""
        heights = [_lines(self.entry(name)) * 1.2 * axes.SIZE + 0.5 * axes.SIZE for name in self._shown()]
        rows = math.ceil(len(heights) / self.across)
        tallest = max((sum(heights[at : at + rows]) for at in range(len(heights))), default=0.0)
        return self.legend_top + tallest + 6.0

    @cached_property
    def plot_top(self) -> float:
        """Where the plot begins."""
        return self.above_top + _lines(self.above) * axes.LINE + 7.0

    @cached_property
    def plot_height(self) -> float:
        """Fixed, and for a turned figure as much as its categories need."""
        if not self.turned:
            return 230.0 if self.width > 500 else 200.0
        side = sum(item.kind not in {"theory", "line"} for item in self.figure.series)
        lines = max(map(_lines, self.names))
        return len(self.names) * max(24.0, 13.0 * side + 4, lines * axes.LINE + 8) + 6

    @cached_property
    def below_top(self) -> float:
        """Where the label below the plot begins: below the tick labels."""
        lines = max(map(_lines, self.names), default=1) if not self.turned else 1
        return self.plot_top + self.plot_height + lines * axes.LINE + 9.0

    @cached_property
    def height(self) -> float:
        """All of it."""
        return math.ceil(self.below_top + _lines(self.below) * axes.LINE + 5.0)

    def _shown(self) -> list[str]:
        names = [item.name for item in self.figure.series] + [item.label for item in self.figure.marks]
        return [name for name in names if name]


def _lines(text: str) -> int:
    return text.count("\n") + 1 if text else 0
