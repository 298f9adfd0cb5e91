"""A figure of a record as a matplotlib drawing: every series kind, categorical and logarithmic axes, marks, legend."""

from __future__ import annotations

import math
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from normscope.report import axes, columns, palette
from normscope.report.brush import Brush

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

    from normscope.records import Figure, Mark, Series

_INK, _MUTED, _GRID = (palette.LIGHT[name] for name in ("ink", "muted", "grid"))
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "normscope",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": axes.SIZE,
    "axes.unicode_minus": True,
    "path.simplify": False,
}


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


@contextmanager
def settings() -> Iterator[None]:
    """Matplotlib's own defaults plus ours, whatever the user's; a glyph that no font has is no warning."""
    import matplotlib as mpl

    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS)
        yield


def draw(figure: Figure, canvas: Canvas) -> Drawing:
    """`figure` on `canvas`; call inside `settings()`."""
    from matplotlib.figure import Figure as Drawing
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    pen = Pen(figure, canvas)
    layout = ConstrainedLayoutEngine(w_pad=4 / 72, h_pad=5 / 72)
    drawing = Drawing(figsize=(canvas.width / 72, pen.height / 72), dpi=72, layout=layout)
    drawing.patch.set_alpha(0)
    pen.ax = drawing.add_subplot()
    pen.frame()
    for index, series in enumerate(figure.series):
        pen.series(index, series)
    for index, mark in enumerate(figure.marks):
        pen.mark(index, mark)
    pen.finish(drawing)
    return drawing


class Pen:
    """Draws one figure; with long categories it is turned, so that they stand one below the other."""

    ax: Axes

    def __init__(self, figure: Figure, canvas: Canvas) -> None:
        self.figure, self.canvas = figure, canvas
        self.categories = columns.categories(figure)
        slot = (canvas.width - 60) / max(1, len(self.categories))
        self.turned = bool(self.categories) and not axes.fits(self.categories, slot)
        self.found = [columns.thinned(columns.points(figure, item), canvas.most) for item in figure.series]
        self.entries: list[tuple[Any, str]] = []

    @property
    def height(self) -> float:
        """Pixels: a fixed plot area, more for a turned axis with many categories, plus the legend and title."""
        body = 250.0 if self.canvas.width > 500 else 220.0
        if self.turned:
            side = sum(item.kind != "theory" for item in self.figure.series)
            lines = max(name.count("\n") + 1 for name in self._names())
            body = 60.0 + len(self.categories) * max(34.0, 13.0 * side, lines * axes.LINE + 8)
        rows = math.ceil((len(self.figure.series) + len(self.figure.marks)) / self._across())
        lines = 2 if self.canvas.width <= 500 else 1
        return body + 40 + rows * (axes.LINE * lines + 4) + (34 if self.canvas.titled else 0)

    def _across(self) -> int:
        names = [item.name for item in self.figure.series] + [item.label for item in self.figure.marks]
        longest = min(max(map(len, names), default=1) * axes.LETTER + 46, self.canvas.width)
        return max(1, min(len(names) or 1, int((self.canvas.width - 10) / longest)))

    def frame(self) -> None:
        """A quiet frame: two spines, a grid along the values, no tick marks."""
        self.ax.set_facecolor("none")
        for side, spine in self.ax.spines.items():
            spine.set_visible(side in {"left", "bottom"})
            spine.set_color(_MUTED)
        self.ax.tick_params(length=0, colors=_MUTED, labelsize=axes.SIZE)
        self.ax.grid(visible=True, axis="x" if self.turned else "y", color=_GRID, linewidth=0.8)
        self.ax.set_axisbelow(True)
        value, position = ("x", "y") if self.turned else ("y", "x")
        if self.figure.y_log:
            getattr(self.ax, f"set_{value}scale")("log")
        if self.figure.x_log and not self.categories:
            getattr(self.ax, f"set_{position}scale")("log")

    def series(self, index: int, series: Series) -> None:
        """Draw one series in its colour, marker and dashes."""
        brush = Brush(self.ax, self.figure, index, turned=self.turned, named=bool(self.categories))
        handle = brush.stroke(self.found[index])
        if series.name:
            self.entries.append((handle, series.name))

    def mark(self, index: int, mark: Mark) -> None:
        """Draw one reference line; its name stands in the legend, where it can cover nothing."""
        log = self.figure.x_log if mark.axis == "x" else self.figure.y_log
        if mark.at is None or not math.isfinite(mark.at) or (log and mark.at <= 0):
            return
        line = self.ax.axhline if (mark.axis == "y") != self.turned else self.ax.axvline
        dashes = (0.0, ((1, 2), (5, 2), (5, 2, 1, 2), (9, 3))[index % 4])
        handle = line(mark.at, color=_INK, linewidth=1.1, linestyle=dashes, zorder=2)
        self.entries.append((handle, mark.label))

    def finish(self, drawing: Drawing) -> None:
        """Ticks, labels, title and the legend above the plot."""
        figure, width = self.figure, self.canvas.width
        up, across = (self.ax.xaxis, self.ax.yaxis) if self.turned else (self.ax.yaxis, self.ax.xaxis)
        every = [point for found in self.found for point in found]
        if not any(math.isfinite(point.y) for point in every):
            self.ax.text(0.5, 0.5, "Nothing was measured", ha="center", color=_MUTED, transform=self.ax.transAxes)
            for axis in (up, across):
                axis.set_ticks([], [])
                axis.set_ticks([], minor=True)
        else:
            if self.categories:
                self._category_axis(across)
            else:
                axes.place_ticks(
                    across, (point.x for point in every), log=figure.x_log, pixels=width - 70, upright=False
                )
            pixels = width * 0.6 if self.turned else 170
            axes.place_ticks(up, (), log=figure.y_log, pixels=pixels, upright=not self.turned)
        above, below = (figure.x_label, figure.y_label) if self.turned else (figure.y_label, figure.x_label)
        self.ax.set_title(axes.wrapped(above, width - 70), loc="left", fontsize=axes.SIZE, color=_MUTED, pad=8)
        self.ax.set_xlabel(axes.wrapped(below, width - 70), color=_MUTED, labelpad=6)
        if self.canvas.titled:
            drawing.suptitle(axes.wrapped(figure.title, width - 60), x=0.01, ha="left", color=_INK, fontsize=13)
        self._legend(drawing)

    def _names(self) -> list[str]:
        room = self.canvas.width * (0.34 if self.turned else 1 / len(self.categories))
        return [axes.wrapped(name, room - 6, 4 if self.turned else 2) for name in self.categories]

    def _category_axis(self, axis: Any) -> None:
        count = len(self.categories)
        axis.set_ticks(range(count), self._names())
        if self.turned:
            self.ax.set_ylim(count - 0.5, -0.5)
        else:
            self.ax.set_xlim(-0.5, count - 0.5)

    def _legend(self, drawing: Drawing) -> None:
        if not self.entries:
            return
        across = self._across()
        room = self.canvas.width / across - 46
        drawing.legend(
            [handle for handle, _ in self.entries],
            [axes.wrapped(name, room, 2) for _, name in self.entries],
            loc="outside upper left",
            ncols=across,
            frameon=False,
            labelcolor=_INK,
            handlelength=2.4,
            columnspacing=1.4,
            borderpad=0.1,
        )
