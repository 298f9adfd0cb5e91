"""Numbers, effects and verdicts as words for people."""

from __future__ import annotations

import datetime as dt
import math
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from normscope.records import Effect, Verdict

NOTHING = "–"
DECIDED = ("supported", "refuted")
_RATIOS = ("x", "×")
_RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_ICONS = {
    "supported": "✓",
    "refuted": "✕",
    "inconclusive": "?",
    "not applicable": "○",
    "by construction": "≡",
}


def icon(outcome: str) -> str:
    """The sign beside a verdict's word, so that colour never speaks alone."""
    return _ICONS.get(outcome, "?")


def finite(value: Any) -> float | None:
    """`value` as a finite number; None for everything else, missing values among it."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def number(value: Any, decimals: int | None = None) -> str:
    """`value` with `decimals`, or with three significant digits; a dash where there is none."""
    real = finite(value)
    if real is None:
        return NOTHING
    if real and not 1e-4 <= abs(real) < 1e6:
        text = f"{real:.2e}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")
    elif decimals is not None:
        text = f"{real:.{decimals}f}"
    elif real == int(real):
        text = f"{real:.0f}"
    else:
        text = f"{real:.{max(0, 2 - math.floor(math.log10(abs(real))))}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    if not text.strip("-0."):
        text = text.lstrip("-")
    return text.replace("-", "−")


def _decimals(effect: Effect) -> int | None:
    """Decimals for two significant digits of the interval's width, at least; None for a ratio over a wide range."""
    low, high = finite(effect.low), finite(effect.high)
    if low is None or high is None or high <= low or (effect.unit in _RATIOS and high > 4 * low):
        return None
    least = min(6, max(0, 1 - math.floor(math.log10(high - low))))
    null = finite(effect.null) or 0.0
    if low <= null <= high:
        return least
    # An end that is not the null does not read as if it were.
    near = min(low, high, key=lambda end: abs(end - null))
    return next((places for places in range(least, 7) if round(near, places) != round(null, places)), least)


def with_unit(text: str, unit: str) -> str:
    """`text` followed by its unit; ratios, whose unit is 'x', by a multiplication sign."""
    if not unit or text == NOTHING:
        return text
    return f"{text}×" if unit in _RATIOS else f"{text} {unit}"


def estimate(effect: Effect) -> str:
    """The estimate with its unit: '2.01×', '−0.028 nats'."""
    return with_unit(number(effect.estimate, _decimals(effect)), effect.unit)


def interval(effect: Effect) -> str:
    """The interval in brackets: '[1.62, 2.52]'; 'no interval' where too few seeds gave none."""
    if finite(effect.low) is None and finite(effect.high) is None:
        return "no interval"
    decimals = _decimals(effect)
    return f"[{number(effect.low, decimals)}, {number(effect.high, decimals)}]"


def smallest(effect: Effect) -> str:
    """The smallest effect of interest with its unit."""
    return with_unit(number(effect.smallest), effect.unit)


def seeds(effect: Effect) -> str:
    """How many seeds stand behind the effect."""
    return "1 seed" if len(effect.per_seed) == 1 else f"{len(effect.per_seed)} seeds"


def duration(seconds: Any) -> str:
    """Seconds as '48 s', '3 min 20 s' or '2 h 5 min'."""
    real = finite(seconds)
    if real is None:
        return NOTHING
    if real < 10:
        return f"{real:.1f} s"
    whole = round(real)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def moment(stamp: str) -> str:
    """An ISO time as '2026-11-23 18:10 UTC'; what is none as it came."""
    try:
        when = dt.datetime.fromisoformat(stamp)
    except ValueError:
        return stamp
    return when.strftime("%Y-%m-%d %H:%M %Z").strip()


def typeset(text: str) -> str:
    """Numbers of a sentence as a printer sets them: '-.5 x [.4, 55%]' becomes '−0.5× [0.4, 55 %]'."""
    text = re.sub(r"(?<![\w.])(-?)\.(?=\d)", r"\g<1>0.", text)
    text = re.sub(r"(?:(?<=[\s(\[])|^)-(?=\d)", "−", text).replace(" - ", " − ")
    text = re.sub(r"(?<=\d) x(?=\s(?!\d)|[;,.)]|$)", "×", text)
    return re.sub(r"(?<=\d)%", " %", text)


def sentence(text: str) -> str:
    """`text`, typeset, with a capital first and a stop last."""
    text = typeset(text.strip())
    stop = "" if not text or text[-1] in ".!?:…\"'”’)" else "."
    return text[:1].upper() + text[1:] + stop


def plain(value: Any) -> str:
    """A setting's value as text: lists joined, None as a dash."""
    if value is None or value == "":
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} = {plain(item)}" for key, item in value.items()) or NOTHING
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value) or NOTHING
    return str(value)


def slug(text: str) -> str:
    """`text` as a part of an id or of a file's name: small letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "x"


def family(verdicts: Sequence[Verdict]) -> str:
    """What the chance of a false verdict becomes over all decided claims together."""
    decided = sum(verdict.outcome in DECIDED for verdict in verdicts)
    if decided == 0:
        return "No claim was decided, so none can be decided wrongly."
    chance = f"0.95{str(decided).translate(_RAISED)} = {100 * (1 - 0.95**decided):.0f} %"
    if decided == 1:
        return "The one decided claim has a chance of at most 5 % of being decided wrongly."
    return (
        f"Each verdict stands at its own 5 %, whichever other claims ran beside it. With {decided} claims decided,"
        f" the chance of at least one false one among them is up to 1 − {chance}."
    )
