"""The plan that a request means when it names only what differs from the plan of a job.

A request is stored with its whole plan: what a job computes depends on no other job.
"""

from __future__ import annotations

from typing import Any

from app.errors import AppError
from app.schemas.job_request import JobRequest
from app.schemas.plan import AppliedPlan
from app.schemas.plan_changes import changed_plan, point_plan
from app.store.blobs import read_json
from app.store.engine import Sessions
from app.store.jobs import find_artifact, find_job


def with_whole_plan(sessions: Sessions, request: JobRequest, parent_id: str | None = None) -> JobRequest:
    """`request` with all that its plan takes from another: from the job that `plan.base` names, else from `parent_id`.

    Args:
        parent_id: the job whose replan brought the plan; None for a request that is about no job.

    Raises:
        AppError: `not_found` for an unknown base; `artifact_missing` for one without a plan or a frontier;
            `plan_invalid`, `layers_unknown`: the plan does not fit its base.
    """
    plan = request.plan
    if plan is None or (plan.stands_alone and plan.base is not None):
        return request
    job_id = plan.base or parent_id
    if job_id is None and plan.frontier_point is not None:
        raise AppError(
            "plan_invalid",
            "plan.frontier_point counts points of a job's frontier, and there is no job; give its id as plan.base",
        )
    if job_id is None or (plan.stands_alone and not _has_plan(sessions, job_id)):
        return request  # every layer is to be named; whether it is only the network says
    return request.model_copy(update={"plan": changed_plan(_base(sessions, job_id, plan), plan)})


def _base(sessions: Sessions, job_id: str, plan: AppliedPlan) -> dict[str, Any]:
    delivered = _document(sessions, job_id, "plan")
    if plan.frontier_point is None:
        return delivered
    points = _document(sessions, job_id, "frontier")["points"]
    if plan.frontier_point >= len(points):
        raise AppError(
            "plan_invalid",
            f"plan.frontier_point is {plan.frontier_point}, and the frontier of the job {job_id} has the points 0 to "
            f"{len(points) - 1}; GET /v1/jobs/{job_id}/frontier has them in this order",
        )
    return point_plan(delivered, points[plan.frontier_point])


def _has_plan(sessions: Sessions, job_id: str) -> bool:
    with sessions.read() as session:
        return find_artifact(session, job_id, "plan") is not None


def _document(sessions: Sessions, job_id: str, kind: str) -> dict[str, Any]:
    with sessions.read() as session:
        job = find_job(session, job_id)
        artifact = None if job is None else find_artifact(session, job_id, kind)
    if job is None:
        raise AppError("not_found", f"plan.base is the job {job_id}, which does not exist; GET /v1/jobs lists them")
    if artifact is None:
        raise AppError(
            "artifact_missing",
            f"the job {job_id}, whose {kind} the request's plan changes, is {job.state} and has no {kind}; take a job "
            "that searched and succeeded as plan.base, or name every layer",
        )
    return read_json(sessions, artifact[0])
