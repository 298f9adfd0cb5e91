"""A study's record as one self-contained page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from markupsafe import Markup

from normscope.bibliography import WORKS
from normscope.report import answer, words
from normscope.report.download import download
from normscope.report.figure import NARROW, WIDE, figure_svg
from normscope.report.template import fill

if TYPE_CHECKING:
    from normscope.bibliography import Work
    from normscope.records import Figure, Study, Verdict

LIMIT = 2_000_000
"""Bytes that a page may have."""


@dataclass(frozen=True)
class Plot:
    """A figure in its two widths, of which a page shows the one that fits."""

    figure: Figure
    name: str
    drawings: tuple[Markup, ...]


@dataclass(frozen=True)
class Section:
    """One claim's part of the page."""

    number: int
    anchor: str
    verdict: Verdict
    plots: tuple[Plot, ...]
    works: tuple[Work | str, ...]


# (figure, name, width, most points of a series): one drawing.
_Wanted = tuple["Figure", str, int, int]
# As `map`: results in order.
Each = Callable[[Callable[[_Wanted], str], list[_Wanted]], Iterable[str]]


def render_study(study: Study, each: Each = map) -> str:
    """`study` as one HTML page under 2 MB that asks nothing of the network.

    Args:
        study: The record.
        each: Maps over the drawings of the figures; the map of a pool of workers draws them side by side.
    """
    text = ""
    for most in (400, 120, 40, 12):
        sections = _sections(study, most, each)
        bare = _page(study, sections, most, 0)
        text = _page(study, sections, most, LIMIT - len(bare.encode()) - 1000)
        if len(text.encode()) < LIMIT:
            break
    return text


def plot(figure: Figure, name: str, most: int) -> Plot:
    """`figure` drawn for a wide and for a narrow page, its ids beginning with `name`."""
    return _plots([(name, figure)], most, map)[0]


def _plots(figures: Sequence[tuple[str, Figure]], most: int, each: Each) -> list[Plot]:
    wanted = [(figure, f"{name}-{width}", width, most) for name, figure in figures for width in (WIDE, NARROW)]
    drawn = map(Markup, each(_draw, wanted))
    pairs = zip(drawn, drawn, strict=True)
    return [Plot(figure, name, pair) for (name, figure), pair in zip(figures, pairs, strict=True)]


def _draw(wanted: _Wanted) -> str:
    figure, name, width, most = wanted
    return figure_svg(figure, name, inline=True, width=width, most=most)


def _page(study: Study, sections: list[Section], most: int, room: int) -> str:
    return fill(
        "page.html.j2",
        study=study,
        sections=sections,
        opening=answer.opening(study),
        parts=answer.parts(study),
        regimes=answer.regimes,
        family=words.family(study.verdicts),
        download=download(study, room),
        most=most,
    )


def _sections(study: Study, most: int, each: Each) -> list[Section]:
    figures = [
        (f"fig-{number}-{place}", figure)
        for number, verdict in enumerate(study.verdicts, start=1)
        for place, figure in enumerate(verdict.figures, start=1)
    ]
    plots = iter(_plots(figures, most, each))
    return [
        _section(number, verdict, tuple(islice(plots, len(verdict.figures))))
        for number, verdict in enumerate(study.verdicts, start=1)
    ]


def _section(number: int, verdict: Verdict, plots: tuple[Plot, ...]) -> Section:
    anchor = f"claim-{number}-{words.slug(verdict.claim)}"
    return Section(number, anchor, verdict, plots, tuple(WORKS.get(key, key) for key in verdict.sources))
