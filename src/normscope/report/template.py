"""The templates, loaded from the package, with everything that they show escaped."""

from __future__ import annotations

import functools
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from normscope.report import columns, forest, palette, words
from normscope.report.spark import spark

if TYPE_CHECKING:
    from jinja2 import Environment


def fill(name: str, **values: Any) -> str:
    """The template `name` filled with `values`."""
    return _environment().get_template(name).render(**values)


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FunctionLoader(_read),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
    )
    environment.globals.update(
        bar=forest.bar,
        spark=spark,
        style=Markup(_style()),  # noqa: S704  (our own file)
        table=columns.table,
        words=words,
    )
    return environment


def _style() -> str:
    light, dark = palette.variables(palette.LIGHT), palette.variables(palette.DARK)
    root = f":root{{color-scheme:light dark;{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"
    return f"{root}\n{_read('style.css')}"


def _read(name: str) -> str:
    return (files("normscope.report") / name).read_text(encoding="utf-8")
