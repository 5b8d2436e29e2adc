"""How all charts look: colours of the web page, in light and in dark, and sizes of what is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

import altair as alt

FONT = "Arial, 'Liberation Sans', Helvetica, sans-serif"
"""Of one width wherever a chart is seen: the renderer leaves as much room as the second of them takes."""
Chart = TypeVar("Chart", bound=alt.TopLevelMixin)

WIDTH = 720
"""Of the plotting area, in pixels."""


class Theme(StrEnum):
    LIGHT = "light"
    DARK = "dark"


@dataclass(frozen=True, slots=True)
class Colours:
    """The tokens of a theme, with contrast AA on its ground; kinds of marks differ in shape too, not only by colour."""

    ground: str
    text: str
    muted: str
    border: str
    accent: str
    good: str
    warn: str
    bad: str


COLOURS = {
    Theme.LIGHT: Colours("#ffffff", "#1b1f24", "#57606a", "#d0d7de", "#0b5cad", "#1a7f37", "#8a5a00", "#b3261e"),
    Theme.DARK: Colours("#0f1419", "#e6edf3", "#9aa7b4", "#30404f", "#6cb6ff", "#57c974", "#e3b341", "#ff8f86"),
}


def themed(chart: Chart, theme: Theme | str) -> Chart:
    """`chart` with the ground, the fonts and the lines of a theme."""
    colours = COLOURS[Theme(theme)]
    words = {"labelColor": colours.muted, "titleColor": colours.text, "labelFontSize": 11, "titleFontSize": 12}
    config = {
        "background": colours.ground,
        "font": FONT,
        "view": {"stroke": None},
        "axis": {
            **words,
            "domainColor": colours.muted,
            "tickColor": colours.muted,
            "gridColor": colours.border,
            "gridOpacity": 0.6,
            "titleFontWeight": "normal",
        },
        "legend": {**words, "orient": "top", "title": None, "symbolStrokeWidth": 2},
        "header": words,
        "title": {"color": colours.text, "subtitleColor": colours.muted, "anchor": "start", "fontSize": 14},
        "text": {"color": colours.text},
    }
    return chart.properties(config=alt.Config.from_dict(config))


def rows(values: Iterable[Mapping[str, Any]]) -> alt.InlineData:
    """Rows of a chart: mappings of plain values. They are data, so that no name of an upload is read as a field."""
    return alt.InlineData(values=list(values))
