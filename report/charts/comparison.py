"""Frontiers of several jobs in one chart: what plans cost against what is predicted of them."""

from __future__ import annotations

import altair as alt

from report.charts.theme import COLOURS, WIDTH, Theme, rows, themed
from report.charts.wording import amount, cost, short
from report.documents import Documents

_DASHES = ([1, 0], [6, 3], [2, 2], [8, 2, 2, 2], [4, 4], [1, 3])
_SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")


def comparison(documents: Documents, theme: Theme | str = Theme.LIGHT) -> alt.LayerChart | alt.FacetChart | None:
    """A line for each job that searched, and a mark at its delivered plan; jobs differ in colour, dashes and shape.

    None where no job searched. Jobs whose costs have another unit than those of the first one are left out.
    """
    jobs = [job for job in (documents.compared or {}).get("jobs", ()) if job["frontier"] is not None]
    if not jobs:
        return None
    unit = str(jobs[0]["frontier"]["unit"])
    jobs = [job for job in jobs if job["frontier"]["unit"] == unit]
    names = [f"{number}. {short(job['name'], 30)}" for number, job in enumerate(jobs, 1)]
    values = [
        {
            "job": name,
            "cost": point["cost"],
            "damage": point["predicted_damage"],
            "delivered": point["chosen"],
            "text": f"{name}: {cost(point['cost'], unit)}, predicted damage {amount(point['predicted_damage'])} nats",
        }
        for name, job in zip(names, jobs, strict=True)
        for point in job["frontier"]["points"]
        if point["predicted_damage"] > 0
    ]
    colours = COLOURS[Theme(theme)]
    shades = [colours.accent, colours.warn, colours.good, colours.bad, colours.text, colours.muted]
    base = alt.Chart(rows(values)).encode(
        alt.X("cost:Q").scale(type="log", nice=False, padding=12).title(_title(unit)).axis(format="~s", tickCount=6),
        alt.Y("damage:Q").scale(type="log").title("predicted damage (nats)").axis(format="~g", tickCount=5),
        alt.Color("job:N").scale(domain=names, range=shades[: len(names)]),
    )
    line = base.mark_line(strokeWidth=1.5).encode(
        strokeDash=alt.StrokeDash("job:N").scale(domain=names, range=_DASHES[: len(names)]), order="cost:Q"
    )
    marks = (
        base.transform_filter(alt.FieldEqualPredicate(field="delivered", equal=True))
        .mark_point(filled=True, size=130, opacity=0.95)
        .encode(
            shape=alt.Shape("job:N").scale(domain=names, range=_SHAPES[: len(names)]),
            description="text:N",
            tooltip=alt.Tooltip("text:N", title=" "),
        )
    )
    return themed(alt.layer(line, marks).properties(width=WIDTH, height=260), theme)


def _title(unit: str) -> str:
    return "size of the file (bytes)" if unit == "bytes" else unit
