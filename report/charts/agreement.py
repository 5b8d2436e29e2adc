"""Which method predicts: its predictions of random plans against what was measured of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from report.charts.theme import COLOURS, WIDTH, Theme, rows, themed
from report.charts.wording import amount
from report.documents import Documents

MOST_METHODS = 6
"""That have a panel of points of their own: those that agree best, and the one in use."""


def agreement(documents: Documents, theme: Theme | str = Theme.LIGHT) -> alt.VConcatChart | None:
    """Above, each method's rank correlation with the measured damage of random plans, with its interval. Below, the
    plans themselves, for the best methods: on the line, prediction and measurement are the same. None where no methods
    were compared."""
    sensitivity = documents.sensitivity
    methods = [] if sensitivity is None else sensitivity["agreement"]["methods"]
    if sensitivity is None or not methods:
        return None
    ordered = sorted(methods, key=lambda own: -(own["spearman"] if own["spearman"] is not None else -2.0))
    panels: list[Any] = [_correlations(ordered, sensitivity["method"], theme)]
    plans = sensitivity.get("random_plans")
    if plans and plans["measured"]:
        names = [own["method"] for own in ordered if own["method"] in plans["predicted"]]
        best = list(dict.fromkeys([*(name for name in names if name == sensitivity["method"]), *names]))[:MOST_METHODS]
        if best:
            panels.append(_plans(best, plans, theme))
    whole: alt.VConcatChart = alt.vconcat(*panels)
    return themed(whole, theme)


def _correlations(methods: Sequence[Mapping[str, Any]], used: str, theme: Theme | str) -> alt.LayerChart | Any:
    colours = COLOURS[Theme(theme)]
    values = [
        {
            "method": own["method"],
            "kind": "in use" if own["method"] == used else "compared",
            "value": own["spearman"],
            "low": own["low"],
            "high": own["high"],
            "text": f"{own['method']}: rank correlation {amount(own['spearman'])}, measured over predicted "
            f"{amount(own['ratio'])}",
        }
        for own in methods
        if own["spearman"] is not None
    ]
    names = [own["method"] for own in methods]
    colour = alt.Color("kind:N").scale(domain=["in use", "compared"], range=[colours.good, colours.accent])
    base = alt.Chart(rows(values), width=WIDTH, height=max(18 * len(values), 40)).encode(
        y=alt.Y("method:N").sort(names).title(None).axis(labelLimit=200), color=colour
    )
    x = alt.X("value:Q").title("rank correlation with what was measured").scale(zero=False, nice=True)
    bars = base.mark_rule(strokeWidth=2, aria=False).encode(x=alt.X("low:Q").title(""), x2="high:Q")
    points = base.mark_point(filled=True, size=80, opacity=1).encode(
        x=x,
        description="text:N",
        tooltip=alt.Tooltip("text:N", title=" "),
        shape=alt.Shape("kind:N").scale(domain=["in use", "compared"], range=["cross", "circle"]),
    )
    return alt.layer(bars, points)


def _plans(methods: Sequence[str], plans: Mapping[str, Any], theme: Theme | str) -> alt.FacetChart | Any:
    colours = COLOURS[Theme(theme)]
    values = [
        {
            "method": method,
            "predicted": predicted,
            "measured": measured,
            "text": f"{method}: predicted {amount(predicted)}, measured {amount(measured)} nats",
        }
        for method in methods
        for predicted, measured in zip(plans["predicted"][method], plans["measured"], strict=True)
        if predicted is not None and measured is not None and predicted > 0 and measured > 0
    ]
    every = [row[member] for row in values for member in ("predicted", "measured")]
    ends = [{"at": min(every, default=0.1)}, {"at": max(every, default=1.0)}]
    base = alt.Chart(width=200, height=200)
    scale: dict[str, Any] = {"type": "log", "nice": False, "padding": 8}
    points = base.mark_point(filled=True, color=colours.accent, opacity=0.9, size=40).encode(
        x=alt.X("predicted:Q").title("predicted (nats)").scale(**scale).axis(format="~g", tickCount=4),
        y=alt.Y("measured:Q").title("measured (nats)").scale(**scale).axis(format="~g", tickCount=4),
        description="text:N",
        tooltip=alt.Tooltip("text:N", title=" "),
    )
    line = (
        alt.Chart(rows(ends)).mark_line(color=colours.muted, strokeDash=[4, 4], aria=False).encode(x="at:Q", y="at:Q")
    )
    facet = alt.Facet("method:N", sort=list(methods)).title(None)
    return alt.layer(line, points, data=rows(values)).facet(facet, columns=3)
