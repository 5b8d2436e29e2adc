"""What a project is told of itself: keys, usage, the audit log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from app.settings import Settings


@pytest.fixture
def keyed(serve: Callable[..., Any], settings: Settings) -> Any:
    return serve(settings.model_copy(update={"auth": "keys"}))


@pytest.fixture
def admin(keyed: Any) -> Iterator[httpx.Client]:
    with keyed.as_key("vision") as client:
        yield client


def test_an_admin_makes_and_revokes_keys_of_the_own_project(keyed: Any, admin: httpx.Client) -> None:
    answer = admin.post("/v1/keys", json={"role": "viewer", "label": "CI", "expires_in_days": 90})
    assert answer.status_code == 201
    made = answer.json()
    assert answer.headers["location"] == f"/v1/keys/{made['id']}"
    assert answer.headers["cache-control"] == "no-store"
    assert (made["role"], made["label"], made["revoked_at"]) == ("viewer", "CI", None)
    bearer = {"Authorization": f"Bearer {made['key']}"}
    assert keyed.client.get("/v1/project", headers=bearer).json()["key_id"] == made["id"]
    listed = admin.get("/v1/keys")
    assert [key["role"] for key in listed.json()["keys"]] == ["admin", "viewer"]
    assert made["key"].rpartition("_")[2] not in listed.text
    for _ in range(2):
        assert admin.delete(f"/v1/keys/{made['id']}").json()["revoked_at"] is not None
    assert keyed.client.get("/v1/project", headers=bearer).status_code == 401


def test_keys_of_another_project_are_not_there(keyed: Any, admin: httpx.Client) -> None:
    with keyed.as_key("speech") as other:
        (theirs,) = other.get("/v1/keys").json()["keys"]
        answer = admin.delete(f"/v1/keys/{theirs['id']}")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
        assert other.get("/v1/keys").status_code == 200


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"role": "owner"}, "role"),
        ({}, "role"),
        ({"role": "viewer", "label": "a\x07"}, "label"),
        ({"role": "viewer", "expires_in_days": 0}, "expires_in_days"),
        ({"role": "viewer", "project": "speech"}, "project"),
    ],
)
def test_a_key_that_cannot_be_made(admin: httpx.Client, body: dict[str, Any], field: str) -> None:
    answer = admin.post("/v1/keys", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid")
    assert [error["field"] for error in answer.json()["errors"]] == [field]


def test_what_is_for_admins_is_for_nobody_else(keyed: Any) -> None:
    with keyed.as_key("vision", "member") as member:
        for method, path in (("GET", "/v1/keys"), ("POST", "/v1/keys"), ("DELETE", "/v1/keys/x"), ("GET", "/v1/audit")):
            answer = member.request(method, path)
            assert (answer.status_code, answer.json()["code"]) == (403, "role_insufficient")
        assert member.get("/v1/usage").status_code == member.get("/v1/project").status_code == 200


def test_usage_counts_what_is_of_the_project(keyed: Any, admin: httpx.Client) -> None:
    assert admin.get("/v1/usage").json()["bytes"] == {"used": 0, "quota": None}
    with keyed.as_key("speech") as other:
        other.put("/v1/models", content=b"a model of another project")
    model = admin.put("/v1/models", content=b"model").json()["id"]
    first, _ = (admin.post("/v1/jobs", json={"model_id": model}).json() for _ in range(2))
    admin.post(f"/v1/jobs/{first['id']}/cancel")
    usage = admin.get("/v1/usage").json()
    assert usage["bytes"]["used"] == len(b"model")
    assert (usage["queued"]["used"], usage["running"]["used"]) == (1, 0)
    assert usage["jobs"] == {"queued": 1, "running": 0, "succeeded": 0, "failed": 0, "cancelled": 1}
    assert usage["requests_per_minute"] == {"used": None, "quota": None}
    assert admin.get("/v1/project").json() == {
        "name": "vision",
        "role": "admin",
        "key_id": admin.get("/v1/keys").json()["keys"][0]["id"],
        "quotas": dict.fromkeys(("bytes", "queued", "running", "samples", "requests_per_minute")),
    }


def test_the_audit_log_says_who_did_what(keyed: Any, admin: httpx.Client) -> None:
    with keyed.as_key("speech") as other:
        other.put("/v1/models", content=b"model")
    (key,) = admin.get("/v1/keys").json()["keys"]
    model = admin.put("/v1/models", content=b"model", params={"name": "net"}).json()["id"]
    admin.put("/v1/models", content=b"model")
    job = admin.post("/v1/jobs", json={"model_id": model}, headers={"Idempotency-Key": "k"}).json()["id"]
    admin.post("/v1/jobs", json={"model_id": model}, headers={"Idempotency-Key": "k"})
    following = admin.post(f"/v1/jobs/{job}/replan", json={"budget": {"max_drop": 0.1}}).json()["id"]
    for _ in range(2):
        admin.post(f"/v1/jobs/{job}/cancel")
    entries = admin.get("/v1/audit").json()["entries"]
    assert [(entry["action"], entry["subject"], entry["detail"]) for entry in entries] == [
        ("job.cancel", f"/v1/jobs/{job}", None),
        ("job.submit", f"/v1/jobs/{following}", {"parent_id": job}),
        ("job.submit", f"/v1/jobs/{job}", None),
        ("upload.create", f"/v1/models/{model}", {"name": "net"}),
        ("key.create", f"/v1/keys/{key['id']}", {"role": "admin"}),
    ]
    assert [entry["key_id"] for entry in entries] == [key["id"]] * 4 + [None]  # the first was made by a command


def test_the_audit_log_comes_in_pages(admin: httpx.Client) -> None:
    for number in range(7):
        admin.post("/v1/keys", json={"role": "viewer", "label": str(number)})
    whole = admin.get("/v1/audit").json()["entries"]
    pages, cursor = [], None
    while True:
        page = admin.get("/v1/audit", params={"limit": 3} | ({"cursor": cursor} if cursor else {})).json()
        pages += page["entries"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert pages == whole
    assert len(whole) == 8
    answer = admin.get("/v1/audit", params={"cursor": "x"})
    assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid")
