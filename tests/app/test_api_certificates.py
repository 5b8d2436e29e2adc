"""POST /v1/certificates: a job of the same kind of resource, about a quantized file."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from app.lifecycle import claims
from app.lifecycle.states import Artifact, Outcome
from app.schemas.certificate_request import CertificateRequest
from app.schemas.job_request import JobRequest
from app.schemas.parsing import parse_stored
from app.store.blobs import write_bytes
from tests.app.claiming import claim_job


def _ids(server: Any) -> dict[str, str]:
    return {"model_id": server.upload_model(b"float"), "quantized_id": server.upload_model(b"quantized")}


def test_a_certificate_is_a_job_like_others(server: Any) -> None:
    ids = _ids(server)
    answer = server.client.post("/v1/certificates", json={**ids, "budget": {"max_drop": 0.02}})
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert len(server.wakes) == 1
    assert job["request"]["quantized_id"] == ids["quantized_id"]
    assert job["request"]["budget"]["max_drop"] == 0.02
    assert server.client.get("/v1/jobs").json()["jobs"] == [job]
    claim = claim_job(server.sessions, job["id"], "worker", timedelta(seconds=30))
    assert claim is not None
    assert isinstance(parse_stored(claim.request), CertificateRequest)
    artifact = Artifact(write_bytes(server.sessions, b'{"outcome": "met"}'), "application/json")
    assert claims.finish(server.sessions, claim, Outcome.MET, {}, {"certificate": artifact})
    address = f"/v1/jobs/{job['id']}"
    assert server.client.get(f"{address}/certificate").json() == {"outcome": "met"}
    for kind in ("plan", "model.onnx", "frontier", "sensitivity"):
        missing = server.client.get(f"{address}/{kind}").json()
        assert missing["code"] == "artifact_missing"
        assert "GET /v1/jobs/" in missing["detail"]


def test_the_parts_of_a_form_are_stored_and_certified(server: Any) -> None:
    files = {"model": ("f.onnx", b"float"), "quantized": ("q.onnx", b"quantized"), "dataset": ("d.npz", b"data")}
    form = {"request": '{"budget": {"metric": "top1"}}'}
    answer = server.client.post("/v1/certificates", files=files, data=form)
    assert answer.status_code == 202, answer.text
    request = answer.json()["request"]
    assert (request["model_id"], request["quantized_id"]) == tuple(_ids(server).values())
    assert request["dataset_id"] == answer.json()["dataset_id"] is not None
    again = server.client.post("/v1/certificates", json=request)
    assert again.status_code == 202


@pytest.mark.parametrize(
    ("files", "request_", "code", "text"),
    [
        (("model",), "{}", "request_malformed", "the part quantized is missing"),
        (("quantized",), "{}", "request_malformed", "the part model is missing"),
        (("model", "quantized", "picture"), "{}", "request_malformed", "model, quantized, dataset"),
        (("model", "quantized"), '{"quantized_id": "a"}', "request_invalid", "quantized_id come from the parts"),
        (("model", "quantized"), '{"weights": {}}', "request_invalid", "there is no field of this name"),
        (("model", "quantized"), '{"budget": {"metric": "top1"}}', "budget_invalid", "needs labels"),
    ],
)
def test_a_wrong_form_is_refused(server: Any, files: tuple[str, ...], request_: str, code: str, text: str) -> None:
    parts = {name: (name, name.encode()) for name in files}
    answer = server.client.post("/v1/certificates", files=parts, data={"request": request_}).json()
    assert answer["code"] == code
    assert text in answer["detail"]


def test_both_files_must_be_there(server: Any) -> None:
    ids = _ids(server)
    for name in ids:
        answer = server.client.post("/v1/certificates", json={**ids, name: "0" * 64}).json()
        assert answer["code"] == "not_found"
        assert name.removesuffix("_id") in answer["detail"]
    answer = server.client.post("/v1/certificates", json={"model_id": ids["model_id"]}).json()
    assert (answer["code"], answer["errors"][0]["field"]) == ("request_invalid", "quantized_id")


def test_a_repeated_request_makes_no_second_job(server: Any) -> None:
    ids, headers = _ids(server), {"Idempotency-Key": "one"}
    first, second = (server.client.post("/v1/certificates", json=ids, headers=headers).json() for _ in range(2))
    assert first["id"] == second["id"]
    other = server.client.post("/v1/certificates", json={**ids, "seed": 1}, headers=headers).json()
    assert other["code"] == "idempotency_mismatch"
    # keys of other calls are other keys
    assert server.client.post("/v1/jobs", json={"model_id": ids["model_id"]}, headers=headers).status_code == 202


def test_there_is_no_plan_to_make_anew(server: Any) -> None:
    job = server.client.post("/v1/certificates", json=_ids(server)).json()
    answer = server.client.post(f"/v1/jobs/{job['id']}/replan", json={"budget": {"max_drop": 0.1}})
    assert (answer.status_code, answer.json()["code"]) == (409, "replan_not_applicable")
    assert "POST /v1/certificates" in answer.json()["detail"]


def test_a_job_that_made_a_plan_has_no_certificate_of_its_own(server: Any) -> None:
    job = server.submit()
    claim = claim_job(server.sessions, job["id"], "worker", timedelta(seconds=30))
    assert claim is not None
    assert isinstance(parse_stored(claim.request), JobRequest)
    claims.finish(server.sessions, claim, Outcome.MET, {}, {})
    answer = server.client.get(f"/v1/jobs/{job['id']}/certificate").json()
    assert answer["code"] == "artifact_missing"
    assert "/plan" in answer["detail"]
