"""The description of the API, with what FastAPI does not see of it: bodies read by hand, stored documents, examples."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from itertools import chain
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

from app.api import access, certificates, jobs, webhooks
from app.api.declared import reference
from app.api.examples import ANSWERS, REQUESTS
from app.schemas.certificate_request import CertificateRequest
from app.schemas.job_request import JobRequest

TAGS = {
    "uploads": "Models and datasets. The id of an upload is the SHA-256 of its contents.",
    "jobs": "Making, watching and stopping jobs.",
    "results": "What a job that succeeded gives.",
    "access": "The project of a key: keys, usage, audit log.",
    "webhooks": "Addresses that are told what happens to jobs.",
    "health": "Liveness, readiness and metrics.",
}
_WITH_BODIES = (jobs, certificates, access, webhooks)
_TEMPLATE = "#/components/schemas/{model}"
_PLAN, _DOCUMENTS = "plan-1.json", "documents-1.json"
_LOOSE = {
    "TensorOverrides": "ONNX Runtime's TensorQuantOverrides, by tensor.",
    "AimetEncodings": "Encodings of AIMET, version 1.0.0.",
}


def operation_id(route: APIRoute) -> str:
    """What a client generated from the description calls this call."""
    return route.name


def complete_openapi(app: FastAPI, *, with_keys: bool) -> None:
    """Have the application describe all of itself; a service that asks for no keys says so."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is not None:
            return app.openapi_schema
        document = generate()
        document["tags"] = [{"name": name, "description": text} for name, text in TAGS.items()]
        schemas = document["components"]["schemas"]
        of_bodies = (item for module in _WITH_BODIES for item in module.SCHEMAS.items())
        for name, schema in chain(of_bodies, _requests(), _stored()):
            if schemas.setdefault(name, schema) != schema:
                raise ValueError(f"two schemas are called {name}; rename one of them")
        _tell_job(schemas["Job"]["properties"])
        for operation in _operations(document):
            _show_examples(operation)
            if not with_keys:
                operation.pop("security", None)
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _requests() -> Iterator[tuple[str, Any]]:
    """Requests as they are stored with a job, every default filled in."""
    for name, model in (("JobRequest", JobRequest), ("CertificateRequest", CertificateRequest)):
        schema = model.model_json_schema(ref_template=_TEMPLATE)
        schema.pop("$defs")
        yield name, schema


def _stored() -> Iterator[tuple[str, Any]]:
    """Schemas of what is sent as a worker wrote it."""
    plan, documents = (json.loads(files("app.schemas").joinpath(name).read_bytes()) for name in (_PLAN, _DOCUMENTS))
    for name, schema in plan.pop("$defs").items():
        yield _of_plan(name), _referring(schema)
    yield "PlanDocument", _referring({name: member for name, member in plan.items() if not name.startswith("$")})
    for name, schema in documents["$defs"].items():
        yield name, _referring(schema, {name: name for name in documents["$defs"]})
    for name, description in _LOOSE.items():
        yield name, {"type": "object", "description": description}


def _of_plan(definition: str) -> str:
    return "PlanDocument" + "".join(part.capitalize() for part in definition.split("_"))


def _referring(schema: Any, own: Mapping[str, str] | None = None) -> Any:
    """The schema with its references as those of a component; what is not among `own` is of the plan."""
    if isinstance(schema, list):
        return [_referring(part, own) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if (target := schema.get("$ref")) is not None:
        definition = re.sub(r".*#/\$defs/", "", target)
        name = (own or {}).get(definition) or _of_plan(definition)
        return {**schema, **reference(name)}
    return {name: _referring(part, own) for name, part in schema.items()}


def _tell_job(members: dict[str, Any]) -> None:
    """What the members of a job hold that the service passes on as they are."""
    for member, names in {
        "request": ("JobRequest", "CertificateRequest"),
        "summary": ("PlanSummary", "CertificateSummary"),
        "estimate": ("JobEstimate",),
    }.items():
        described = {key: value for key, value in members[member].items() if key in ("description", "title")}
        nothing = [] if member == "request" else [{"type": "null"}]
        members[member] = {**described, "anyOf": [*(reference(name) for name in names), *nothing]}


def _operations(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for path in document["paths"].values():
        yield from path.values()


def _show_examples(operation: dict[str, Any]) -> None:
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        example = REQUESTS.get(operation["operationId"])
        if example is not None and media_type.endswith("json"):
            content["example"] = example
    for answer in operation["responses"].values():
        content = answer.get("content", {}).get("application/json")
        if content is None:
            continue
        choices = content.get("schema", {})
        name = next(iter(choices.get("anyOf", [choices]))).get("$ref", "").rpartition("/")[2]
        if name in ANSWERS:
            content["example"] = ANSWERS[name]
