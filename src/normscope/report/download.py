"""The record inside its own page: a data address that a click saves, without the network and without a script."""

from __future__ import annotations

import base64
import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from normscope.records import to_json

if TYPE_CHECKING:
    from normscope.records import Study


_TOO_LARGE = "The record is too large for this page; it stands in the run folder."


@dataclass(frozen=True)
class Download:
    """What a page offers for download.

    Attributes:
        href: A `data:` address; '' where even the least does not fit.
        size: Its size in words.
        note: What was left out to keep the page small; '' for nothing.
    """

    href: str
    size: str
    note: str


def download(study: Study, room: int) -> Download:
    """As much of `study` as fits into `room` bytes of a page: all of it, or all but the raw runs."""
    if room <= 0:
        return Download("", "", _TOO_LARGE)
    whole = _address(study)
    if len(whole[0]) <= room:
        return Download(*whole, "")
    count = len(study.runs)
    short = _address(dataclasses.replace(study, runs=()))
    if count and len(short[0]) <= room:
        note = f"The raw numbers of the {count} runs are left out to keep this page small; the run folder has them."
        return Download(*short, note)
    return Download("", "", _TOO_LARGE)


def _address(study: Study) -> tuple[str, str]:
    data = to_json(study, compact=True).encode()
    return "data:application/json;base64," + base64.b64encode(data).decode(), f"{len(data) / 1000:.0f} kB"
