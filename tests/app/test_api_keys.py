"""Who gets in, with which role, and to which project; a real server that asks for keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from app.access.keys import create_key, list_keys, revoke_key
from app.access.projects import ensure_project
from app.access.roles import Role
from app.settings import Settings
from app.store.engine import Sessions
from app.store.tables import DEFAULT_PROJECT

TOKEN = "a token of sixteen or more"


@pytest.fixture
def keyed(serve: Callable[..., Any], settings: Settings) -> Any:
    return serve(settings.model_copy(update={"auth": "keys"}))


@pytest.fixture
def clients(keyed: Any) -> Iterator[dict[str, httpx.Client]]:
    """Clients of one project, by their roles."""
    made = {role: keyed.as_key("vision", role) for role in ("viewer", "member", "admin")}
    yield made
    for client in made.values():
        client.close()


def _is(answer: httpx.Response, status: int, code: str) -> bool:
    return (answer.status_code, answer.json()["code"]) == (status, code)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/jobs"),
        ("PUT", "/v1/models"),
        ("POST", "/v1/jobs"),
        ("POST", "/v1/certificates"),
        ("GET", f"/v1/jobs/{'0' * 32}/events"),
        ("GET", f"/v1/jobs/{'0' * 32}/plan"),
    ],
)
def test_without_a_key_nothing_of_a_project_is_answered(keyed: Any, method: str, path: str) -> None:
    answer = keyed.client.request(method, path, content=b"x")
    assert _is(answer, 401, "key_missing")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert "bitbudget keys create" in answer.json()["detail"]


def test_what_names_no_project_needs_no_key(keyed: Any) -> None:
    for path in ("/healthz", "/docs", "/openapi.json", "/v1/schemas/plan-1.json"):
        assert keyed.client.get(path).status_code == 200
    assert keyed.client.get("/readyz").json()["code"] == "not_ready"


def test_keys_that_are_not_valid(keyed: Any, sessions: Sessions) -> None:
    project = sessions.of(ensure_project(sessions, "vision").id)
    row, key = create_key(project, Role.ADMIN, valid_for=timedelta(hours=1))
    send = lambda text: keyed.client.get("/v1/jobs", headers={"Authorization": f"Bearer {text}"})  # noqa: E731
    assert send(key).status_code == 200
    other = key[:-1] + ("0" if key[-1] != "0" else "1")
    for wrong in (other, key.upper(), key + "0", "bb_", "x", f"bb_{'0' * 12}_{'0' * 48}"):
        answer = send(wrong)
        assert _is(answer, 401, "key_invalid")
        assert "www-authenticate" in answer.headers
    assert _is(keyed.client.get("/v1/jobs", headers={"Authorization": f"Basic {key}"}), 401, "key_missing")
    with sessions.begin() as session:
        session.execute(text("UPDATE keys SET expires_at = created_at"))
    assert "expired at" in send(key).json()["detail"]
    with sessions.begin() as session:
        session.execute(text("UPDATE keys SET expires_at = NULL"))
    revoke_key(project, row.id)
    assert _is(send(key), 401, "key_invalid")
    assert "was revoked" in send(key).json()["detail"]


def test_a_key_is_stored_as_a_digest_only_and_its_use_is_noted(keyed: Any, sessions: Sessions) -> None:
    project = sessions.of(ensure_project(sessions, "vision").id)
    _, key = create_key(project, Role.VIEWER)
    assert list_keys(project)[0].used_at is None
    assert keyed.client.get("/v1/jobs", headers={"Authorization": f"bearer {key}"}).status_code == 200
    (row,) = list_keys(project)
    assert row.used_at is not None
    with sessions.read() as session:
        stored = str(session.execute(text("SELECT * FROM keys")).all())
    assert key.rpartition("_")[2] not in stored


def test_a_role_includes_those_below_it(clients: dict[str, httpx.Client]) -> None:
    for role, status in (("viewer", 403), ("member", 201), ("admin", 200)):
        answer = clients[role].put("/v1/models", content=b"model")
        assert answer.status_code == status
        assert clients[role].get("/v1/jobs").status_code == 200
    assert _is(clients["viewer"].post("/v1/jobs", json={}), 403, "role_insufficient")


def test_two_projects_do_not_meet(keyed: Any, clients: dict[str, httpx.Client]) -> None:
    ours, theirs = clients["admin"], keyed.as_key("speech")
    with theirs:
        assert ours.put("/v1/models", content=b"model").status_code == 201
        assert theirs.put("/v1/models", content=b"model").status_code == 201  # no word of the other's
        assert theirs.put("/v1/models", content=b"model").status_code == 200
        request = {"model_id": ours.put("/v1/models", content=b"other").json()["id"]}
        job = ours.post("/v1/jobs", json=request, headers={"Idempotency-Key": "k"}).json()
        assert _is(theirs.post("/v1/jobs", json=request, headers={"Idempotency-Key": "k"}), 404, "not_found")
        assert theirs.get("/v1/jobs").json()["jobs"] == []
        for call in ("", "/events", "/plan", "/model.onnx"):
            assert _is(theirs.get(f"/v1/jobs/{job['id']}{call}"), 404, "not_found")
        assert _is(theirs.post(f"/v1/jobs/{job['id']}/cancel"), 404, "not_found")
        assert _is(theirs.post(f"/v1/jobs/{job['id']}/replan", json={}), 404, "not_found")
    assert ours.get(f"/v1/jobs/{job['id']}").json()["state"] == "queued"


def test_metrics_are_for_whoever_runs_the_service(
    keyed: Any, clients: dict[str, httpx.Client], serve: Callable[..., Any], settings: Settings
) -> None:
    assert _is(keyed.client.get("/metrics"), 401, "key_missing")
    assert _is(clients["admin"].get("/metrics"), 401, "key_missing")
    for auth in ("none", "keys"):
        client = serve(settings.model_copy(update={"auth": auth, "metrics_token": TOKEN})).client
        assert _is(client.get("/metrics"), 401, "key_missing")
        assert _is(client.get("/metrics", headers={"Authorization": "Bearer x"}), 401, "key_invalid")
        assert client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_where_no_keys_are_asked_for_a_key_changes_nothing(server: Any) -> None:
    job = server.submit()
    answer = server.client.get("/v1/jobs", headers={"Authorization": "Bearer of news"})
    assert [one["id"] for one in answer.json()["jobs"]] == [job["id"]]
    assert server.sessions.project_id == DEFAULT_PROJECT


def test_the_document_shows_which_calls_take_a_key(serve: Any, settings: Any) -> None:
    document = serve(settings.model_copy(update={"auth": "keys"})).client.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    secured = {path for path, calls in document["paths"].items() if any("security" in call for call in calls.values())}
    assert set(document["paths"]) - secured == {"/healthz", "/readyz", "/v1/schemas/plan-1.json"}
