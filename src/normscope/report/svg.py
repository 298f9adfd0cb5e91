"""matplotlib's SVG made small, its ids its own, its colours the page's variables, with a title and a description."""

from __future__ import annotations

import re
from dataclasses import dataclass

from normscope.report import palette

_NUMBER = re.compile(r"-?\d+\.\d{2,}(?:e-?\d+)?")
_TAG = re.compile(r"<[^>]*>")
_DROPPED = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_VARIABLE = {value: f"var(--{name})" for name, value in palette.LIGHT.items()}


@dataclass(frozen=True)
class Dress:
    """How a drawing is shown.

    Attributes:
        name: Prefix of its ids, unique on a page.
        title: Its title, for a screen reader.
        description: Its description, for a screen reader.
        inline: True on a page, whose style it follows; False for a file, which brings its own.
        css: Class on a page.
    """

    name: str
    title: str
    description: str
    inline: bool
    css: str = "plot"


def dressed(raw: str, dress: Dress) -> str:
    """The SVG text `raw`, as matplotlib writes it, in its final dress."""
    from markupsafe import escape

    text = _DROPPED.sub("", raw)
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    width, height = box.groups() if box else ("1", "1")
    inner = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
    used = set(re.findall(r"#([A-Za-z0-9_.]+)", " ".join(_TAG.findall(inner))))
    inner = _TAG.sub(lambda match: _tag(match.group(), used, dress), inner)
    inner = re.sub(r">\s+<", "><", inner).strip()
    inner = re.sub(r"<g></g>|<defs></defs>", "", inner)
    size = "" if dress.inline else f'width="{width}" height="{height}" '
    style = "" if dress.inline else _STYLE
    css = f'class="{dress.css}" style="max-width:{width}px" ' if dress.inline else ""
    name = dress.name
    return _CONTROL.sub(
        "",
        f'<svg xmlns="http://www.w3.org/2000/svg" {css}{size}viewBox="0 0 {width} {height}" role="img"'
        f' aria-labelledby="{name}-title {name}-desc"><title id="{name}-title">{escape(dress.title)}</title>'
        f'<desc id="{name}-desc">{escape(dress.description)}</desc>{style}{inner}</svg>',
    )


_STYLE = (
    "<style>text{font-family:system-ui,'DejaVu Sans',sans-serif}*{stroke-linejoin:round}</style>"
    f'<rect width="100%" height="100%" fill="{palette.LIGHT["paper"]}"/>'
)


def _tag(tag: str, used: set[str], dress: Dress) -> str:
    """One tag: its id dropped or made unique, its numbers short, its colours variables on a page."""
    tag = re.sub(r' id="([^"]*)"', lambda m: f' id="{dress.name}-{m.group(1)}"' if m.group(1) in used else "", tag)
    tag = re.sub(r'"url\(#([^)]*)\)"', rf'"url(#{dress.name}-\1)"', tag)
    tag = re.sub(r'xlink:href="#', f'href="#{dress.name}-', tag)
    tag = re.sub(r"; font-family: [^;\"]*|font-family: [^;\"]*;? ?", "", tag)
    tag = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", tag)
    tag = re.sub(r' transform="rotate\(-?0 [^"]*"', "", tag)
    tag = _NUMBER.sub(lambda match: f"{float(match.group()):.1f}".replace("-0.0", "0").removesuffix(".0"), tag)
    tag = re.sub(r"\s+", " ", tag)
    if dress.inline:
        tag = re.sub(r"#[0-9a-f]{6}", lambda match: _VARIABLE.get(match.group(), match.group()), tag)
    return tag
