"""One figure of a record as SVG text or as a PNG file."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from normscope.records import write_atomic
from normscope.report import draw, svg
from normscope.report.plan import Canvas

if TYPE_CHECKING:
    from pathlib import Path

    from normscope.records import Figure

WIDE, NARROW = 680, 330


def figure_svg(
    figure: Figure, name: str = "figure", *, inline: bool = False, width: int = WIDE, most: int = 400
) -> str:
    """`figure` as SVG text, the same for the same figure at any time.

    Args:
        figure: The figure as data.
        name: Prefix of the ids in it; make it unique where several share a page.
        inline: Follow the colours of a normscope page, without a title in the drawing; otherwise the text is a
            whole file with a light background.
        width: Pixels across.
        most: Points drawn for one series at most; the table behind a figure on a page says more.
    """
    raw = io.StringIO()
    with draw.settings():
        drawing = draw.draw(figure, Canvas(width, titled=not inline, most=most))
        drawing.savefig(raw, format="svg", metadata={"Date": None, "Creator": None})
    css = "plot wide" if width > 500 else "plot narrow"
    return svg.dressed(raw.getvalue(), svg.Dress(name, figure.title, figure.description, inline, css))


def figure_png(figure: Figure, path: Path, scale: float = 2.0) -> None:
    """Write `figure` to `path` as a PNG, light, `scale` times 680 pixels across.

    Raises:
        InputError: The folder cannot be written.
    """
    raw = io.BytesIO()
    with draw.settings():
        drawing = draw.draw(figure, Canvas(WIDE, titled=True))
        drawing.patch.set(facecolor="white", alpha=1)
        drawing.savefig(raw, format="png", dpi=72 * scale, metadata={"Software": None})
    write_atomic(path, raw.getvalue())
