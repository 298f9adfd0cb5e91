"""The colours of pages and figures, once, for light and for dark.

The series colours follow Okabe & Ito's order of hues, darkened or lightened until each stands out from its
background by at least 3 : 1; text colours reach 4.5 : 1.
"""

from __future__ import annotations

LIGHT: dict[str, str] = {
    "paper": "#fdfdfb",
    "panel": "#f4f4ef",
    "ink": "#1b1d21",
    "muted": "#5c6068",
    "rule": "#dcdcd4",
    "grid": "#e6e6e0",
    "link": "#0b5394",
    "band": "#e9e9e2",
    "supported": "#146c43",
    "refuted": "#a4262c",
    "inconclusive": "#7a5b00",
    "aside": "#555a64",
    "series-1": "#0072b2",
    "series-2": "#c84e00",
    "series-3": "#00805f",
    "series-4": "#a63d87",
    "series-5": "#7d6200",
    "series-6": "#4b5bc4",
}

DARK: dict[str, str] = {
    "paper": "#15171b",
    "panel": "#1e2126",
    "ink": "#e9e9e4",
    "muted": "#a4a8b0",
    "rule": "#363a41",
    "grid": "#2b2f35",
    "link": "#8ec5f5",
    "band": "#2a2e34",
    "supported": "#6fd3a2",
    "refuted": "#ff9c94",
    "inconclusive": "#e6c35c",
    "aside": "#b3b8c2",
    "series-1": "#5ab4ec",
    "series-2": "#f6945a",
    "series-3": "#3cc79f",
    "series-4": "#e28ec6",
    "series-5": "#dcbb4a",
    "series-6": "#a3adff",
}

SERIES = tuple(f"series-{number}" for number in range(1, 7))
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES: tuple[tuple[float, ...], ...] = ((), (6, 2), (2, 1.5), (7, 2, 1.5, 2), (4, 1.5), (1, 1))


def variables(colours: dict[str, str]) -> str:
    """`colours` as declarations of CSS variables."""
    return "".join(f"--{name}:{value};" for name, value in colours.items())
