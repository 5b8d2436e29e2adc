"""Names, tags, priority and pins of jobs and uploads, and lists that are filtered by them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from app.lifecycle import claims
from app.lifecycle.states import Outcome
from app.store.tables import AuditRow

LEASE = timedelta(seconds=30)
LABELS = {"name": "résumé 1", "tags": ["a", "b"], "priority": 7, "pinned": True}


def _labels(job: dict[str, Any]) -> dict[str, Any]:
    return {name: job[name] for name in LABELS}


def _ids(answer: Any, what: str = "jobs") -> list[str]:
    assert answer.status_code == 200, answer.text
    return [entry["id"] for entry in answer.json()[what]]


def _audit(server: Any) -> list[tuple[str, str, Any]]:
    with server.sessions.read() as session:
        return [
            (row.action, row.subject, row.detail) for row in session.scalars(select(AuditRow).order_by(AuditRow.id))
        ]


def test_labels_come_with_the_request_and_are_no_part_of_it(server: Any) -> None:
    plain = server.submit()
    assert _labels(plain) == {"name": None, "tags": [], "priority": 0, "pinned": False}
    job = server.submit(**LABELS | {"tags": ["b", "a", "b"]})
    assert _labels(job) == LABELS
    assert job["request"] == plain["request"]
    form = server.client.post("/v1/jobs", files={"model": ("m", b"model"), "request": (None, '{"tags": ["x"]}')})
    assert (form.json()["tags"], form.json()["request"]) == (["x"], plain["request"])
    certificate = {"model_id": plain["model_id"], "quantized_id": server.upload_model(b"q"), "name": "c"}
    assert server.client.post("/v1/certificates", json=certificate).json()["name"] == "c"


def test_a_replan_has_labels_of_its_own(server: Any) -> None:
    parent = server.submit(**LABELS)
    job = server.client.post(f"/v1/jobs/{parent['id']}/replan", json={"seed": 1, "tags": ["again"]}).json()
    assert _labels(job) == {"name": None, "tags": ["again"], "priority": 0, "pinned": False}
    assert job["request"] == parent["request"] | {"seed": 1}


def test_other_labels_are_another_request_to_an_idempotency_key(server: Any) -> None:
    model, headers = server.upload_model(), {"Idempotency-Key": "k"}
    first = server.client.post("/v1/jobs", json={"model_id": model, "priority": 1}, headers=headers)
    again = server.client.post("/v1/jobs", json={"model_id": model, "priority": 1, "tags": []}, headers=headers)
    assert again.json() == first.json()
    other = server.client.post("/v1/jobs", json={"model_id": model, "priority": 2}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ({"name": ""}, "name: String should have at least 1 character"),
        ({"name": "a\nb"}, "name: String should match pattern"),
        ({"name": "x" * 256}, "name: String should have at most 255 characters"),
        ({"tags": "a"}, "tags: Input should be a valid"),
        ({"tags": ["x" * 65]}, "tags.0: String should have at most 64 characters"),
        ({"tags": [str(number) for number in range(33)]}, "tags: Tuple should have at most 32 items"),
        ({"priority": 101}, "priority: Input should be less than or equal to 100"),
        ({"priority": 1.5}, "priority: Input should be a valid integer"),
        ({"pinned": 1}, "pinned: Input should be a valid boolean"),
    ],
)
def test_wrong_labels_are_named(server: Any, labels: dict[str, Any], text: str) -> None:
    job = server.submit()
    for answer in (
        server.client.post("/v1/jobs", json={"model_id": job["model_id"], **labels}),
        server.client.patch(f"/v1/jobs/{job['id']}", json=labels),
    ):
        assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid")
        assert answer.json()["detail"].startswith(text)
    assert server.client.get(f"/v1/jobs/{job['id']}").json() == job


def test_labels_of_a_job_are_changed_one_by_one(server: Any) -> None:
    job = server.submit(**LABELS)
    address = f"/v1/jobs/{job['id']}"
    changed = server.client.patch(address, json={"name": "second", "tags": ["z", "c"]})
    assert (changed.status_code, changed.json()) == (200, job | {"name": "second", "tags": ["c", "z"]})
    assert server.client.get(address).json() == changed.json()
    patch = {"Content-Type": "application/merge-patch+json"}
    reset = server.client.patch(address, content='{"name": null, "tags": null, "pinned": null}', headers=patch)
    assert _labels(reset.json()) == {"name": None, "tags": [], "priority": 7, "pinned": False}
    assert server.client.patch(address, json={"state": "queued"}).status_code == 422
    assert server.client.patch(address, content="x").status_code == 415
    assert server.client.patch(f"/v1/jobs/{'0' * 32}", json={}).status_code == 404
    assert server.client.patch("/v1/jobs/%00", json={}).status_code == 404
    assert ("job.change", address, {"name": "second", "tags": ["z", "c"]}) in _audit(server)


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_uploads_are_shown_named_and_listed(server: Any, kind: str) -> None:
    def put(data: bytes, **query: Any) -> dict[str, Any]:
        answer: dict[str, Any] = server.client.put(f"/v1/{kind}s", content=data, params=query).json()
        return answer

    first = put(b"1", name="net", tag=["t2", "t1"], pinned=True)
    second, third = put(b"2", name="net"), put(b"3")
    assert (first["tags"], first["pinned"], second["tags"], second["pinned"]) == (["t1", "t2"], True, [], False)
    assert first["used_at"] is None
    again = put(b"1")
    assert again == first | {"used_at": again["used_at"]}, "what is not given stays"
    assert again["used_at"] is not None
    assert put(b"1", tag="t1", pinned=False)["tags"] == ["t1"]

    address = f"/v1/{kind}s/{second['id']}"
    shown, head = server.client.get(address), server.client.head(address)
    assert (shown.status_code, shown.json()) == (200, second)
    assert (head.status_code, head.content, head.headers["content-length"]) == (
        200,
        b"",
        shown.headers["content-length"],
    )
    changed = server.client.patch(address, json={"name": "other", "tags": ["t1"], "pinned": True}).json()
    assert changed == second | {"name": "other", "tags": ["t1"], "pinned": True}
    assert server.client.patch(address, json={"name": None}).json()["name"] == second["id"][:12]
    assert server.client.patch(address, json={"priority": 1}).status_code == 422
    assert ("upload.change", address, {"name": None}) in _audit(server)

    listed = f"/v1/{kind}s"
    assert _ids(server.client.get(listed), "uploads") == [third["id"], second["id"], first["id"]]
    assert _ids(server.client.get(f"{listed}?tag=t1"), "uploads") == [second["id"], first["id"]]
    assert _ids(server.client.get(f"{listed}?tag=t"), "uploads") == []
    assert _ids(server.client.get(f"{listed}?name=net"), "uploads") == [first["id"]]
    page = server.client.get(f"{listed}?limit=2").json()
    rest = server.client.get(listed, params={"limit": 2, "cursor": page["next_cursor"]}).json()
    assert [entry["id"] for entry in page["uploads"] + rest["uploads"]] == [third["id"], second["id"], first["id"]]
    assert rest["next_cursor"] is None
    other = "dataset" if kind == "model" else "model"
    assert _ids(server.client.get(f"/v1/{other}s"), "uploads") == []
    for method in ("GET", "HEAD", "PATCH"):
        for unknown in ("0" * 64, "%00", "x"):
            body = {"json": {}} if method == "PATCH" else {}
            assert server.client.request(method, f"/v1/{kind}s/{unknown}", **body).status_code == 404


def test_jobs_are_found_by_what_they_are_called_and_how_they_ended(server: Any) -> None:
    def submit(**members: Any) -> str:
        return str(server.submit(**members)["id"])

    first, second = submit(name="nightly", tags=["a"]), submit(name="Nightly", tags=["a", "b"])
    third = submit(model_id=server.upload_model(b"another"), tags=["ab"])
    claim = claims.claim_next(server.sessions, "worker", LEASE)
    assert claim is not None
    assert claim.job_id == first
    claims.finish(server.sessions, claim, Outcome.NOT_MET, {}, {})
    created = server.client.get(f"/v1/jobs/{second}").json()
    for query, expected in (
        ("name=nightly", [first]),
        ("tag=a", [second, first]),
        ("tag=b&name=Nightly", [second]),
        ("tag=b&name=nightly", []),
        (f"model_id={created['model_id']}", [second, first]),
        ("outcome=not_met", [first]),
        ("outcome=met", []),
        ("outcome=not_met&state=succeeded&tag=a", [first]),
        (f"created_after={created['created_at']}", [third]),
        ("created_after=2000-01-01T00:00:00Z", [third, second, first]),
        ("tag=' OR 1=1", []),
    ):
        assert _ids(server.client.get(f"/v1/jobs?{query}")) == expected, query
    assert datetime.fromisoformat(created["created_at"]).tzinfo is not None
    for query, field in (("created_after=2000-01-01T00:00:00", "created_after"), ("model_id=x", "model_id")):
        refused = server.client.get(f"/v1/jobs?{query}")
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, field)


def test_a_job_of_more_priority_is_taken_first(server: Any) -> None:
    made = [server.submit(priority=priority)["id"] for priority in (0, -5, 10)]
    server.client.patch(f"/v1/jobs/{made[1]}", json={"priority": 11})
    taken = [claims.claim_next(server.sessions, f"worker {number}", LEASE) for number in range(3)]
    assert [claim and claim.job_id for claim in taken] == [made[1], made[2], made[0]]
