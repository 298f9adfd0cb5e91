"""Measurements sorted for reading: by probe, by quantity, by layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from normscope.records import Figure, Series
from normscope.report import words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from normscope.records import Measurement

WHOLE = "whole network"


@dataclass(frozen=True)
class Layer:
    """What was measured of one quantity at one layer, in the order of the steps."""

    name: str
    steps: tuple[int | None, ...]
    values: tuple[float | None, ...]
    expected: float | None
    source: str

    @property
    def known(self) -> list[float]:
        """The values that are numbers."""
        return [value for value in self.values if value is not None]

    @property
    def last(self) -> float | None:
        """The latest number; None where there is none."""
        return self.known[-1] if self.known else None


@dataclass(frozen=True)
class Quantity:
    """One quantity of one probe over layers and steps."""

    name: str
    unit: str
    layers: tuple[Layer, ...]

    @property
    def label(self) -> str:
        """The name with its unit."""
        return f"{self.name} [{self.unit}]" if self.unit else self.name

    @property
    def moving(self) -> bool:
        """Whether any layer was measured at more than one step."""
        return any(len(layer.known) > 1 for layer in self.layers)


def sorted_out(measurements: Sequence[Measurement]) -> dict[str, list[Quantity]]:
    """The measurements by probe, every level in order of first appearance."""
    tree: dict[str, dict[tuple[str, str], dict[str, list[Measurement]]]] = {}
    for item in measurements:
        quantities = tree.setdefault(item.probe, {})
        quantities.setdefault((item.quantity, item.unit), {}).setdefault(item.layer or WHOLE, []).append(item)
    return {
        probe: [
            Quantity(name, unit, tuple(_layer(layer, items) for layer, items in layers.items()))
            for (name, unit), layers in quantities.items()
        ]
        for probe, quantities in tree.items()
    }


def figure(quantity: Quantity) -> Figure | None:
    """The figure that shows `quantity` best: over steps for few layers, else over layers; None for a single number."""
    shown = [layer for layer in quantity.layers if layer.known]
    if quantity.moving and len(shown) <= 6:
        return _over_steps(quantity, shown)
    return _over_layers(quantity, shown) if len(shown) > 1 else None


def _layer(name: str, items: list[Measurement]) -> Layer:
    ordered = sorted(items, key=lambda item: -1 if item.step is None else item.step)
    last = ordered[-1]
    values = tuple(words.finite(item.value) for item in ordered)
    sources = dict.fromkeys(item.source for item in ordered if item.source)
    return Layer(
        name,
        tuple(item.step for item in ordered),
        values,
        words.finite(last.expected),
        ", then ".join(list(sources)[:3]),
    )


def _over_steps(quantity: Quantity, shown: list[Layer]) -> Figure:
    series = tuple(
        Series(layer.name, "line", tuple(float(step or 0) for step in layer.steps), layer.values) for layer in shown
    )
    return Figure(f"{quantity.name} over training", "One line for each layer.", "Step", quantity.label, series)


def _over_layers(quantity: Quantity, shown: list[Layer]) -> Figure:
    many = len(shown) > 24
    x: tuple[float | str, ...] = tuple(range(1, len(shown) + 1)) if many else tuple(layer.name for layer in shown)
    series = [Series("measured", "line" if many else "points", x, tuple(layer.last for layer in shown))]
    if any(layer.expected is not None for layer in shown):
        series.append(Series("theory", "theory", x, tuple(layer.expected for layer in shown)))
    label = "Layer, counted as in the table" if many else "Layer"
    when = "The latest value at each layer." if quantity.moving else "The value at each layer."
    return Figure(f"{quantity.name} by layer", when, label, quantity.label, tuple(series))
