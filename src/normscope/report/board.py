"""Measurements of a live model as one self-contained page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from normscope.bibliography import cite
from normscope.report import measured, words
from normscope.report.glossary import PROBES, Entry
from normscope.report.page import LIMIT, plot
from normscope.report.template import fill

if TYPE_CHECKING:
    from collections.abc import Sequence

    from normscope.bibliography import Work
    from normscope.records import Measurement
    from normscope.report.measured import Quantity
    from normscope.report.page import Plot


@dataclass(frozen=True)
class Part:
    """One quantity: its figure, if it has one, and its table."""

    quantity: Quantity
    plot: Plot | None
    theory: bool


@dataclass(frozen=True)
class Section:
    """One probe's part of the page."""

    probe: str
    says: str
    works: tuple[Work, ...]
    parts: tuple[Part, ...]


def render_measurements(measurements: Sequence[Measurement], title: str, notes: Sequence[str] = ()) -> str:
    """`measurements` as one HTML page under 2 MB: for each probe and quantity a figure and a table of its layers.

    Args:
        measurements: In any order.
        title: Of the page.
        notes: What a reader must know: what was not run, what could not be seen.
    """
    found = measured.sorted_out(measurements)
    text = ""
    for most in (400, 160, 40):
        sections = [
            _section(probe, tuple(_part(f"fig-{row}-{place}", item, most) for place, item in enumerate(quantities)))
            for row, (probe, quantities) in enumerate(found.items())
        ]
        summary = _summary(measurements)
        text = fill("measurements.html.j2", title=title, summary=summary, notes=notes, sections=sections, most=most)
        if len(text.encode()) < LIMIT:
            break
    return text


def _section(probe: str, parts: tuple[Part, ...]) -> Section:
    entry = PROBES.get(probe, Entry("", ()))
    return Section(probe, entry.says, tuple(cite(key) for key in entry.works), parts)


def _part(name: str, quantity: Quantity, most: int) -> Part:
    figure = measured.figure(quantity)
    theory = any(layer.expected is not None for layer in quantity.layers)
    return Part(quantity, plot(figure, name, most) if figure else None, theory)


def _summary(measurements: Sequence[Measurement]) -> str:
    layers = len({item.layer for item in measurements if item.layer})
    steps = sorted({item.step for item in measurements if item.step is not None})
    probes = len({item.probe for item in measurements})
    missing = sum(words.finite(item.value) is None for item in measurements)
    text = f"{_many(len(measurements), 'measurement')} by {_many(probes, 'probe')} on {_many(layers, 'layer')}"
    if steps:
        text += f", step {steps[0]}" if len(steps) == 1 else f", from step {steps[0]} to step {steps[-1]}"
    return f"{text}." + (f" {missing} of them gave no number; the tables say why." if missing else "")


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
