"""From the loss in train mode to the loss in eval mode, one step for each cause."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from normscope.report import words

if TYPE_CHECKING:
    from normscope.records import GapSplit, Share

_ROOM = 0.06  # of the width, left of the smallest and right of the largest loss


@dataclass(frozen=True)
class Step:
    """One row.

    Attributes:
        name: The cause, or a mode.
        kind: 'level' for a mode's loss, which is a mark; 'up' and 'down' for what a cause adds or takes.
        start: Loss before the cause is switched to its eval state.
        end: Loss after.
        left: Where its bar begins, in per cent of the width.
        width: How long its bar is, in per cent.
        text: The loss, or the change.
        interval: The change's 95 % interval as text; '' without one.
    """

    name: str
    kind: str
    start: float
    end: float
    left: float
    width: float
    text: str
    interval: str = ""


def waterfall(gap: GapSplit) -> tuple[Step, ...]:
    """The rows; none without finite numbers."""
    if not gap.causes or not all(math.isfinite(x) for x in (gap.train, *(share.value for share in gap.causes))):
        return ()
    ends = [gap.train]
    for share in gap.causes:
        ends.append(ends[-1] + share.value)
    low, high = min(ends), max(ends)
    room = _ROOM * (high - low) or 1.0
    low, span = low - room, high - low + 2 * room

    def percent(loss: float) -> float:
        return 100 * (loss - low) / span

    def level(name: str, loss: float) -> Step:
        return Step(name, "level", loss, loss, percent(loss), 0.0, words.number(loss))

    rows = [level("train mode", gap.train)]
    for share, start, end in zip(gap.causes, ends, ends[1:], strict=False):
        left, right = sorted((percent(start), percent(end)))
        kind = "up" if end > start else "down"
        rows.append(Step(share.name, kind, start, end, left, right - left, signed(share.value), _interval(share)))
    # Buffers that are NaN or inf are left out of the split, and eval mode's loss is then no number.
    name = "eval mode" if gap.evaluation is not None else "eval mode, were its buffers finite"
    return (*rows, level(name, ends[-1]))


def signed(value: float) -> str:
    """A change with its sign, as '+0.012' or '−0.3'."""
    text = words.number(value)
    return text if text.startswith("−") or value == 0 else f"+{text}"


def _interval(share: Share) -> str:
    return "" if share.low is None or share.high is None else f"{signed(share.low)} to {signed(share.high)}"
