"""What a quantized file holds, as tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rich.table import Column, Table

from app.cli.output import CONSOLE, plain


def show_audit(audit: Mapping[str, Any]) -> None:
    """The weights and activations that a file holds."""
    table = Table("weight", "shape", "format", *(Column(name, justify="right") for name in ("codes", "scales", "bits")))
    for weight in audit["weights"]:
        elements = math.prod(weight["shape"])
        stored = weight["codes_bytes"] + weight["scales_bytes"]
        each = f"{8 * stored / elements:.2f}" if elements else ""
        shape = " x ".join(map(str, weight["shape"]))
        cells = (weight["name"], shape, weight["format"], weight["codes_bytes"], weight["scales_bytes"])
        table.add_row(*(plain(f"{cell:,}" if isinstance(cell, int) else cell) for cell in cells), each)
    CONSOLE.print(table)
    if audit["activations"]:
        table = Table("activation", *(Column(name, justify="right") for name in ("bits", "scale", "zero point")))
        for activation in audit["activations"]:
            scale = f"{activation['scale']:.6g}"
            table.add_row(plain(activation["name"]), str(activation["bits"]), scale, str(activation["zero_point"]))
        CONSOLE.print(table)
    of_weights = sum(weight["codes_bytes"] + weight["scales_bytes"] for weight in audit["weights"])
    CONSOLE.print(f"{audit['total_bytes']:,} bytes, {of_weights:,} of them weights", highlight=False)
