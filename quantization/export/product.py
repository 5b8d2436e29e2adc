"""One weight that is multiplied as it is stored."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Product:
    """A weight `[rows, columns]`, or `[columns, rows]` where `transposed`, that all of `nodes` multiply with packed."""

    nodes: frozenset[str]
    rows: int
    columns: int
    transposed: bool
