"""What the forms that make jobs share: their choices, and the way from what was sent to a job or to errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, get_args

from fastapi import Request
from fastapi.responses import RedirectResponse, Response

from app.api.state import State
from app.errors import AppError
from app.pages.form_errors import Errors, errors_of
from app.pages.form_fields import Values, members_of, texts_as_values
from app.pages.forms import new_key
from app.pages.rendering import render
from app.pages.sent_form import Sent
from app.schemas.budget import MetricName
from app.schemas.job_request import uploaded_as
from app.schemas.metric_words import NOUNS
from app.schemas.parsing import merge, parse_object
from app.services import uploads
from app.store.tables import JobRow, UploadRow
from app.store.uploads import UploadFilter

_MOST_CHOICES = 100
METRICS = [(name, f"{name}: {NOUNS[name]}") for name in get_args(MetricName)]
"""Metrics to choose from."""


def form(
    request: Request,
    template: str,
    service: State,
    values: Values,
    errors: Errors,
    files: Sequence[str],
    **context: Any,
) -> Response:
    """The page of a form that makes jobs; with errors it is one that was refused.

    Args:
        values: what its fields show.
        files: its files, by what each is to a job.
        context: what the template shows besides.
    """
    shown = {"values": {"key": new_key()} | values, "errors": errors, "metrics": METRICS}
    stored = {kind: _choices(service, kind, str(values.get(f"{kind}_id", ""))) for kind in files}
    return render(request, template, service, status=422 if errors else 200, stored=stored, **shown, **context)


def labels_of(job: JobRow) -> dict[str, Any]:
    """What a form shows of the labels of a job."""
    return {"name": job.name or "", "tags": list(job.tags or ()), "priority": job.priority}


def answered(
    sent: Sent, make: Callable[[dict[str, Any]], str], again: Callable[[Values, Errors], Response]
) -> Response:
    """The way to the job that `make` makes of what was sent; or the form `again`, as it was, with what is wrong.

    Args:
        make: gives the id of the job with these members.
        again: gives the form with these values and errors.
    """
    made = sent.errors or _request_of(sent, make)
    if isinstance(made, str):
        return RedirectResponse(f"/jobs/{made}", 303)
    return again(texts_as_values(sent.texts), made)


def _request_of(sent: Sent, make: Callable[[dict[str, Any]], str]) -> str | Errors:
    """What `make` makes of the members that a form stands for; or what is wrong, by field.

    The JSON of the field `request` is merged over the other fields (RFC 7396).
    """
    raw: dict[str, Any] = {}
    try:
        if sent.text("request"):
            raw = parse_object(sent.text("request"), "the text")
    except AppError as error:
        return {"request": [error.detail]}
    try:
        return make(merge(members_of(sent.texts), raw))
    except AppError as error:
        if error.code == "idempotency_mismatch":
            sent.texts["key"] = [new_key()]
            return {"form": [f"{error.detail.split(';')[0]}. Press the button again to make another job."]}
        if error.code == "not_found":
            return {"form": [error.detail]}
        return errors_of(error, raw)


def _choices(service: State, kind: str, chosen: str) -> Sequence[UploadRow]:
    """The newest uploads that may be chosen, and the chosen one even if it is older."""
    sent_as = uploaded_as(kind)
    newest, _ = uploads.recent(service.sessions, sent_as, UploadFilter(), _MOST_CHOICES, None)
    if not chosen or any(upload.id == chosen for upload in newest):
        return newest
    try:
        return [uploads.get(service.sessions, sent_as, chosen), *newest]
    except AppError:
        return newest  # it is gone, or was never there: the form shows that nothing is chosen
