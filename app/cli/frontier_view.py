"""The frontier of a search as a table: what other budgets would cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Column, Table

from app.cli.output import CONSOLE, plain


def show_frontier(frontier: Mapping[str, Any]) -> None:
    """The points, the cheapest first; where a plan was run, with what was measured of it."""
    unit = f"{frontier['cost']} [{frontier['unit']}]".replace("_", " ")
    figures = (Column(name, justify="right") for name in ("predicted damage", "measured drop", "+-"))
    table = Table(Column(plain(unit), justify="right"), "bits", *figures, "")
    for point in sorted(frontier["points"], key=lambda point: point["cost"]):
        run = point["measured"]
        drop = ("", "") if run is None else (f"{run['drop']:+.4g}", f"{run['stderr']:.2g}")
        table.add_row(
            f"{point['cost']:,.6g}" if point["cost"] % 1 else f"{point['cost']:,.0f}",
            _widths(point["bits"]),
            f"{point['predicted_damage']:.3g}",
            *drop,
            "chosen" if point["chosen"] else "",
        )
    CONSOLE.print(table)


def _widths(bits: Mapping[str, int]) -> str:
    """How many sites have which width: `2 x 4, 12 x 8`."""
    widths = sorted(bits.values())
    return ", ".join(f"{widths.count(width)} x {width}" for width in dict.fromkeys(widths))
