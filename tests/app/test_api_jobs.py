from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest

from app.lifecycle import claims, presence, recovery
from app.lifecycle.states import Estimate, JobState, Outcome, Progress
from app.settings import Settings
from tests.app.claiming import claim_job

LEASE = timedelta(seconds=30)


def _claim(server: Any, job_id: str) -> claims.Claim:
    claim = claim_job(server.sessions, job_id, "worker", LEASE)
    assert claim is not None
    return claim


def test_an_accepted_job_is_stored_before_it_is_announced(serve: Any, sessions: Any, settings: Settings) -> None:
    seen: list[str] = []

    def wake() -> None:
        seen.append(claims.claim_next(sessions, "a quick worker", LEASE).job_id)  # type: ignore[union-attr]

    server = serve(settings, wake=wake)
    answer = server.client.post("/v1/jobs", json={"model_id": server.upload_model()})
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert job["state"] == "queued"
    assert seen == [job["id"]]


def test_a_job_whose_message_is_lost_is_accepted_and_waits(serve: Any, settings: Settings) -> None:
    from app.lifecycle.messages import waker

    nobody = settings.model_copy(update={"broker_url": "redis://127.0.0.1:1/0"})
    server = serve(settings, wake=waker(nobody))
    job = server.submit()
    presence.seen(server.sessions, "a worker")
    assert recovery.workers_to_wake(server.sessions) == 1
    assert claims.claim_next(server.sessions, "a worker", LEASE).job_id == job["id"]


def test_a_job_is_shown_through_its_life(server: Any) -> None:
    job = server.submit()
    address = f"/v1/jobs/{job['id']}"
    assert server.client.get(address).json() == job
    claim = _claim(server, job["id"])
    claims.heartbeat(server.sessions, claim, LEASE, Progress("sensitivity", 0.25, 30.0))
    assert job["estimate"] is None
    claims.record_estimate(server.sessions, claim, Estimate("job", 90.0, 1 << 30, 30.5))
    claims.record_estimate(server.sessions, claim, Estimate("cross_layer", 20.0, 1 << 29))
    running = server.client.get(address).json()
    assert running["estimate"] == {"stage": "job", "seconds": 90.0, "memory_bytes": 1 << 30, "float_passes": 30.5}
    assert (running["state"], running["stage"], running["progress"], running["eta_seconds"], running["attempt"]) == (
        "running",
        "sensitivity",
        0.25,
        30.0,
        1,
    )
    claims.finish(server.sessions, claim, Outcome.MET, {"size_bytes": 5}, {})
    done = server.client.get(address).json()
    assert (done["state"], done["outcome"], done["progress"], done["eta_seconds"]) == ("succeeded", "met", 1.0, None)
    assert done["summary"] == {"size_bytes": 5}
    assert done["error"] is None
    times = [datetime.fromisoformat(done[name]) for name in ("created_at", "started_at", "finished_at")]
    assert times == sorted(times)
    assert all(done[name].endswith("Z") for name in ("created_at", "started_at", "finished_at"))


def test_a_failed_job_shows_its_problem(server: Any) -> None:
    job = server.submit()
    claims.fail(server.sessions, _claim(server, job["id"]), "model_not_onnx", "no ONNX in here")
    failed = server.client.get(f"/v1/jobs/{job['id']}").json()
    assert failed["state"] == "failed"
    assert failed["error"] == {
        "type": "urn:bitbudget:error:model_not_onnx",
        "title": "The file is not an ONNX model",
        "status": 422,
        "detail": "no ONNX in here",
        "code": "model_not_onnx",
        "instance": f"/v1/jobs/{job['id']}",
        "errors": None,
    }


def test_unknown_uploads_and_jobs_are_named(server: Any) -> None:
    unknown = "0" * 64
    answer = server.client.post("/v1/jobs", json={"model_id": unknown})
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert answer.json()["detail"] == f"no model has the id {unknown}; upload it with PUT /v1/models"
    answer = server.client.post("/v1/jobs", json={"model_id": server.upload_model(), "dataset_id": unknown})
    assert answer.json()["detail"] == f"no dataset has the id {unknown}; upload it with PUT /v1/datasets"
    for job_id in ("0" * 32, "x", "%00", "0" * 31 + "'", "0" * 5000):
        answer = server.client.get(f"/v1/jobs/{job_id}")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), job_id
        assert "GET /v1/jobs lists them" in answer.json()["detail"]


def test_the_same_request_with_the_same_key_is_the_same_job(server: Any) -> None:
    model = server.upload_model()
    headers = {"Idempotency-Key": "4b6f"}
    first = server.client.post("/v1/jobs", json={"model_id": model}, headers=headers)
    # Defaults spelt out are no other request, and neither is the multipart form of it.
    again = server.client.post("/v1/jobs", json={"model_id": model, "seed": 0}, headers=headers)
    form = server.client.post("/v1/jobs", files={"model": ("m", b"model")}, headers=headers)
    assert [answer.status_code for answer in (first, again, form)] == [202, 202, 202]
    assert first.json() == again.json() == form.json()
    assert len(server.wakes) == 1
    other = server.client.post("/v1/jobs", json={"model_id": model, "seed": 1}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
    assert f"made the job {first.json()['id']} from another request" in other.json()["detail"]
    assert len(server.client.get("/v1/jobs").json()["jobs"]) == 1


def test_a_repeated_key_shows_the_job_as_it_is_now(server: Any) -> None:
    model, headers = server.upload_model(), {"Idempotency-Key": "k"}
    job = server.client.post("/v1/jobs", json={"model_id": model}, headers=headers).json()
    server.client.post(f"/v1/jobs/{job['id']}/cancel")
    assert server.client.post("/v1/jobs", json={"model_id": model}, headers=headers).json()["state"] == "cancelled"


def test_many_repetitions_at_once_make_one_job(server: Any) -> None:
    model = server.upload_model()

    def post(_: int) -> Any:
        return server.client.post("/v1/jobs", json={"model_id": model}, headers={"Idempotency-Key": "same"})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(post, range(8)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(server.client.get("/v1/jobs").json()["jobs"]) == 1
    assert len(server.wakes) == 1


def test_a_request_that_was_refused_does_not_use_up_its_key(server: Any) -> None:
    headers = {"Idempotency-Key": "k"}
    assert server.client.post("/v1/jobs", json={"model_id": "0" * 64}, headers=headers).status_code == 404
    assert server.client.post("/v1/jobs", json={"model_id": server.upload_model()}, headers=headers).status_code == 202


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, b"\xc3\xa9"])
def test_keys_are_visible_ascii(server: Any, key: Any) -> None:
    answer = server.client.post("/v1/jobs", json={"model_id": "0" * 64}, headers={"Idempotency-Key": key})
    assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid")
    assert "an Idempotency-Key has 1 to 255 visible ASCII characters" in answer.json()["detail"]


def test_jobs_are_listed_newest_first_page_by_page(server: Any) -> None:
    made = [server.submit()["id"] for _ in range(5)]
    server.client.post(f"/v1/jobs/{made[1]}/cancel")
    listed: list[str] = []
    cursor = None
    while True:
        params = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = server.client.get("/v1/jobs", params=params).json()
        assert len(page["jobs"]) <= 2
        listed += [job["id"] for job in page["jobs"]]
        server.submit()  # what is new does not shift the pages
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert listed == made[::-1]
    cancelled = server.client.get("/v1/jobs?state=cancelled").json()
    assert [job["id"] for job in cancelled["jobs"]] == [made[1]]
    assert cancelled["next_cursor"] is None


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("limit=0", 'limit: Input should be greater than or equal to 1, got "0"'),
        ("limit=x", "limit: Input should be a valid integer"),
        (
            "state=lost",
            "state: Input should be 'queued', 'running', 'succeeded', 'failed' or 'cancelled', got \"lost\"",
        ),
        ("cursor=abc", "the cursor 'abc' is not valid; send next_cursor of the last page, or leave it out"),
        ("cursor=ZmlsZSBuYW1l", "is not valid"),
        ("cursor=%00", "is not valid"),
    ],
)
def test_wrong_queries_are_named(server: Any, query: str, text: str) -> None:
    answer = server.client.get(f"/v1/jobs?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid")
    assert text in answer.json()["detail"]


def test_cancelling(server: Any) -> None:
    waiting, running, done = (server.submit()["id"] for _ in range(3))
    _claim(server, running)
    claims.finish(server.sessions, _claim(server, done), Outcome.MET, {}, {})
    answer = server.client.post(f"/v1/jobs/{waiting}/cancel")
    assert (answer.status_code, answer.json()["state"]) == (202, "cancelled")
    for _ in range(2):
        answer = server.client.post(f"/v1/jobs/{running}/cancel")
        assert (answer.status_code, answer.json()["state"], answer.json()["cancel_requested"]) == (202, "running", True)
    answer = server.client.post(f"/v1/jobs/{done}/cancel")
    assert (answer.status_code, answer.json()["code"]) == (409, "job_finished")
    assert answer.json()["detail"] == f"the job {done} has succeeded and cannot be cancelled any more"
    assert server.client.post(f"/v1/jobs/{'0' * 32}/cancel").status_code == 404


def test_replanning_merges_the_changes_into_the_request(server: Any) -> None:
    parent = server.submit(budget={"max_drop": 0.02}, layers={"a": {"keep": True}, "b": {"bits": [4]}})
    answer = server.client.post(
        f"/v1/jobs/{parent['id']}/replan",
        json={"budget": {"max_drop": 0.05}, "layers": {"a": {"bits": [8]}, "b": None}, "objective": "bit_operations"},
    )
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert job["parent_id"] == parent["id"]
    expected = parent["request"] | {"layers": {"a": {"bits": [8]}}, "objective": "bit_operations"}
    expected["budget"] = parent["request"]["budget"] | {"max_drop": 0.05}
    assert job["request"] == expected
    assert len(server.wakes) == 2
    claim = _claim(server, job["id"])
    assert claim.parent_id == parent["id"]


def test_a_plan_takes_the_place_of_a_search_and_stays_until_a_replan_says_null(server: Any) -> None:
    plan = {"version": 1, "layers": [{"name": "fc", "format": "int4/channel"}]}
    searched = server.submit(budget={"max_drop": 0.02}, layers={"a": {"keep": True}}, limits={"max_size_bytes": 9})

    def replan(job: dict[str, Any], **changes: Any) -> httpx.Response:
        return server.client.post(f"/v1/jobs/{job['id']}/replan", json=changes)

    applied = replan(searched, plan={**plan, "outcome": "met"}).json()
    assert applied["request"]["plan"]["layers"][0]["format"] == "int4/channel"
    assert (applied["request"]["layers"], applied["request"]["limits"]["max_size_bytes"]) == ({}, None)
    assert applied["request"]["budget"]["max_drop"] == 0.02
    again = replan(applied, budget={"max_drop": 0.1}).json()
    assert again["request"] == applied["request"] | {"budget": applied["request"]["budget"] | {"max_drop": 0.1}}
    refused = replan(applied, limits={"max_size_bytes": 9})
    assert (refused.status_code, "send plan null to search for one" in refused.text) == (422, True)
    assert replan(applied, plan=None, limits={"max_size_bytes": 9}).json()["request"]["plan"] is None


BLOCKS = {"weights": {"granularity": "block", "block_size": 64, "symmetric": False}}
NAMED = {"weights": {"formats": ["int8/tensor"], "rounding": "nearest"}}
PLAN = {"version": 1, "layers": [{"name": "fc", "format": "int4/channel"}]}


@pytest.mark.parametrize(
    ("parent", "changes", "expected"),
    [
        ({"target": "integer-w8-a8"}, {"weights": {"formats": ["int8/tensor"]}}, {"formats": ["int8/tensor"]}),
        (BLOCKS, {"weights": {"formats": ["int8/tensor"]}}, {"formats": ["int8/tensor"]}),
        (BLOCKS, {"weights": {"granularity": "channel"}}, {"symmetric": False}),
        (BLOCKS, {"weights": {"granularity": None}}, {"symmetric": False}),
        (BLOCKS, {"weights": {"bits": [4]}}, {**BLOCKS["weights"], "bits": [4]}),
        (NAMED, {"weights": {"bits": [4]}}, {"bits": [4], "rounding": "nearest"}),
        (NAMED, {"weights": {"symmetric": False}}, {"symmetric": False, "rounding": "nearest"}),
        (NAMED, {"weights": {"rounding": "gptq"}}, {"formats": ["int8/tensor"]}),
        (
            {**NAMED, "target": "integer-w4w8-a8"},
            {"weights": {"formats": None}},
            {"rounding": "nearest"},
        ),
        ({"target": "integer-w8-a8"}, {"target": "integer-w4w8-a8"}, {}),
        ({"target": "integer-w8-a8"}, {"target": None}, {}),
        # an earlier version stored the widths of the target where nobody had named any
        ({"target": "integer-w8-a8", "weights": {"bits": [8]}}, {"target": "integer-w4w8-a8"}, {}),
        ({"weights": {"bits": [4, 8]}}, {"target": "integer-w4w8-a8"}, {"bits": [4, 8]}),
        (BLOCKS, {"plan": PLAN}, {}),
        ({"target": "integer-w8-a8", **NAMED}, {"plan": PLAN}, {"rounding": "nearest"}),
        ({"target": "integer-w8-a8", "plan": PLAN}, {"seed": 1}, {}),
        ({"target": "integer-w8-a8", "plan": PLAN}, {"plan": None}, {}),
    ],
)
def test_what_nobody_set_stands_in_the_way_of_no_replan(
    server: Any, parent: dict[str, Any], changes: dict[str, Any], expected: dict[str, Any]
) -> None:
    default = server.submit()["request"]["weights"]
    answer = server.client.post(f"/v1/jobs/{server.submit(**parent)['id']}/replan", json=changes)
    assert answer.status_code == 202, answer.text
    assert answer.json()["request"]["weights"] == default | expected


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"weights": {"formats": ["int8/tensor"], "bits": [4]}}, "weights.bits describes them another way"),
        ({"weights": {"granularity": "channel", "block_size": 16}}, "weights.block_size is for the granularity block"),
        ({"plan": PLAN, "weights": {"bits": [4]}}, "so weights.bits cannot be given with it; leave these out"),
        ({"weights": {"bits": [1]}}, "weights.bits.0: Input should be greater than or equal to 2"),
        ({"weights": [4]}, "weights: Input should be an object"),
    ],
)
def test_a_replan_that_contradicts_itself_is_refused(server: Any, changes: dict[str, Any], text: str) -> None:
    for parent in (BLOCKS, NAMED):
        answer = server.client.post(f"/v1/jobs/{server.submit(**parent)['id']}/replan", json=changes)
        assert (answer.status_code, text in answer.json()["detail"]) == (422, True), answer.text


def test_a_replan_may_be_repeated_and_is_about_its_own_job(server: Any) -> None:
    first, second = server.submit()["id"], server.submit()["id"]
    headers = {"Idempotency-Key": "k"}
    made = [
        server.client.post(f"/v1/jobs/{parent}/replan", json={"seed": 1}, headers=headers).json()["id"]
        for parent in (first, first, second)
    ]
    assert made[0] == made[1] != made[2]


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({"model_id": "0" * 64}, 422, "a replan is about the model and the data of its job, got model_id"),
        ({"budget": {"max_drop": 3}}, 422, "you probably mean 3 percent: send 0.03"),
        ({"seeds": 3}, 422, "seeds: there is no field of this name"),
        ([], 400, "must be a JSON object, got list"),
    ],
)
def test_a_replan_that_makes_no_sense_is_refused(server: Any, body: Any, status: int, text: str) -> None:
    job = server.submit()
    answer = server.client.post(f"/v1/jobs/{job['id']}/replan", json=body)
    assert text in answer.json()["detail"]
    assert answer.status_code == status
    assert server.client.post(f"/v1/jobs/{'0' * 32}/replan", json={}).status_code == 404


def test_a_database_that_cannot_be_written_answers_an_error_and_makes_no_job(
    serve: Any, settings: Settings, sessions: Any
) -> None:
    # What FastAPI would do with a commit after the answer: say 202 for a job that is not there.
    from sqlalchemy import text

    server = serve(settings)
    model = server.upload_model()
    with sessions.begin() as session:
        session.execute(text("ALTER TABLE jobs RENAME TO jobs_elsewhere"))
    answer = server.client.post("/v1/jobs", json={"model_id": model})
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert server.wakes == []


def test_states_of_the_api_are_the_states_of_the_lifecycle(server: Any) -> None:
    schema = server.client.get("/openapi.json").json()["components"]["schemas"]["JobState"]
    assert schema["enum"] == list(JobState)
