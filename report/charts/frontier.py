"""The frontier: what plans cost against what is predicted of them, and what was measured against the budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from report.charts.points import DELIVERED, FLOAT, FRONTIER, TRIED, UNIFORM, PlanPoint, plan_points
from report.charts.theme import COLOURS, WIDTH, Theme, rows, themed
from report.charts.wording import amount, cost, metric
from report.documents import Documents

Layers = alt.LayerChart | alt.FacetChart
"""What Altair says that layers are."""

_KINDS = (FRONTIER, TRIED, UNIFORM, FLOAT, DELIVERED)
_SHAPES = ("circle", "diamond", "square", "triangle-up", "cross")


def frontier(documents: Documents, theme: Theme | str = Theme.LIGHT) -> alt.VConcatChart | None:
    """Above, predicted damage by cost: the frontier as a line, uniform plans beside it. Below, the drop that was
    measured of those plans that were tried, with one standard error, of the float model and of the delivered file on
    held-out samples with its interval, against the budget.

    None for a job that did not search.
    """
    points = plan_points(documents)
    if not points:
        return None
    assert documents.frontier is not None  # noqa: S101 - there are points
    unit = str(documents.frontier["unit"])
    axis = alt.X("cost:Q").scale(type="log", nice=False, padding=12).title(_cost_title(unit))
    axis = axis.axis(labelExpr=_labels(unit), grid=False, labelOverlap=True, tickCount=6)
    panels = [
        _predicted(points, axis, unit, theme).properties(height=230),
        _measured(documents, points, axis, unit, theme).properties(height=230),
    ]
    both: alt.VConcatChart = alt.vconcat(*panels).resolve_scale(x="shared", color="shared", shape="shared")
    return themed(both, theme)


def _predicted(points: Sequence[PlanPoint], axis: Any, unit: str, theme: Theme | str) -> Layers:
    drawn = [point for point in points if point.predicted_damage is not None and point.predicted_damage > 0]
    values = [
        {
            "kind": point.kind,
            "cost": point.cost,
            "damage": point.predicted_damage,
            "label": point.label,
            "text": f"{point.label}: {cost(point.cost, unit)}, predicted damage {amount(point.predicted_damage)} nats",
        }
        for point in drawn
    ]
    damage = alt.Y("damage:Q").scale(type="log").title("predicted damage (nats)").axis(format="~g", tickCount=5)
    base = alt.Chart(rows(values)).encode(axis, damage)
    on_line = alt.FieldOneOfPredicate(field="kind", oneOf=[FRONTIER, DELIVERED])
    line = (
        base.transform_filter(on_line).mark_line(color=COLOURS[Theme(theme)].accent, opacity=0.6).encode(order="cost:Q")
    )
    named = base.transform_filter(alt.FieldOneOfPredicate(field="kind", oneOf=[UNIFORM, DELIVERED]))
    words = named.mark_text(align="left", dx=8, dy=-7, fontSize=11, aria=False).encode(text="label:N")
    return alt.layer(line, _marks(base, theme), words).properties(width=WIDTH, title="Predicted")


def _measured(documents: Documents, points: Sequence[PlanPoint], axis: Any, unit: str, theme: Theme | str) -> Layers:
    certificate, plan = documents.measured, documents.main
    name, samples = metric(certificate), f"{certificate['samples']:,} held-out samples"
    values = [
        {
            "kind": point.kind if point.kind != DELIVERED else TRIED,
            "cost": point.cost,
            "drop": point.drop,
            "low": point.drop - (point.stderr or 0.0),
            "high": point.drop + (point.stderr or 0.0),
            "text": f"{point.label}: {cost(point.cost, unit)}, {name} drop {amount(point.drop)} on the search samples",
        }
        for point in points
        if point.drop is not None
    ]
    values += [
        {
            "kind": DELIVERED,
            "cost": point.cost,
            **{member: certificate[member] for member in ("drop", "low", "high")},
            "text": f"delivered: {cost(point.cost, unit)}, {name} drop {amount(certificate['drop'])} on {samples}",
        }
        for point in points
        if point.kind == DELIVERED
    ]
    if unit == "bytes":
        size = plan["float_size_bytes"]
        text = f"the float model: {cost(size, unit)}, {name} {amount(certificate['float_value'])}"
        values.append({"kind": FLOAT, "cost": size, "drop": 0.0, "low": 0.0, "high": 0.0, "text": text})
    colours = COLOURS[Theme(theme)]
    drop = alt.Y("drop:Q").title(f"{name} drop").axis(format="~g", tickCount=5)
    base = alt.Chart(rows(values)).encode(axis, drop)
    bars = base.mark_rule(strokeWidth=1.5, aria=False).encode(y="low:Q", y2="high:Q", color=_colour(theme))
    limit = alt.Chart(rows([{"drop": certificate["max_drop"], "text": f"budget: {amount(certificate['max_drop'])}"}]))
    line = limit.mark_rule(color=colours.bad, strokeDash=[6, 4], strokeWidth=1.5).encode(
        y="drop:Q", description="text:N"
    )
    words = limit.mark_text(color=colours.bad, align="right", dy=-6, x=WIDTH, aria=False).encode(
        y="drop:Q", text="text:N"
    )
    return alt.layer(line, words, bars, _marks(base, theme)).properties(width=WIDTH, title="Measured")


def _marks(base: alt.Chart, theme: Theme | str) -> Layers:
    """The points themselves, by kind in colour and shape; those of the frontier are many, and small."""
    # two layers and no channel `size`: its legend cannot be left out without that of the colours
    layers = [
        base.transform_filter(alt.FieldOneOfPredicate(field="kind", oneOf=kinds))
        .mark_point(filled=True, opacity=0.95, size=size)
        .encode(
            color=_colour(theme),
            shape=alt.Shape("kind:N").scale(domain=_KINDS, range=_SHAPES),
            description="text:N",
            tooltip=alt.Tooltip("text:N", title=" "),
        )
        for kinds, size in (([FRONTIER], 30), ([TRIED, UNIFORM, FLOAT, DELIVERED], 110))
    ]
    return alt.layer(*layers)


def _colour(theme: Theme | str) -> alt.Color:
    colours = COLOURS[Theme(theme)]
    shades = [colours.accent, colours.muted, colours.warn, colours.text, colours.good]
    return alt.Color("kind:N").scale(domain=_KINDS, range=shades)


def _cost_title(unit: str) -> str:
    return "size of the file" if unit == "bytes" else unit


def _labels(unit: str) -> str:
    """How the axis writes costs, as an expression of Vega; no text of an upload stands in it."""
    if unit != "bytes":
        return "format(datum.value, '~s')"
    return "datum.value >= 1e6 ? format(datum.value / 1e6, '~r') + ' MB' : format(datum.value / 1e3, '~r') + ' kB'"
