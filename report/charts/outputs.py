"""What a drop means: the held-out samples that lose most, before and after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt

from report.charts.theme import COLOURS, Theme, rows, themed
from report.charts.wording import amount
from report.documents import Documents

MOST_SAMPLES = 6
_KINDS = ("float model", "delivered")


def outputs(documents: Documents, theme: Theme | str = Theme.LIGHT) -> alt.FacetChart | None:
    """For each of the worst samples, pairs of bars: what the float model gives and what the delivered file gives, for
    the likeliest classes or the values that differ most. None where no sample loses anything, or none was kept."""
    samples = [] if documents.samples is None else documents.samples["samples"]
    values = [value for sample in samples[:MOST_SAMPLES] for value in _values(sample)]
    if not values:
        return None
    colours = COLOURS[Theme(theme)]
    probabilities = all(own["meaning"] == "classes" for sample in samples for own in sample["outputs"])
    bars = (
        alt.Chart(width=220, height=alt.Step(9))
        .mark_bar()
        .encode(
            x=alt.X("value:Q").title("probability" if probabilities else "value").axis(format="~g", tickCount=4),
            y=alt.Y("at:N").sort(None).title(None).axis(labelLimit=140),
            yOffset=alt.YOffset("kind:N").sort(list(_KINDS)),
            color=alt.Color("kind:N").scale(domain=list(_KINDS), range=[colours.muted, colours.accent]),
            description="text:N",
            tooltip=alt.Tooltip("text:N", title=" "),
        )
    )
    titles = list(dict.fromkeys(value["sample"] for value in values))
    facet = alt.Facet("sample:N", sort=titles).title(None)
    faceted: alt.FacetChart = bars.facet(facet, data=rows(values), columns=3)
    own: alt.FacetChart = faceted.resolve_scale(y="independent", x="shared" if probabilities else "independent")
    return themed(own, theme)


def sample_title(sample: Mapping[str, Any]) -> str:
    """A sample in a few words: where it stands in the data, and what is right."""
    right = "" if sample["right"] is None else f", right: {sample['right']}"
    return f"sample {sample['index']}{right}"


def _values(sample: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The bars of a sample: those of its first output that has numbers."""
    for output in sample["outputs"]:
        numbers = [row for row in output["rows"] if _are_numbers(row)]
        if numbers:
            return [
                {
                    "sample": sample_title(sample),
                    "at": value_name(output["meaning"], row["at"]),
                    "kind": kind,
                    "value": row[member],
                    "text": f"{value_name(output['meaning'], row['at'])}, {kind}: {amount(row[member])}",
                }
                for row in numbers
                for kind, member in zip(_KINDS, ("float", "quantized"), strict=True)
            ]
    return []


def value_name(meaning: str, at: list[int]) -> str:
    """What a value of an output is called: its class, or its place."""
    return f"class {at[0]}" if meaning == "classes" else f"[{', '.join(map(str, at))}]"


def _are_numbers(row: Mapping[str, Any]) -> bool:
    return all(isinstance(row[member], int | float) for member in ("float", "quantized"))
