"""Downloads of what a finished job has to give."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse

from app.api.problems import problem_answers
from app.api.state import Service, State
from app.services import results
from app.store.blobs import read_blob

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["results"])

_ERRORS = problem_answers("not_found", "job_not_finished")


def _content(media_type: str) -> dict[int | str, dict[str, Any]]:
    return {200: {"content": {media_type: {}}}, 304: {"description": "Not changed"}}


_JSON = _content("application/json")
_BINARY = _content("application/octet-stream")
IfNoneMatch = Annotated[str | None, Header(alias="If-None-Match")]


class PlanFormat(StrEnum):
    JSON = "json"
    CSV = "csv"
    TABLE = "table"
    ORT = "ort"
    AIMET = "aimet"


_KINDS = {PlanFormat.JSON: "plan", PlanFormat.ORT: "ort", PlanFormat.AIMET: "aimet"}
"""What a job delivered; the other formats are made from the plan."""
_TABLES = {PlanFormat.CSV: results.plan_csv, PlanFormat.TABLE: results.plan_table}
_PLAN: dict[int | str, dict[str, Any]] = {**_JSON, 200: {"content": {"application/json": {}, "text/csv": {}}}}


@router.get("/plan", responses={**_PLAN, **_ERRORS}, response_class=Response)
def get_plan(
    job_id: str,
    service: Service,
    format: Annotated[
        PlanFormat,
        Query(
            description="csv: one row per layer; table: layer, weight_bits, activation_bits; ort: ONNX Runtime's "
            "TensorQuantOverrides; aimet: encodings of version 1.0.0."
        ),
    ] = PlanFormat.JSON,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """The plan: a format for every layer, and what was measured."""
    if format in _TABLES:
        return Response(_TABLES[format](service.sessions, job_id), media_type="text/csv; header=present")
    return _download(service, job_id, _KINDS[format], if_none_match)


@router.get("/frontier", responses={**_JSON, **_ERRORS}, response_class=Response)
def get_frontier(job_id: str, service: Service, if_none_match: IfNoneMatch = None) -> Response:
    """The frontier of cost against predicted damage, with the measured points."""
    return _download(service, job_id, "frontier", if_none_match)


@router.get("/sensitivity", responses={**_JSON, **_ERRORS}, response_class=Response)
def get_sensitivity(job_id: str, service: Service, if_none_match: IfNoneMatch = None) -> Response:
    """Every candidate's score with its standard error, and the traces of the layers."""
    return _download(service, job_id, "sensitivity", if_none_match)


@router.get("/certificate", responses={**_JSON, **_ERRORS}, response_class=Response)
def get_certificate(job_id: str, service: Service, if_none_match: IfNoneMatch = None) -> Response:
    """What a quantized file loses and what is wrong with it, of a job that `POST /v1/certificates` made."""
    return _download(service, job_id, "certificate", if_none_match)


@router.get(
    "/model.onnx",
    responses={**_BINARY, **_ERRORS},
    response_class=Response,
)
def get_model(job_id: str, service: Service, if_none_match: IfNoneMatch = None) -> Response:
    """The quantized model. Its ETag is its SHA-256."""
    return _download(service, job_id, "model", if_none_match, filename="model.onnx")


def _download(
    service: State, job_id: str, kind: str, if_none_match: str | None, filename: str | None = None
) -> Response:
    result = results.find_result(service.sessions, job_id, kind)
    headers = {"ETag": f'"{result.blob.sha256}"', "Cache-Control": "no-cache"}
    if if_none_match is not None and _matches(if_none_match, result.blob.sha256):
        return Response(status_code=304, headers=headers)
    headers["Content-Length"] = str(result.blob.size_bytes)
    if filename is not None:
        headers["Content-Disposition"] = f'attachment; filename="{filename}"'
    # in chunks: no transaction is held while the client takes its time
    contents = read_blob(service.sessions, result.blob)
    return StreamingResponse(contents, media_type=result.media_type, headers=headers)


def _matches(if_none_match: str, digest: str) -> bool:
    # RFC 9110, 13.1.2: weak comparison, and `*` matches whatever there is.
    tags = [tag.strip().removeprefix("W/").strip('"') for tag in if_none_match.split(",")]
    return "*" in tags or digest in tags
