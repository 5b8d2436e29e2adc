"""What a replan takes from the search of its job: how much plans of this network lose for their predicted damage."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.app.finishing import finished


def measured(damage: float, lost: float) -> dict[str, float]:
    return {"predicted_damage": damage, "fitted_drop": lost}


EVALUATED = [
    measured(0.1, 0.05),  # too far from the new budget
    measured(0.05, 0.010),  # 0.2
    measured(0.05, 0.015),  # 0.3
    measured(0.10, 0.012),  # 0.12
    measured(0.02, -0.001),  # loses nothing
    measured(0.0, 0.01),  # was not foreseen
]


def searched(server: Any, evaluated: list[dict[str, float]], **request: Any) -> str:
    layer = {"name": "a", "weight": "w", "nodes": ["n"], "format": "int8/channel", "bits": 8, "rounded_with": None}
    plan = {"version": 1, "layers": [layer], "activations": [], "search": {"evaluated": evaluated}}
    return finished(server, request, plan=json.dumps(plan).encode())


def slope(server: Any, parent: str, changes: dict[str, Any]) -> float | None:
    answer = server.client.post(f"/v1/jobs/{parent}/replan", json=changes)
    assert answer.status_code == 202, answer.text
    return answer.json()["request"]["search"]["drop_per_damage"]


def test_a_search_begins_where_the_nearest_measured_plans_say(server: Any) -> None:
    parent = searched(server, EVALUATED)
    assert slope(server, parent, {"budget": {"max_drop": 0.012}}) == pytest.approx(0.2)
    assert slope(server, parent, {"limits": {"max_size_bytes": 1000}, "budget": {"max_drop": 0.012}}) is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"budget": {"max_drop": 0.012, "metric": "kl"}},
        {"sensitivity": {"method": "noise"}},
        {"activations": {"bits": [8]}},
        {"search": {"drop_per_damage": None}},
        {"plan": {"layers": {"a": "int4/channel"}}},
    ],
)
def test_what_predicts_or_measures_otherwise_begins_anew(server: Any, changes: dict[str, Any]) -> None:
    assert slope(server, searched(server, EVALUATED), changes) is None


def test_what_was_looked_up_is_no_part_of_the_request(server: Any) -> None:
    """A replan of a job that has not ended knows nothing; repeated with its key after the end, it is the same job. And
    a replan of a replan looks anew."""
    parent = searched(server, EVALUATED)
    call, headers = f"/v1/jobs/{parent}/replan", {"Idempotency-Key": "k"}
    first = server.client.post(call, json={}, headers=headers).json()
    assert first["request"]["search"]["drop_per_damage"] == pytest.approx(0.2)
    assert server.client.post(call, json={}, headers=headers).json()["id"] == first["id"]
    assert slope(server, first["id"], {}) is None, "its search has measured nothing yet"
    assert slope(server, parent, {"search": {"drop_per_damage": 0.7}}) == 0.7


@pytest.mark.parametrize("evaluated", [[], [measured(0.02, -0.001)], [measured(0.0, 0.1)]])
def test_where_nothing_was_lost_nothing_is_known(server: Any, evaluated: list[dict[str, float]]) -> None:
    assert slope(server, searched(server, evaluated), {}) is None


OLDER = (b"no JSON", b"[]", b'{"search": {"evaluated": [{"drop": 0.1}]}}', b'{"search": null}')


@pytest.mark.parametrize("plan", OLDER)
def test_a_plan_of_another_version_begins_anew(server: Any, plan: bytes) -> None:
    assert slope(server, finished(server, plan=plan), {}) is None
