"""The small bar beside an effect: seeds, interval and estimate against no effect and the smallest one of interest.

All bars share one scale, u = (effect - null) / (smallest - null), on logarithms for ratios: 0 is no effect, 1 the
smallest effect of interest in the claimed direction. It is linear up to 1 and logarithmic beyond.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from normscope.report import words

if TYPE_CHECKING:
    from markupsafe import Markup

    from normscope.records import Effect

_WIDTH, _HEIGHT, _EDGE = 200.0, 24.0, 5.0


def units(effect: Effect, value: float | None) -> float | None:
    """`value` in smallest effects of interest; None where it cannot be told."""
    real = words.finite(value)
    null, smallest = words.finite(effect.null), words.finite(effect.smallest)
    if real is None or null is None or smallest is None:
        return None
    if effect.unit in {"x", "×"}:
        if min(real, null, smallest) <= 0:
            return None
        real, null, smallest = math.log(real), math.log(null), math.log(smallest)
    return (real - null) / (smallest - null) if smallest != null else None


def squeeze(distance: float) -> float:
    """Linear up to 1 smallest effect, one step for each doubling beyond, cut at 16."""
    size = abs(distance)
    return math.copysign(min(size if size <= 1 else 1 + math.log2(size), _EDGE), distance)


def bar(effect: Effect | None) -> Markup | str:
    """The bar as inline SVG; '' where there is no effect or no scale to put it on."""
    from markupsafe import Markup

    if effect is None or units(effect, effect.estimate) is None:
        return ""
    label = f"{words.estimate(effect)}, 95 % interval {words.interval(effect)}"
    return Markup('<svg class="forest" viewBox="0 0 200 24" role="img" aria-label="{label}">{shapes}</svg>').format(
        label=label,
        shapes=Markup("".join(_shapes(effect))),  # noqa: S704  (numbers only)
    )


def _at(effect: Effect, value: float | None) -> float | None:
    distance = units(effect, value)
    return None if distance is None else _WIDTH / 2 + squeeze(distance) * (_WIDTH / 2 - 6) / _EDGE


def _shapes(effect: Effect) -> list[str]:
    step = (_WIDTH / 2 - 6) / _EDGE
    middle, mid = _WIDTH / 2, _HEIGHT / 2
    shapes = [
        f'<rect class="band" x="{middle - step:.1f}" y="0" width="{2 * step:.1f}" height="{_HEIGHT:.0f}"/>',
        f'<path class="null" d="M{middle:.1f} 0V{_HEIGHT:.0f}"/>',
    ]
    seeds = (_at(effect, value) for value in effect.per_seed)
    shapes += [f'<circle class="seed" cx="{at:.1f}" cy="{mid + 7:.1f}" r="1.6"/>' for at in seeds if at is not None]
    low, high = _at(effect, effect.low), _at(effect, effect.high)
    if low is not None and high is not None:
        left, right = sorted((low, high))
        shapes.append(f'<path class="interval" d="M{left:.1f} {mid:.0f}H{right:.1f}"/>')
    at = _at(effect, effect.estimate)
    if at is not None:
        shapes.append(f'<circle class="estimate" cx="{at:.1f}" cy="{mid:.0f}" r="4"/>')
    return shapes
