"""How the layers of the delivered plan interact: what two lose together beyond what each loses alone."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
from numpy.typing import NDArray

from report.charts.theme import COLOURS, Theme, rows, themed
from report.charts.wording import amount, short
from report.documents import Documents

MOST_LAYERS = 40
"""More make a map that nobody can read: those that interact most are shown."""
_SIDE = 520


def interactions(documents: Documents, theme: Theme | str = Theme.LIGHT) -> alt.Chart | None:
    """A heat map of layers against layers, in nats, at the formats of the delivered plan; of a larger network the
    `MOST_LAYERS` that interact most. None where nothing was analysed, or fewer than two layers are quantized."""
    of_plan = _of_plan(documents)
    if of_plan is None:
        return None
    every, matrix = of_plan
    strength = np.nansum(np.abs(matrix - np.diag(np.diagonal(matrix))), axis=1)
    shown = np.sort(np.argsort(-strength, kind="stable")[:MOST_LAYERS])
    names = [short(every[place], 26) for place in shown]
    unique = [name if names.count(name) == 1 else f"{name} ({place})" for place, name in enumerate(names, 1)]
    return _map(matrix[np.ix_(shown, shown)], unique, len(every), theme)


def strongest(documents: Documents, most: int = 20) -> list[tuple[str, str, float]]:
    """The pairs of layers that interact most at the formats of the delivered plan, with their interaction in nats."""
    of_plan = _of_plan(documents)
    if of_plan is None:
        return []
    names, matrix = of_plan
    pairs = [(i, j) for i in range(len(names)) for j in range(i) if np.isfinite(matrix[i, j])]
    pairs.sort(key=lambda pair: -abs(matrix[pair]))
    return [(names[j], names[i], float(matrix[i, j])) for i, j in pairs[:most]]


def _of_plan(documents: Documents) -> tuple[list[str], NDArray[np.float64]] | None:
    """The names of what is quantized, and what each pair adds, `[layers, layers]` of the formats that it has."""
    plan, sensitivity = documents.plan, documents.sensitivity
    if plan is None or sensitivity is None:
        return None
    interactions = sensitivity["interactions"]
    places = {name: place for place, name in enumerate(interactions["candidates"])}
    chosen = [
        (str(row["name"]), places[f"{row['name']}:{row['format']}"])
        for row in (*plan["layers"], *plan["activations"])
        if f"{row['name']}:{row['format']}" in places
    ]
    if len(chosen) < 2:
        return None
    index = [place for _, place in chosen]
    rows = [[interactions["matrix"][i][j] for j in index] for i in index]
    matrix = np.array(rows, dtype=np.float64)  # None becomes NaN
    return [
        name for name, _ in chosen
    ], matrix + matrix.T  # a plan x is predicted to lose x'Gx: a pair stands in it twice


def _map(matrix: Any, names: list[str], of: int, theme: Theme | str) -> alt.Chart:
    colours = COLOURS[Theme(theme)]
    values: list[dict[str, Any]] = [
        {
            "row": names[i],
            "column": names[j],
            "value": float(matrix[i, j]),
            "text": f"{names[i]} and {names[j]}: {amount(float(matrix[i, j]))} nats",
        }
        for i in range(len(names))
        for j in range(len(names))
        if i != j and np.isfinite(matrix[i, j])
    ]
    largest = max((abs(row["value"]) for row in values), default=0.0) or 1.0
    colour = alt.Color("value:Q").title("nats").legend(orient="right", gradientLength=180, format="~g")
    shades = [colours.accent, colours.ground, colours.bad]
    colour = colour.scale(domain=[-largest, 0, largest], range=shades, interpolate="rgb")
    axis: dict[str, Any] = {"labelLimit": 150, "title": None, "ticks": False}
    side = max(_SIDE, 13 * len(names))
    subtitle = f"the {len(names)} of {of} that interact most" if len(names) < of else ""
    chart: alt.Chart = (
        alt.Chart(rows(values), width=side, height=side)
        .mark_rect()
        .encode(
            x=alt.X("column:N").sort(names).axis(labelAngle=-55, **axis),
            y=alt.Y("row:N").sort(names).axis(**axis),
            color=colour,
            description="text:N",
            tooltip=alt.Tooltip("text:N", title=" "),
        )
    )
    if subtitle:
        chart = chart.properties(title=subtitle)
    return themed(chart, theme)
