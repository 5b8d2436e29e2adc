"""From what a client sent to a `JobRequest`, or to an error that says which field is wrong and what it should be."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from app.errors import CATALOGUE, AppError
from app.schemas.budget import OF_UNITS, Budget
from app.schemas.certificate_request import CertificateRequest
from app.schemas.job_request import JobRequest
from app.schemas.labels import JobLabels, split_labels
from app.schemas.plan import AppliedPlan
from app.schemas.webhook_request import WebhookRequest

MAX_ERRORS = 20
MAX_DEPTH = 16

Request = TypeVar("Request", JobRequest, CertificateRequest)
Parsed = TypeVar("Parsed", bound=BaseModel)


def parse_request(members: Mapping[str, Any]) -> JobRequest:
    """The job request with these JSON members.

    Raises:
        AppError: with the code that all wrong fields share, else `request_invalid`; names every wrong field.
    """
    return _parsed(JobRequest, members)


def parse_certificate_request(members: Mapping[str, Any]) -> CertificateRequest:
    """The request of a certificate with these JSON members; for what it raises see `parse_request`."""
    return _parsed(CertificateRequest, members)


def parse_webhook_request(members: Mapping[str, Any]) -> WebhookRequest:
    """The request of a webhook with these JSON members; for what it raises see `parse_request`."""
    return _parsed(WebhookRequest, members)


def parse_plan(members: Mapping[str, Any]) -> AppliedPlan:
    """The plan with these JSON members; for what it raises see `parse_request`."""
    return _parsed(AppliedPlan, members)


def parse_stored(members: Mapping[str, Any]) -> JobRequest | CertificateRequest:
    """A stored request of either kind: what names a quantized file has it certified."""
    if is_certificate(members):
        return parse_certificate_request(members)
    return parse_request(without_retired(members))


def is_certificate(members: Mapping[str, Any]) -> bool:
    """Whether a stored request is that of a certificate."""
    return "quantized_id" in members


def parse_labelled(
    parse: Callable[[Mapping[str, Any]], Request], members: Mapping[str, Any]
) -> tuple[Request, JobLabels]:
    """A request by `parse`, and the labels of its job, which stand among its members; raises as `parse` does."""
    labels, rest = split_labels(members)
    return parse(rest), parse_labels(JobLabels, labels)


def parse_labels(model: type[Parsed], members: Mapping[str, Any]) -> Parsed:
    """The labels of the kind `model` with these JSON members; for what it raises see `parse_request`."""
    return _parsed(model, {name: value for name, value in members.items() if value is not None})


def _parsed(model: type[Parsed], members: Mapping[str, Any]) -> Parsed:
    try:
        # By way of JSON text: only there an array may stand for a tuple, and nothing else for anything else.
        return model.model_validate_json(json.dumps(members))
    except ValidationError as error:
        raise invalid_fields(error.errors(include_url=False), model) from None


def without_retired(request: Mapping[str, Any]) -> dict[str, Any]:
    """A stored request without the members and values that this version no longer knows."""
    weights = dict(request.get("weights") or {})
    # AdaRound and its time limit were options once; it was a step behind sequential rounding.
    weights.pop("adaround_seconds", None)
    if weights.get("refinement") == "adaround":
        weights["refinement"] = "sequential"
    budget = dict(request.get("budget") or {})
    # A budget of 1 let everything be lost, and was taken once.
    if budget.get("max_drop") == 1 and budget.get("metric") not in OF_UNITS:
        budget["max_drop"] = math.nextafter(1.0, 0.0)
    kept = {"weights": weights, "budget": budget}
    return {**request, **{name: value for name, value in kept.items() if name in request}}


def merge(target: Any, patch: Any) -> Any:
    """JSON merge patch, RFC 7396: objects are merged member by member, null removes, anything else replaces.

    A constraint on a layer is replaced as a whole: it holds exactly one member. So is what is stated of an input, where
    null is a value. So is a plan: what it leaves out is not
    to come from another. Another metric of the budget, or a metric graph, comes without the options and the kind of
    drop of the one before.
    """
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(target) if isinstance(target, Mapping) else {}
    for name, other in (("metric", "metric_id"), ("metric_id", "metric")):
        if patch.get(name) is not None and merged.get(other) is not None and patch.get(other) is None:
            merged.pop(other)
            merged.pop("options", None)
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        elif name in ("layers", "inputs") and isinstance(value, Mapping):
            members = {**merged.get(name, {}), **value}
            merged[name] = {member: stated for member, stated in members.items() if stated is not None}
        elif name == "budget" and isinstance(value, Mapping):
            merged[name] = merge(_budget_to_change(merged.get(name), value), value)
        else:
            merged[name] = value if name == "plan" else merge(merged.get(name), value)
    return merged


def with_uploads(members: Mapping[str, Any], ids: Mapping[str, str]) -> dict[str, Any]:
    """A request with the ids of its uploads, by kind, each at its place."""
    fields: dict[str, Any] = {f"{kind}_id": digest for kind, digest in ids.items() if kind != "metric"}
    budget = members.get("budget") or {}
    if "metric" in ids and isinstance(budget, Mapping):  # anything else is refused when it is parsed
        fields["budget"] = {**budget, "metric_id": ids["metric"]}
    return {**members, **fields}


def _budget_to_change(budget: Any, patch: Mapping[str, Any]) -> Any:
    """`budget` without what was said to a metric that the patch replaces by another."""
    if not isinstance(budget, Mapping):
        return budget
    if all(patch[name] == budget.get(name) for name in ("metric", "metric_id") if name in patch):
        return budget
    left = ("max_drop", "confidence")
    return {name: value for name, value in budget.items() if name in left}


def parse_budget(members: Mapping[str, Any]) -> Budget:
    """A budget alone, with these JSON members; for what it raises see `parse_request`."""
    return _parsed(Budget, members)


def parse_object(text: str | bytes, what: str = "the body") -> dict[str, Any]:
    """The JSON object that `text` holds, which the texts of errors call `what`.

    Raises:
        AppError: `request_malformed`.
    """
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise AppError("request_malformed", f"{what} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise AppError("request_malformed", f"{what} must be a JSON object, got {type(value).__name__}")
    if not _flat_enough(value):
        raise AppError("request_malformed", f"{what} nests more than {MAX_DEPTH} levels deep; no request needs that")
    return value


def invalid_fields(errors: Sequence[Any], model: type[BaseModel] | None = None) -> AppError:
    """The error for what pydantic says about a request.

    Args:
        errors: `ValidationError.errors()`.
        model: the model that refused, to name the fields that it has.
    """
    entries = [{"field": _path(error["loc"]), "message": _message(error, model)} for error in errors[:MAX_ERRORS]]
    codes = {_code(error) for error in errors}
    code = codes.pop() if len(codes) == 1 else "request_invalid"
    texts = [f"{entry['field']}: {entry['message']}" if entry["field"] else entry["message"] for entry in entries]
    if len(errors) > MAX_ERRORS:
        texts.append(f"and {len(errors) - MAX_ERRORS} more")
    return AppError(code, "; ".join(texts), {"errors": entries})


def _flat_enough(value: Any) -> bool:
    # Level by level and not recursively: what comes after may recurse, and relies on this.
    level = [value]
    for _ in range(MAX_DEPTH):
        parts = [part for part in level if isinstance(part, (dict, list))]
        level = [inner for part in parts for inner in (part.values() if isinstance(part, dict) else part)]
        if not level:
            return True
    return False


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _path(location: Sequence[str | int]) -> str:
    return ".".join(str(part) for part in location if part not in ("query", "path", "header"))


def _code(error: Mapping[str, Any]) -> str:
    if error["type"] in CATALOGUE:
        return str(error["type"])
    if error["type"] == "json_invalid":
        return "request_malformed"
    return "budget_invalid" if error["loc"] and error["loc"][0] == "budget" else "request_invalid"


def _message(error: Mapping[str, Any], model: type[BaseModel] | None) -> str:
    if error["type"] == "extra_forbidden" and model is not None:
        fields = _fields_at(model, error["loc"][:-1])
        return "there is no field of this name" + (f"; fields here: {', '.join(fields)}" if fields else "")
    message = str(error["msg"])
    if error["type"] in CATALOGUE or error["type"] == "missing":
        return message
    got = json.dumps(error.get("input"), default=str)
    return f"{message}, got {got if len(got) <= 100 else got[:100] + '…'}"


def _fields_at(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """Names of the fields of the model at this place of a request."""
    for part in location:
        field = model.model_fields.get(str(part))
        if field is None:
            continue  # the name of a layer: its model was taken from the annotation of the mapping
        annotation = field.annotation
        candidates = [annotation, *get_args(annotation)]
        models = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not models:
            return []
        model = models[0]
    return list(model.model_fields)
