"""The small line beside a layer: how its number went over the steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normscope.report import words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markupsafe import Markup

_WIDTH, _HEIGHT = 120, 24


def spark(values: Sequence[float | None], most: int = 60) -> Markup | str:
    """`values` as a line without axes, for the eye alone: the numbers stand beside it; '' for fewer than two."""
    from markupsafe import Markup

    known = [real for real in map(words.finite, values) if real is not None]
    if len(known) < 2:
        return ""
    step = max(1, -(-len(known) // most))
    known = known[::step] if len(known[::step]) > 1 else [known[0], known[-1]]
    low, rise = min(known), (max(known) - min(known)) or 1.0
    points = (
        f"{place * _WIDTH / (len(known) - 1):.0f} {_HEIGHT - 2 - (value - low) / rise * (_HEIGHT - 4):.0f}"
        for place, value in enumerate(known)
    )
    path = "L".join(points)
    return Markup(
        '<svg class="spark" viewBox="0 0 120 24" preserveAspectRatio="none" aria-hidden="true">{line}</svg>'
    ).format(line=Markup('<path vector-effect="non-scaling-stroke" d="M{path}"/>').format(path=path))
