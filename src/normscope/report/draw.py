"""A figure of a record as a matplotlib drawing: every series kind, categorical and logarithmic axes, marks, legend."""

from __future__ import annotations

import math
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from normscope.report import axes, columns, palette, words
from normscope.report.brush import Brush
from normscope.report.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

    from normscope.records import Figure, Mark, Series
    from normscope.report.plan import Canvas

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

    plan = Plan(figure, canvas)
    drawing = Drawing(figsize=(plan.width / 72, plan.height / 72), dpi=72)
    drawing.patch.set_alpha(0)
    pen = Pen(plan, canvas, drawing)
    pen.frame()
    for index, series in enumerate(figure.series):
        pen.series(index, series)
    for index, mark in enumerate(figure.marks):
        pen.mark(index, mark)
    left = pen.ticks()
    pen.texts(left)
    return drawing


class Pen:
    """Draws one figure by its plan."""

    def __init__(self, plan: Plan, canvas: Canvas, drawing: Drawing) -> None:
        self.plan, self.figure, self.drawing = plan, plan.figure, drawing
        self.ax: Axes = drawing.add_subplot()
        self.found = [columns.thinned(columns.points(self.figure, item), canvas.most) for item in self.figure.series]
        self.entries: list[tuple[Any, str]] = []

    def frame(self) -> None:
        """A quiet frame: two spines, a grid along the values, no tick marks."""
        turned = self.plan.turned
        self.ax.set_facecolor("none")
        for side, spine in self.ax.spines.items():
            spine.set_visible(side in {"left", "bottom"})
            spine.set_color(_MUTED)
        self.ax.tick_params(length=0, colors=_MUTED, labelsize=axes.SIZE)
        self.ax.grid(visible=True, axis="x" if turned else "y", color=_GRID, linewidth=0.8)
        self.ax.set_axisbelow(True)
        if self.figure.y_log:
            (self.ax.set_xscale if turned else self.ax.set_yscale)("log")
        if self.figure.x_log and not self.plan.categories:
            self.ax.set_xscale("log")

    def series(self, index: int, series: Series) -> None:
        """Draw one series in its colour, marker and dashes."""
        brush = Brush(self.ax, self.figure, index, turned=self.plan.turned, named=bool(self.plan.categories))
        handle = brush.stroke(self.found[index])
        if series.name:
            self.entries.append((handle, series.name))

    def mark(self, index: int, mark: Mark) -> None:
        """Draw one reference line; its name stands in the legend, where it can cover nothing."""
        at = words.finite(mark.at)
        log = self.figure.x_log if mark.axis == "x" else self.figure.y_log
        if at is None or (log and at <= 0):
            return
        line = self.ax.axhline if (mark.axis == "y") != self.plan.turned else self.ax.axvline
        dashes = (0.0, ((1, 2), (5, 2), (5, 2, 1, 2), (9, 3))[index % 4])
        handle = line(at, color=_INK, linewidth=1.1, linestyle=dashes, zorder=2)
        if mark.label:
            self.entries.append((handle, mark.label))

    def ticks(self) -> float:
        """Put the ticks; the pixels that the labels left of the plot need."""
        plan, every = self.plan, [point for found in self.found for point in found]
        up, across = (self.ax.xaxis, self.ax.yaxis) if plan.turned else (self.ax.yaxis, self.ax.xaxis)
        if not any(math.isfinite(point.y) for point in every):
            self._nothing()
            return 12.0
        along = (plan.width * 0.6, plan.plot_height)
        values = axes.place_ticks(up, (), log=self.figure.y_log, pixels=along[not plan.turned], upright=not plan.turned)
        if plan.categories:
            self._name_categories(across)
        else:
            xs = (point.x for point in every)
            axes.place_ticks(across, xs, log=self.figure.x_log, pixels=plan.width - 75.0, upright=False)
        beside = [line for name in plan.names for line in name.split("\n")] if plan.turned else values
        return max(map(len, beside), default=0) * axes.LETTER * 1.06 + 10.0

    def texts(self, left: float) -> None:
        """Put the plot where the plan wants it, and the labels, the title and the legend around it."""
        plan = self.plan
        bottom = plan.plot_top + plan.plot_height
        self.ax.set_position(
            (left / plan.width, 1 - bottom / plan.height, 1 - (left + 12) / plan.width, plan.plot_height / plan.height)
        )
        start = 4.0 if plan.turned else left
        self._text(start, plan.above_top, plan.above)
        half = max(map(len, plan.below.split("\n"))) * axes.LETTER / 2 + 4
        centre = max(half, min((left + plan.width - 12) / 2, plan.width - half))
        self._text(centre, plan.below_top, plan.below, ha="center")
        self._text(4.0, 6.0, plan.title, color=_INK, fontsize=13)
        if self.entries:
            self.drawing.legend(
                [handle for handle, _ in self.entries],
                [plan.entry(name) for _, name in self.entries],
                loc="upper left",
                bbox_to_anchor=(0.0, 1 - plan.legend_top / plan.height),
                borderaxespad=0.0,
                borderpad=0.15,
                ncols=plan.across,
                frameon=False,
                labelcolor=_INK,
                handlelength=2.4,
                columnspacing=1.4,
            )

    def _text(self, x: float, y: float, text: str, **style: Any) -> None:
        plan = self.plan
        style = {"va": "top", "color": _MUTED, "fontsize": axes.SIZE, **style}
        self.drawing.text(x / plan.width, 1 - y / plan.height, text, **style)

    def _nothing(self) -> None:
        self.ax.text(0.5, 0.5, "Nothing was measured", ha="center", color=_MUTED, transform=self.ax.transAxes)
        for axis in (self.ax.xaxis, self.ax.yaxis):
            axis.set_ticks([], [])
            axis.set_ticks([], minor=True)

    def _name_categories(self, axis: Any) -> None:
        count = len(self.plan.names)
        axis.set_ticks(range(count), self.plan.names)
        if self.plan.turned:
            self.ax.set_ylim(count - 0.5, -0.5)
        else:
            self.ax.set_xlim(-0.5, count - 0.5)
