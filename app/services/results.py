"""What a finished job has to give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.errors import AppError
from app.lifecycle.states import JobState
from app.schemas.parsing import is_certificate
from app.services import jobs
from app.store.blobs import BlobRef, read_json
from app.store.engine import Sessions
from app.store.jobs import find_artifact

OF_A_SEARCH = ("frontier", "sensitivity")
"""Results that a job has only if it searched for its plan."""


@dataclass(frozen=True, slots=True)
class Result:
    """A stored result of a job."""

    blob: BlobRef
    media_type: str


def find_result(sessions: Sessions, job_id: str, kind: str) -> Result:
    """The result `kind` (`plan`, `ort`, `aimet`, `frontier`, `sensitivity`, `samples`, `model`, `certificate`)
    of a job.

    Raises:
        AppError: `not_found`; `job_not_finished`; `artifact_missing` for a job that ended without it.
    """
    job = jobs.get(sessions, job_id)
    with sessions.read() as session:
        artifact = find_artifact(session, job_id, kind)
    if artifact is not None:
        return Result(*artifact)
    if not JobState(job.state).final:
        raise AppError(
            "job_not_finished",
            f"the job {job_id} is {job.state} and has no {kind} yet; wait for it: GET /v1/jobs/{job_id}/events",
        )
    if is_certificate(job.request) != (kind == "certificate"):
        raise AppError("artifact_missing", _other_kind(job_id, kind))
    if kind in OF_A_SEARCH and job.request.get("plan") is not None:
        raise AppError(
            "artifact_missing",
            f"the job {job_id} applied the plan of its request, so that there was no search and there is no {kind}; "
            "a job without `plan` in its request has one",
        )
    if job.state == JobState.SUCCEEDED:
        raise AppError(
            "artifact_missing",
            f"the job {job_id} was finished by a version of this service that made no {kind}; to make it, POST {{}} "
            f"to /v1/jobs/{job_id}/replan",
        )
    why = f" ({job.error_code})" if job.error_code else ""
    raise AppError(
        "artifact_missing", f"the job {job_id} has {job.state}{why} without a {kind}; GET /v1/jobs/{job_id} says why"
    )


def read_result(sessions: Sessions, job_id: str, kind: str) -> dict[str, Any]:
    """A result of the job that is a JSON document; raises as `find_result`."""
    return read_json(sessions, find_result(sessions, job_id, kind).blob)


def _other_kind(job_id: str, kind: str) -> str:
    """Why a job that certified a file has no plan, and one that made a file no certificate of its own."""
    if kind == "certificate":
        return (
            f"the job {job_id} made a plan, whose certificate stands in it: GET /v1/jobs/{job_id}/plan; one of its own "
            "has what POST /v1/certificates makes"
        )
    return (
        f"the job {job_id} certified a quantized file and made no {kind}; GET /v1/jobs/{job_id}/certificate has what "
        "was measured"
    )


def plan_layers(sessions: Sessions, job_id: str) -> list[Mapping[str, Any]]:
    """The layers of the plan, a row each.

    Raises:
        AppError: as `find_result`.
    """
    return list(read_result(sessions, job_id, "plan")["layers"])
