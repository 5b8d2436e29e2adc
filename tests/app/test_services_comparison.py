from __future__ import annotations

from typing import Any

import pytest

from app.errors import AppError
from app.services.comparison import Compared, compare, layers, request_differences
from app.store.tables import JobRow


def job(formats: dict[str, str] | None = None, **request: Any) -> Compared:
    rows = None if formats is None else {"layers": [{"name": name, "format": form} for name, form in formats.items()]}
    return Compared(JobRow(request=request), rows)


def test_only_what_was_asked_differently_is_told_by_its_path():
    one = job(budget={"metric": "top1", "max_drop": 0.01}, weights={"bits": [2, 4]}, seed=0, plan=None)
    two = job(budget={"metric": "top1", "max_drop": 0.02}, weights={"bits": [2, 8]}, seed=0, plan={"layers": []})
    lines = request_differences([one, two])
    assert [(line.name, line.values) for line in lines] == [
        ("budget.max_drop", [0.01, 0.02]),
        ("weights.bits", [[2, 4], [2, 8]]),
        ("plan", [None, "given"]),
    ]
    assert request_differences([one, one]) == []


def test_layers_stand_side_by_side_and_differences_are_marked():
    one, two, none = job({"a": "int4", "b": "int2"}), job({"a": "int4", "b": "int8", "c": "int3"}), job()
    lines = layers([one, two, none])
    assert [(line.name, line.differs) for line in lines] == [("a", False), ("b", True), ("c", False)]
    assert [row and row["format"] for row in lines[2].values] == [None, "int3", None]


def test_from_two_jobs_on(sessions, new_job):
    first, second = new_job(), new_job()
    for ids in ([], [first.id], [first.id, first.id], [f"{number:032x}" for number in range(7)]):
        with pytest.raises(AppError, match="2 to 6 different jobs"):
            compare(sessions, ids)
    with pytest.raises(AppError) as missing:
        compare(sessions, [first.id, "0" * 32])
    assert missing.value.code == "not_found"
    assert [entry.row.id for entry in compare(sessions, [second.id, first.id])] == [second.id, first.id]
