"""Where the time went: the stages of a job."""

from __future__ import annotations

import altair as alt

from report.charts.theme import COLOURS, WIDTH, Theme, rows, themed
from report.charts.wording import seconds
from report.documents import Documents


def stages(documents: Documents, theme: Theme | str = Theme.LIGHT) -> alt.LayerChart | alt.FacetChart | None:
    """A bar for each stage, in their order, with what it took. None where no times are known."""
    taken = documents.stage_seconds
    if not taken:
        return None
    total = sum(taken.values())
    values = [
        {"stage": name, "seconds": value, "label": seconds(value), "text": f"{name}: {seconds(value)}"}
        for name, value in taken.items()
    ]
    base = alt.Chart(rows(values), width=WIDTH, height=22 * len(values), title=f"{seconds(total)} in all").encode(
        y=alt.Y("stage:N").sort(list(taken)).title(None), x=alt.X("seconds:Q").title("seconds")
    )
    bars = base.mark_bar(color=COLOURS[Theme(theme)].accent).encode(
        description="text:N", tooltip=alt.Tooltip("text:N", title=" ")
    )
    words = base.mark_text(align="left", dx=4, aria=False).encode(text="label:N")
    return themed(alt.layer(bars, words), theme)
