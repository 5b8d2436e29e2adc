"""Downloads of what a finished job has to give."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse

from app.api.declared import declared, reference
from app.api.problems import problem_answers
from app.api.ranges import Conditions, Unsatisfiable, Wanted
from app.api.state import Service, State
from app.errors import AppError
from app.schemas.plan_tables import plan_csv, plan_table
from app.services import results
from app.store.blobs import CHUNK_BYTES, read_blob, read_bytes, read_range

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["results"])

_ERRORS = problem_answers("not_found", "job_not_finished", "range_unsatisfiable")


def _content(media_type: str, schema: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    return {
        200: declared(200, "ETag", "Accept-Ranges", content={media_type: {"schema": schema}}),
        206: declared(206, "ETag", "Accept-Ranges", "Content-Range", description="The part that Range asks for")
        | {"content": {media_type: {}}},  # no JSON, but a part of one
        304: declared(304, "ETag", description="Not changed"),
    }


def _document(name: str) -> dict[int | str, dict[str, Any]]:
    return _content("application/json", reference(name))


_FILE = {"type": "string", "format": "binary"}


class PlanFormat(StrEnum):
    JSON = "json"
    CSV = "csv"
    TABLE = "table"
    ORT = "ort"
    AIMET = "aimet"


_KINDS = {PlanFormat.JSON: "plan", PlanFormat.ORT: "ort", PlanFormat.AIMET: "aimet"}
"""What a job delivered; the other formats are made from the plan."""
_TABLES = {PlanFormat.CSV: plan_csv, PlanFormat.TABLE: plan_table}
_PLANS = _content(
    "application/json", {"anyOf": [reference(n) for n in ("PlanDocument", "TensorOverrides", "AimetEncodings")]}
)
_PLANS[200]["content"]["text/csv"] = {"schema": {"type": "string"}, "example": "name,bits\nconv1,4\n"}


@router.get("/plan", responses={**_PLANS, **_ERRORS}, response_class=Response)
def get_plan(
    job_id: str,
    service: Service,
    wanted: Wanted,
    format: Annotated[
        PlanFormat,
        Query(
            description="csv: one row per layer; table: layer, weight_bits, activation_bits; ort: ONNX Runtime's "
            "TensorQuantOverrides; aimet: encodings of version 1.0.0."
        ),
    ] = PlanFormat.JSON,
) -> Response:
    """The plan: a format for every layer, and what was measured."""
    if format in _TABLES:
        return Response(
            _TABLES[format](results.plan_layers(service.sessions, job_id)), media_type="text/csv; header=present"
        )
    return _download(service, job_id, _KINDS[format], wanted)


@router.get("/frontier", responses={**_document("FrontierDocument"), **_ERRORS}, response_class=Response)
def get_frontier(job_id: str, service: Service, wanted: Wanted) -> Response:
    """The frontier of cost against predicted damage, with the measured points."""
    return _download(service, job_id, "frontier", wanted)


@router.get("/sensitivity", responses={**_document("SensitivityDocument"), **_ERRORS}, response_class=Response)
def get_sensitivity(job_id: str, service: Service, wanted: Wanted) -> Response:
    """Every candidate's score with its standard error, and the traces of the layers."""
    return _download(service, job_id, "sensitivity", wanted)


@router.get("/samples", responses={**_document("SamplesDocument"), **_ERRORS}, response_class=Response)
def get_samples(job_id: str, service: Service, wanted: Wanted) -> Response:
    """The held-out samples that lose most: what the float model and the delivered file give for each, and a small
    picture where the input looks like an image."""
    return _download(service, job_id, "samples", wanted)


@router.get("/certificate", responses={**_document("CertificateReport"), **_ERRORS}, response_class=Response)
def get_certificate(job_id: str, service: Service, wanted: Wanted) -> Response:
    """What a quantized file loses and what is wrong with it, of a job that `POST /v1/certificates` made."""
    return _download(service, job_id, "certificate", wanted)


@router.get(
    "/model.onnx",
    name="get_quantized_model",
    responses={**_content("application/octet-stream", _FILE), **_ERRORS},
    response_class=Response,
)
def get_model(job_id: str, service: Service, wanted: Wanted) -> Response:
    """The quantized model. Its ETag is its SHA-256."""
    return _download(service, job_id, "model", wanted, filename="model.onnx")


def _download(service: State, job_id: str, kind: str, wanted: Conditions, filename: str | None = None) -> Response:
    result = results.find_result(service.sessions, job_id, kind)
    blob = result.blob
    headers = {"ETag": f'"{blob.sha256}"', "Cache-Control": "no-cache", "Accept-Ranges": "bytes"}
    if wanted.has_already(blob.sha256):
        return Response(status_code=304, headers=headers)
    if filename is not None:
        headers["Content-Disposition"] = f'attachment; filename="{filename}"'
    try:
        part = wanted.part(blob.sha256, blob.size_bytes)
    except Unsatisfiable:
        raise AppError(
            "range_unsatisfiable",
            f"the {kind} has {blob.size_bytes} bytes, got the range {(wanted.range or '')[:80]!r}",
            headers={"Content-Range": f"bytes */{blob.size_bytes}"},
        ) from None
    headers["Content-Length"] = str(blob.size_bytes if part is None else part.stop - part.start)
    if wanted.head:
        return Response(headers=headers, media_type=result.media_type)
    # in chunks: no transaction is held while the client takes its time
    if part is not None:
        headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{blob.size_bytes}"
        contents = read_range(service.sessions, blob, part.start, part.stop)
        return StreamingResponse(contents, 206, headers, result.media_type)
    if blob.size_bytes <= CHUNK_BYTES:
        return Response(read_bytes(service.sessions, blob), media_type=result.media_type, headers=headers)
    return StreamingResponse(read_blob(service.sessions, blob), media_type=result.media_type, headers=headers)
