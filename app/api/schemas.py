"""Schemas of the documents that leave the service, for whoever reads or writes them elsewhere."""

from __future__ import annotations

from fastapi import APIRouter, Response

from app.schemas.plan import PLAN_VERSION, plan_schema_text

router = APIRouter(prefix="/v1/schemas", tags=["results"])

MEDIA_TYPE = "application/schema+json"


@router.get(
    f"/plan-{PLAN_VERSION}.json",
    responses={200: {"content": {MEDIA_TYPE: {"schema": {"type": "object"}}}}},
    response_class=Response,
)
def get_plan_schema() -> Response:
    """The JSON Schema (draft 2020-12) of a delivered plan; another version of the plan has another address."""
    return Response(plan_schema_text(), media_type=MEDIA_TYPE)
