"""Requests whose plan changes that of a job: they are stored whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest

from tests.app.finishing import finished

PLAN = {
    "version": 1,
    "layers": [
        {
            "name": "conv1",
            "weight": "w1",
            "nodes": ["first"],
            "format": "int4/channel",
            "bits": 4,
            "rounded_with": None,
        },
        {"name": "fc", "weight": "w2", "nodes": ["last"], "format": "int8/channel", "bits": 8, "rounded_with": None},
    ],
    "activations": [],
}
POINTS = [
    {"formats": {"conv1": "int2/channel", "fc": "int8/channel"}, "bits": {"conv1": 2, "fc": 8}},
    {"formats": {"conv1": "int8/channel", "fc": "int8/channel"}, "bits": {"conv1": 8, "fc": 8}},
]


def _searched(server: Any, request: Mapping[str, Any] = MappingProxyType({})) -> str:
    frontier = json.dumps({"points": POINTS}).encode()
    return finished(server, request, plan=json.dumps(PLAN).encode(), frontier=frontier)


def _stored(answer: Any) -> dict[str, str]:
    assert answer.status_code == 202, answer.text
    plan = answer.json()["request"]["plan"]
    assert set(plan) == {"version", "layers", "activations"}
    return {row["name"]: row["format"] for row in plan["layers"]}


@pytest.mark.parametrize(
    ("plan", "conv1", "fc"),
    [
        ({"layers": {"fc": "float32"}}, "int4/channel", "float32"),
        ({"layers": [{"name": "last", "format": "float32"}]}, "int4/channel", "float32"),
        ({**PLAN, "layers": [{**r, "format": "int2/tensor"} for r in PLAN["layers"]]}, "int2/tensor", "int2/tensor"),
        ({"frontier_point": 0}, "int2/channel", "int8/channel"),
        ({"frontier_point": 1, "layers": {"fc": "int4/block32"}}, "int8/channel", "int4/block32"),
    ],
)  # fmt: skip
def test_a_replan_stores_the_whole_plan(server: Any, plan: dict[str, Any], conv1: str, fc: str) -> None:
    parent = _searched(server)
    answer = server.client.post(f"/v1/jobs/{parent}/replan", json={"plan": plan})
    assert _stored(answer) == {"conv1": conv1, "fc": fc}
    assert answer.json()["parent_id"] == parent


def test_a_new_job_may_change_the_plan_of_another(server: Any) -> None:
    base = _searched(server)
    body = {"model_id": server.upload_model(b"other"), "plan": {"base": base, "layers": {"conv1": "float32"}}}
    answer = server.client.post("/v1/jobs", json=body)
    assert _stored(answer) == {"conv1": "float32", "fc": "int8/channel"}
    assert answer.json()["parent_id"] is None


@pytest.mark.parametrize(
    ("plan", "status", "code", "says"),
    [
        ({"layers": {"conv9": "float32"}}, 422, "layers_unknown", "that one has conv1, fc"),
        ({"frontier_point": 2}, 422, "plan_invalid", "has the points 0 to 1"),
        ({"base": "0" * 32}, 404, "not_found", "which does not exist"),
    ],
)
def test_a_base_that_does_not_fit_is_refused_at_once(
    server: Any, plan: dict[str, Any], status: int, code: str, says: str
) -> None:
    answer = server.client.post(f"/v1/jobs/{_searched(server)}/replan", json={"plan": plan})
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert says in answer.json()["detail"]


def test_a_job_without_a_plan_is_no_base(server: Any) -> None:
    waiting = server.submit()["id"]
    answer = server.client.post(f"/v1/jobs/{waiting}/replan", json={"plan": {"frontier_point": 0}})
    assert (answer.status_code, answer.json()["code"]) == (404, "artifact_missing")
    assert "is queued and has no plan" in answer.json()["detail"]
    answer = server.client.post("/v1/jobs", json={"model_id": server.upload_model(), "plan": {"frontier_point": 0}})
    assert "there is no job; give its id as plan.base" in answer.json()["detail"]
    # a whole plan needs no base
    assert server.client.post(f"/v1/jobs/{waiting}/replan", json={"plan": PLAN}).status_code == 202


def test_no_plan_of_another_project_is_a_base(serve: Any, settings: Any) -> None:
    server = serve(settings.model_copy(update={"auth": "keys"}))
    with server.as_key("ours") as ours, server.as_key("theirs") as theirs:
        server.client = ours
        base = _searched(server)
        model = theirs.put("/v1/models", content=b"model").json()["id"]
        body = {"model_id": model, "plan": {"base": base, "layers": {"fc": "float32"}}}
        assert theirs.post("/v1/jobs", json=body).status_code == 404
        assert ours.post("/v1/jobs", json=body).status_code == 202
