"""Records and figures as files: what `normscope report` reads and writes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from normscope.errors import InputError, RecordError
from normscope.records import Study, from_json, write_atomic
from normscope.report import words
from normscope.report.figure import figure_png, figure_svg
from normscope.report.page import render_study

if TYPE_CHECKING:
    import os


def load_study(path: str | os.PathLike[str]) -> Study:
    """The study recorded at `path`.

    Raises:
        RecordError: No file there, cut in half, of another version, or not the record of a study.
    """
    place = Path(path)
    try:
        text = place.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise RecordError(f"{place} is not a normscope record: expected JSON text, found other bytes") from None
    except OSError as error:
        raise RecordError(
            f"cannot read {place}: {error.strerror or error}; name the record (a JSON file) that `normscope why` wrote"
        ) from None
    return from_json(text, Study, str(place))


def write_figures(study: Study, folder: str | os.PathLike[str]) -> list[Path]:
    """Write each figure of `study` to `folder` as SVG and as PNG, named by claim and place; the paths written.

    Raises:
        InputError: The folder cannot be written.
    """
    written = []
    for number, verdict in enumerate(study.verdicts, start=1):
        for place, figure in enumerate(verdict.figures, start=1):
            stem = Path(folder) / f"{number:02d}-{words.slug(verdict.claim)}-{place}"
            vector, raster = stem.with_suffix(".svg"), stem.with_suffix(".png")
            write_atomic(vector, figure_svg(figure, stem.name))
            figure_png(figure, raster)
            written += [vector, raster]
    return written


def report(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    figures_dir: str | os.PathLike[str] | None = None,
) -> Path:
    """Render the record at `path` again: the page to `out`, the figures to `figures_dir` where one is named.

    Args:
        path: The record of a study.
        out: Where the page goes; beside the record, with the ending .html, by default.
        figures_dir: A folder for every figure as SVG and PNG.

    Returns:
        Where the page was written.

    Raises:
        RecordError: The record cannot be read.
        InputError: The page or the folder cannot be written, or the page would overwrite the record.
    """
    study = load_study(path)
    page = Path(out) if out is not None else Path(path).with_suffix(".html")
    if page.resolve() == Path(path).resolve():
        raise InputError(f"the page would overwrite its own record {path}; name another file with --out")
    write_atomic(page, render_study(study))
    if figures_dir is not None:
        write_figures(study, figures_dir)
    return page
