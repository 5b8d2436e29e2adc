"""What is predicted of a plan that is edited, against the sum written out."""

from __future__ import annotations

import pytest

from app.errors import AppError
from app.services.plan_edits import EditedPlan

PLAN = {
    "size_bytes": 1000,
    "layers": [
        {
            "name": "a",
            "op_type": "Conv",
            "weights": 10,
            "format": "int4/channel",
            "bits": 4,
            "bytes": 30,
            "damage": 0.1,
        },
        {"name": "b", "op_type": "Gemm", "weights": 20, "format": "float16", "bits": 16, "bytes": 40, "damage": 0.0},
    ],
    "activations": [{"name": "x", "format": "uint8/tensor", "bits": 8, "bytes": 5, "damage": 0.02}],
}


def _candidate(format_: str, size_bytes: int, damage: float, interaction: float) -> dict[str, object]:
    return {"format": format_, "size_bytes": size_bytes, "damage": damage, "interaction": interaction}


SENSITIVITY = {
    "sites": [
        {
            "name": "a",
            "candidates": [_candidate("int2/channel", 20, 0.4, 2.0), _candidate("int4/channel", 30, 0.1, 1.0)],
        },
        {"name": "b", "candidates": [_candidate("int8/channel", 25, 0.3, 3.0)]},
        {"name": "x", "candidates": [_candidate("uint8/tensor", 5, 0.02, 0.0)]},
    ],
    "interactions": {
        "matrix": [[0.1, 9.0, 0.01, 9.0], [9.0, 0.1, 0.02, 9.0], [0.01, 0.02, 0.1, 9.0], [9.0, 9.0, 9.0, None]]
    },
}


def test_the_delivered_plan_is_what_nothing_was_changed_of() -> None:
    edited = EditedPlan(PLAN, SENSITIVITY)
    formats = [row.format for row in edited.rows]
    predicted = edited.predicted(formats)
    assert (predicted.size_bytes, predicted.changed) == (1000, 0)
    assert predicted.damage == pytest.approx(0.1 + 0.02)
    assert edited.changes(formats) == {}


def test_damages_add_up_with_the_interactions_of_each_pair() -> None:
    edited = EditedPlan(PLAN, SENSITIVITY)
    formats = ["int2/channel", "int8/channel", "float32"]
    predicted = edited.predicted(formats)
    assert (predicted.size_bytes, predicted.changed) == (1000 - 30 + 20 - 40 + 25, 3)
    assert predicted.damage == pytest.approx(0.4 + 0.3 + 2 * (2.0 * 3.0 * 0.01))
    assert edited.changes(formats) == {
        "layers": {"a": "int2/channel", "b": "int8/channel"},
        "activations": {"x": "float32"},
    }


def test_what_stays_float_loses_nothing() -> None:
    predicted = EditedPlan(PLAN, SENSITIVITY).predicted(["float32", "float32", "float32"])
    assert (predicted.damage, predicted.size_bytes) == (0.0, 1000 - 30 + 40 - 40 + 80)


def test_without_a_search_sizes_of_what_is_known_and_no_damage() -> None:
    edited = EditedPlan({**PLAN, "layers": [{**PLAN["layers"][0], "damage": None}], "activations": []}, None)
    assert [choice.format for choice in edited.rows[0].choices] == ["float32", "int4/channel"]
    assert edited.predicted(["int4/channel"]).damage is None
    assert edited.predicted(["float32"]).size_bytes == 1000 - 30 + 40


def test_a_format_that_a_layer_may_not_get_is_refused() -> None:
    with pytest.raises(AppError, match="'b' may get int8/channel, float32, float16, got 'int2/channel'"):
        EditedPlan(PLAN, SENSITIVITY).predicted(["int4/channel", "int2/channel", "float32"])
