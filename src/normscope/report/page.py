"""A study's record as one self-contained page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from normscope.bibliography import WORKS
from normscope.report import answer, words
from normscope.report.download import download
from normscope.report.figure import NARROW, WIDE, figure_svg
from normscope.report.template import fill

if TYPE_CHECKING:
    from markupsafe import Markup

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


def render_study(study: Study) -> str:
    """`study` as one HTML page under 2 MB that asks nothing of the network."""
    text = ""
    for most in (400, 120, 40, 12):
        sections = [_section(number, verdict, most) for number, verdict in enumerate(study.verdicts, start=1)]
        bare = _page(study, sections, most, 0)
        text = _page(study, sections, most, LIMIT - len(bare.encode()) - 1000)
        if len(text.encode()) < LIMIT:
            break
    return text


def plot(figure: Figure, name: str, most: int) -> Plot:
    """`figure` drawn for a wide and for a narrow page, its ids beginning with `name`."""
    from markupsafe import Markup

    drawings = tuple(
        Markup(figure_svg(figure, f"{name}-{width}", inline=True, width=width, most=most))  # noqa: S704  (ours)
        for width in (WIDE, NARROW)
    )
    return Plot(figure, name, drawings)


def _page(study: Study, sections: list[Section], most: int, room: int) -> str:
    return fill(
        "page.html.j2",
        study=study,
        sections=sections,
        opening=answer.opening(study),
        parts=answer.parts(study),
        family=words.family(study.verdicts),
        download=download(study, room),
        most=most,
    )


def _section(number: int, verdict: Verdict, most: int) -> Section:
    anchor = f"claim-{number}-{words.slug(verdict.claim)}"
    plots = tuple(plot(figure, f"fig-{number}-{place}", most) for place, figure in enumerate(verdict.figures, start=1))
    return Section(number, anchor, verdict, plots, tuple(WORKS.get(key, key) for key in verdict.sources))
