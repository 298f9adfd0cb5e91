"""One measured number, and a figure as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Measurement:
    """One number that a probe read off a live model.

    Attributes:
        probe: The probe's name, for example 'moments'.
        quantity: What was measured, in the field's words.
        layer: The layer's name; '' for the whole network.
        step: Training step, counted from 0; None outside a training loop.
        value: The number; None when it is not finite.
        unit: Its unit; '' for a pure number.
        expected: What theory says it should be, where there is a theory.
        source: How the number was read, for example 'saved by torch' or 'recomputed'.
    """

    probe: str
    quantity: str
    layer: str
    step: int | None
    value: float | None
    unit: str = ""
    expected: float | None = None
    source: str = ""


@dataclass(frozen=True)
class Series:
    """One line, cloud of points, bar group or interval of a figure.

    Attributes:
        name: Its name in the legend and in the table behind the figure.
        kind: 'points', 'line', 'bars', 'interval' (y with low and high) or 'theory' (a dashed line).
        x: Positions; words make a categorical axis.
        y: Heights, one for each x.
        low: Lower ends, for intervals.
        high: Upper ends, for intervals.
    """

    name: str
    kind: Literal["points", "line", "bars", "interval", "theory"]
    x: tuple[float | str, ...]
    y: tuple[float | None, ...]
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class Mark:
    """A straight reference line across a figure: at `at` on the axis 'x' or 'y'."""

    axis: Literal["x", "y"]
    at: float
    label: str


@dataclass(frozen=True)
class Figure:
    """A figure as data: drawn by normscope.report, and shown as a table behind the drawing."""

    title: str
    description: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    marks: tuple[Mark, ...] = ()
    x_log: bool = False
    y_log: bool = False
