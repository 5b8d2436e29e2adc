"""Parts of the forms that make jobs: what was recognised in the files, and what the budget means."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from app.api.state import Service, State
from app.errors import AppError
from app.pages.form_fields import members_of
from app.pages.rendering import render
from app.schemas.budget_meaning import meaning
from app.schemas.parsing import parse_budget
from app.services.descriptions import describe
from app.services.sample_match import match, roles

router = APIRouter(include_in_schema=False)

RECOGNISED = "recognised"
"""The event by which a page learns that the samples are counted."""


@router.get("/new/recognised", response_class=Response)
def recognised(
    request: Request, service: Service, model_id: str = "", quantized_id: str = "", dataset_id: str = ""
) -> Response:
    """What is in the chosen files, and whether they fit each other; asks again while a worker is at it."""
    given = {"model": model_id, "quantized": quantized_id, "dataset": dataset_id}
    found = {kind: _described(service, kind, upload_id) for kind, upload_id in given.items() if upload_id}
    ready = {kind: about for kind, about in found.items() if about["state"] == "ready"}
    problems: list[str] = []
    feeds: dict[str, str | None] = {}
    if "model" in ready and "dataset" in ready:
        problems = match(ready["model"], ready["dataset"])
        feeds = roles(ready["model"], ready["dataset"])
    answer = render(request, "recognised.html", service, found=found, problems=problems, feeds=feeds, given=given)
    if "dataset" in ready:
        answer.headers["HX-Trigger"] = RECOGNISED
    return answer


@router.get("/new/meaning", response_class=Response)
def budget_meaning(request: Request, service: Service, dataset_id: str = "", all_held_out: bool = False) -> Response:
    """The budget of the form's fields in sentences; or what is wrong with it."""
    texts = {name: request.query_params.getlist(name) for name in request.query_params}
    members = members_of(texts).get("budget", {})
    try:
        budget = parse_budget(members)
    except AppError as error:
        return render(request, "meaning.html", service, said=None, wrong=error.detail)
    about = _described(service, "dataset", dataset_id) if dataset_id else {}
    samples = about.get("samples")
    said = meaning(budget, samples, synthetic=not dataset_id, all_held_out=all_held_out)
    return render(request, "meaning.html", service, said=said, wrong=None)


def _described(service: State, kind: str, upload_id: str) -> dict[str, Any]:
    """The description of an upload; one that is not there is a failed one."""
    sent_as = "dataset" if kind == "dataset" else "model"
    try:
        return describe(service.sessions, service.wake, sent_as, upload_id)
    except AppError as error:
        return {"state": "failed", "problem": {"title": "Not found", "detail": error.detail}}
