"""Figures, as data, that several claims share."""

from __future__ import annotations

from collections.abc import Sequence

from normscope.records import Effect, Figure, Mark, Series


def seeds_figure(title: str, description: str, effects: Sequence[tuple[str, Effect]], label: str) -> Figure:
    """Every seed's effect as a point beside the 95 % interval, the null and the smallest effect of interest as lines.

    Args:
        title: Of the figure.
        description: What a listener should know who cannot see it.
        effects: (name on the axis, effect).
        label: Of the vertical axis, with its unit.
    """
    first = effects[0][1]
    names = [name for name, _ in effects]
    points = [(name, value) for name, effect in effects for value in effect.per_seed]
    return Figure(
        title,
        description,
        "",
        label,
        (
            Series("one seed", "points", tuple(name for name, _ in points), tuple(value for _, value in points)),
            Series(
                "mean and 95 % interval",
                "interval",
                tuple(names),
                tuple(effect.estimate for _, effect in effects),
                tuple(effect.low for _, effect in effects),
                tuple(effect.high for _, effect in effects),
            ),
        ),
        (Mark("y", first.null, "no effect"), Mark("y", first.smallest, "smallest effect of interest")),
        y_log=first.unit == "x",
    )


def number(value: float) -> str:
    """A number for a sentence: three significant digits."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def phrase(effect: Effect) -> str:
    """'2.03 x [1.62, 2.54]' or '-0.028 nat [-0.038, -0.017]'."""
    return f"{number(effect.estimate)} {effect.unit} [{number(effect.low)}, {number(effect.high)}]"
