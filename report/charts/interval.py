"""At a glance: what was measured, with its interval, against the budget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt

from report.charts.theme import COLOURS, WIDTH, Theme, rows, themed
from report.charts.wording import amount, short
from report.documents import Documents

MOST_CLAIMS = 12


def interval(documents: Documents, theme: Theme | str = Theme.LIGHT) -> alt.LayerChart | alt.FacetChart:
    """A line for each claim from the low to the high end of its drop, a mark at the drop, and the budget. Of several
    claims, which have units and budgets of their own, drops are shares of the budget; those nearest to it are shown."""
    certificate, colours = documents.measured, COLOURS[Theme(theme)]
    claims = list(certificate.get("claims") or [certificate])
    shares = len(claims) > 1 and all(claim["max_drop"] > 0 for claim in claims)
    values = [_values(claim, shares) for claim in claims]
    values = sorted(values, key=lambda row: -row["used"])[:MOST_CLAIMS]
    limit = 1.0 if shares else float(certificate["max_drop"])
    title = "drop as a share of its budget" if shares else f"drop ({'/'.join({row['unit'] for row in values})})"
    x = alt.X("drop:Q").title(title).axis(format="~g", tickCount=6)
    y = alt.Y("claim:N").sort(None).title(None).axis(labelLimit=220)
    kinds = ["budget kept", "budget missed"]
    colour = alt.Color("kind:N").scale(domain=kinds, range=[colours.good, colours.bad])
    base = alt.Chart(rows(values), width=WIDTH, height=max(36 * len(values), 56)).encode(y=y, color=colour)
    lines = base.mark_rule(strokeWidth=4, strokeCap="round", aria=False).encode(x=alt.X("low:Q").title(""), x2="high:Q")
    points = base.mark_point(filled=True, size=130, opacity=1).encode(
        x=x,
        shape=alt.Shape("kind:N").scale(domain=kinds, range=["circle", "cross"]),
        description="text:N",
        tooltip=alt.Tooltip("text:N", title=" "),
    )
    budget = alt.Chart(rows([{"drop": limit, "text": f"budget: {amount(float(certificate['max_drop']))}"}]))
    rule = budget.mark_rule(color=colours.bad, strokeDash=[6, 4], strokeWidth=2).encode(
        x="drop:Q", description="text:N"
    )
    words = budget.mark_text(color=colours.bad, align="left", dx=5, y=-6, aria=False).encode(x="drop:Q", text="text:N")
    none = alt.Chart(rows([{"drop": 0.0}])).mark_rule(color=colours.muted, aria=False).encode(x="drop:Q")
    return themed(alt.layer(none, rule, words, lines, points), theme)


def _values(claim: Mapping[str, Any], shares: bool) -> dict[str, Any]:
    scale = claim["max_drop"] if shares else 1.0
    outputs = " and ".join(claim.get("outputs", ()))
    name = f"{claim['metric']} of {claim.get('part') or outputs}" if outputs else str(claim["metric"])
    ends = {member: claim[member] / scale for member in ("drop", "low", "high")}
    text = f"{name}: drop {amount(claim['drop'])}, between {amount(claim['low'])} and {amount(claim['high'])}"
    return {
        **ends,
        "claim": short(name, 34),
        "unit": claim.get("unit", "share"),
        "used": claim["drop"] / claim["max_drop"] if claim["max_drop"] else claim["drop"],
        "kind": "budget kept" if claim["met"] else "budget missed",
        "text": text,
    }
