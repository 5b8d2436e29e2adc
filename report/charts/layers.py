"""The plan along the network: bits, bytes and predicted damage of every layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from report.charts.theme import COLOURS, WIDTH, Theme, rows, themed
from report.charts.wording import amount, short, size
from report.documents import FLOAT_BITS, Document, Documents

MOST_LABELS = 44
"""Names under the bars; of a deeper network every second, third, ... layer is named, and every bar says its own."""
_LEAST_STEP = 3  # pixels of a bar
_HEIGHT = 110


def layers(documents: Documents, theme: Theme | str = Theme.LIGHT) -> alt.VConcatChart | None:
    """A bar for each layer, in the order of the network: its bits, the bytes that it takes, and the damage that is
    predicted of it where there was a search. None where a file was certified."""
    layers = documents.layers
    if not layers:
        return None
    names = [short(str(row["name"]), 28) for row in layers]
    unique = [name if names.count(name) == 1 else f"{name} ({place})" for place, name in enumerate(names, 1)]
    values = [_values(row, name) for row, name in zip(layers, unique, strict=True)]
    width = max(WIDTH, _LEAST_STEP * len(layers))
    step = -(-len(layers) // MOST_LABELS)
    shown = [("bits", "bits of the weights", "~g"), ("bytes", "bytes", "~s")]
    if any(row["damage"] is not None for row in values):
        shown.append(("damage", "predicted damage (nats)", "~g"))
    base = alt.Chart(rows(values), width=width, height=_HEIGHT)
    panels = [
        _panel(base, member, title, form, unique[::step] if place == len(shown) - 1 else None, unique, theme)
        for place, (member, title, form) in enumerate(shown)
    ]
    together: alt.VConcatChart = alt.vconcat(*panels, spacing=12).resolve_scale(x="shared", color="shared")
    return themed(together, theme)


def _panel(
    base: alt.Chart,
    member: str,
    title: str,
    form: str,
    labels: Sequence[str] | None,
    order: Sequence[str],
    theme: Theme | str,
) -> alt.Chart:
    """Bars of one member; the lowest panel alone has `labels`."""
    colours = COLOURS[Theme(theme)]
    axis = (
        alt.Axis(labels=False, ticks=False, title=None)
        if labels is None
        else alt.Axis(values=list(labels), labelAngle=-55, labelLimit=170, labelOverlap=False, title=None)
    )
    kinds = alt.Color("kind:N").scale(domain=["quantized", "stays float"], range=[colours.accent, colours.muted])
    chart: alt.Chart = base.mark_bar().encode(
        x=alt.X("layer:N").sort(list(order)).axis(axis).scale(paddingInner=0.15),
        y=alt.Y(f"{member}:Q")
        .title(title)
        .axis(format=form, tickCount=4, tickMinStep=1 if member == "bits" else alt.Undefined),
        color=kinds,
        description="text:N",
        tooltip=alt.Tooltip("text:N", title=" "),
    )
    return chart


def _values(row: Document, name: str) -> dict[str, Any]:
    damage = row["damage"]
    said = f", predicted damage {amount(damage)} nats" if damage is not None else ""
    return {
        "layer": name,
        "kind": "stays float" if row["bits"] >= FLOAT_BITS else "quantized",
        "bits": row["bits"],
        "bytes": row["bytes"],
        "damage": damage,
        "text": f"{row['name']} ({row['op_type']}): {row['format']}, {size(row['bytes'])}{said}",
    }
