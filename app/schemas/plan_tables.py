"""The layers of a plan as tables: CSV (RFC 4180), for people and for other programs.

A text that a spreadsheet would take for a formula gets an apostrophe before it: names come from the upload.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
"""What makes a cell a formula for a spreadsheet; it looks past white space."""

Layers = Sequence[Mapping[str, Any]]
"""The `layers` of a plan."""


def plan_csv(layers: Layers) -> str:
    """One row for each layer; columns are the members that layers have."""
    return _csv(layers)


def plan_table(layers: Layers) -> str:
    """The widths alone: `layer`, `weight_bits`, `activation_bits` (of what the layer reads)."""
    names = {"layer": "name", "weight_bits": "bits", "activation_bits": "input_bits"}
    return _csv([{column: layer.get(member) for column, member in names.items()} for layer in layers])


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(value) for name, value in row.items()})
    return text.getvalue()


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    text = json.dumps(value) if isinstance(value, (list, dict, bool)) else value
    return f"'{text}" if isinstance(text, str) and text.startswith(FORMULA_STARTS) else text
