"""The numbers behind the charts as tables: what somebody reads who cannot see a chart, or wants the digits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from report.charts.interactions import strongest
from report.charts.points import plan_points
from report.charts.wording import amount, cost, seconds, size
from report.documents import Documents


@dataclass(frozen=True, slots=True)
class Column:
    """A column; those of numbers are written to the right."""

    name: str
    number: bool = True


@dataclass(frozen=True, slots=True)
class Table:
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]


def tables(documents: Documents) -> dict[str, Table | None]:
    """A table by the name of each section; None where there is nothing for it."""
    return {
        "claims": _claims(documents.measured),
        "frontier": _frontier(documents),
        "layers": _layers(documents),
        "interactions": _interactions(documents),
        "agreement": _agreement(documents),
        "stages": _table(
            [Column("stage", number=False), Column("time")],
            [[name, seconds(taken)] for name, taken in documents.stage_seconds.items()],
        ),
        "stays_float": _stays_float(documents),
    }


def _table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> Table | None:
    return Table(columns, rows) if rows else None


def _claims(certificate: Mapping[str, Any]) -> Table | None:
    names = ("float", "delivered", "drop", "from", "to", "budget")
    members = ("float_value", "quantized_value", "drop", "low", "high", "max_drop")
    rows = [
        [
            str(claim["metric"]),
            str(claim.get("part") or " and ".join(claim.get("outputs", ()))),
            *(amount(claim[member]) for member in members),
            "kept" if claim["met"] else "missed",
        ]
        for claim in certificate.get("claims") or [certificate]
    ]
    texts = [Column(name, number=False) for name in ("metric", "of")]
    return _table([*texts, *map(Column, names), Column("result", number=False)], rows)


def _frontier(documents: Documents) -> Table | None:
    unit = "" if documents.frontier is None else str(documents.frontier["unit"])
    points = sorted(plan_points(documents), key=lambda point: point.cost)
    rows = [
        [point.label, cost(point.cost, unit), amount(point.predicted_damage), amount(point.drop), amount(point.stderr)]
        for point in points
    ]
    names = ("cost", "predicted damage (nats)", "measured drop", "standard error")
    return _table([Column("plan", number=False), *map(Column, names)], rows)


def _layers(documents: Documents) -> Table | None:
    rows = [
        [
            str(row["name"]),
            str(row["op_type"]),
            str(row["format"]),
            str(row["input_bits"]),
            size(row["bytes"]),
            amount(row.get("load_ms"), 3),
            _share(row.get("sparsity")),
            amount(row["damage"]),
            amount(row["damage_stderr"]),
            str(row["note"] or ""),
        ]
        for row in documents.layers
    ]
    texts = [Column(name, number=False) for name in ("layer", "operator", "format")]
    names = ("input bits", "size", "load (ms)", "zeros", "damage (nats)", "standard error")
    numbers = [Column(name) for name in names]
    return _table([*texts, *numbers, Column("note", number=False)], rows)


def _share(value: float | None) -> str:
    return amount(value) if value is None else f"{value:.1%}"


def _interactions(documents: Documents) -> Table | None:
    rows = [[first, second, amount(value)] for first, second, value in strongest(documents)]
    return _table([Column("layer", number=False), Column("and layer", number=False), Column("nats")], rows)


def _agreement(documents: Documents) -> Table | None:
    if documents.sensitivity is None:
        return None
    members = ("spearman", "low", "high", "ratio", "spread")
    rows = [
        [
            str(own["method"]),
            "in use" if own["method"] == documents.sensitivity["method"] else "",
            *(amount(own[member]) for member in members),
        ]
        for own in documents.sensitivity["agreement"]["methods"]
    ]
    names = ("rank correlation", "from", "to", "measured / predicted", "spread")
    return _table([Column("method", number=False), Column("", number=False), *map(Column, names)], rows)


def _stays_float(documents: Documents) -> Table | None:
    left = documents.main.get("stays_float") or {"tensors": []}
    rows = [[str(row["name"]), size(row["bytes"]), str(row["reason"])] for row in left["tensors"]]
    return _table([Column("tensor", number=False), Column("size"), Column("why", number=False)], rows)
