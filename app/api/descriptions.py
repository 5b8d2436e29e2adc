"""GET /v1/models/{id}/description and /v1/datasets/{id}/description: what was recognised in an upload."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

from fastapi import APIRouter, Response

from app.api.problems import problem_answers
from app.api.state import Service, State
from app.schemas.descriptions import DatasetDescription, FailedDescription, ModelDescription, PendingDescription
from app.services import descriptions

router = APIRouter(prefix="/v1", tags=["uploads"])

ASK_AGAIN_SECONDS = 1
Ready = TypeVar("Ready", ModelDescription, DatasetDescription)
_ANSWERS: dict[int | str, dict[str, Any]] = {
    202: {
        "model": PendingDescription,
        "description": "A worker is at it",
        "headers": {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds until the next try."}},
    },
    **problem_answers("not_found"),
}


@router.get("/models/{upload_id}/description", responses=_ANSWERS)
def describe_model(
    upload_id: str, response: Response, service: Service
) -> ModelDescription | FailedDescription | PendingDescription:
    """Inputs, outputs, opset, weights and operators of a model. The first call has a worker look into the file."""
    return _view(ModelDescription, _described(service, response, "model", upload_id))


@router.get("/datasets/{upload_id}/description", responses=_ANSWERS)
def describe_dataset(
    upload_id: str, response: Response, service: Service
) -> DatasetDescription | FailedDescription | PendingDescription:
    """Arrays with their shapes and ranges, labels with their counts, and small images where samples are images."""
    return _view(DatasetDescription, _described(service, response, "dataset", upload_id))


def _view(ready: type[Ready], description: dict[str, Any]) -> Ready | FailedDescription | PendingDescription:
    if description["state"] == "ready":
        return ready.model_validate(description)
    return (FailedDescription if description["state"] == "failed" else PendingDescription).model_validate(description)


def _described(service: State, response: Response, kind: Literal["model", "dataset"], upload_id: str) -> dict[str, Any]:
    description = descriptions.describe(service.sessions, service.wake, kind, upload_id)
    if description["state"] == "pending":
        response.status_code = 202
        response.headers["Retry-After"] = str(ASK_AGAIN_SECONDS)
    return description
