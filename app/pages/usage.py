"""`/usage`: what the project takes beside its quotas; for its admins keys, webhooks, and who did what."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse

from app.access import keys
from app.access.roles import Role
from app.api import access, webhooks
from app.api.state import AdminService, Service, State
from app.delivery.addresses import Reach, parse_networks
from app.pages.forms import Blank, with_query
from app.pages.rendering import render
from app.schemas.access import parse_key_request
from app.schemas.parsing import parse_webhook_request
from app.schemas.webhook_request import MessageKind
from app.services import webhooks as webhook_services

router = APIRouter(prefix="/usage", include_in_schema=False)

_ENTRIES = 25


@router.get("", response_class=Response)
def show_usage(
    request: Request, service: Service, cursor: Annotated[str | None, Query(max_length=200), Blank] = None
) -> Response:
    """Everything; the entries of the audit log after `cursor`."""
    return _page(request, service, cursor)


@router.post("/keys", response_class=Response)
def create_key(
    request: Request,
    service: AdminService,
    role: Annotated[str, Form()],
    label: Annotated[str, Form()] = "",
    expires_in_days: Annotated[int | None, Form(), Blank] = None,
) -> Response:
    """Make a key. This page alone shows it: it is no address that one could come back to."""
    wanted = parse_key_request({"role": role, "label": label.strip() or None, "expires_in_days": expires_in_days})
    row, text = keys.create_key(service.sessions, wanted.role, label=wanted.label, valid_for=wanted.valid_for)
    return _page(request, service, made_key={"key": text, "role": row.role, "label": row.label})


@router.post("/keys/{key_id}/revoke")
def revoke_key(key_id: str, service: AdminService) -> RedirectResponse:
    """End a key at once."""
    keys.revoke_key(service.sessions, key_id)
    return RedirectResponse("/usage#keys", 303)


@router.post("/webhooks", response_class=Response)
def create_webhook(
    request: Request,
    service: AdminService,
    url: Annotated[str, Form()],
    events: Annotated[list[str] | None, Form()] = None,
) -> Response:
    """Make a webhook. This page alone shows the secret that signs its messages."""
    wanted = parse_webhook_request({"url": url.strip(), "events": events})
    reach = Reach(parse_networks(service.settings.webhook_networks))
    row = webhook_services.create(service.sessions, reach, wanted)
    return _page(request, service, made_webhook={"url": row.url, "secret": row.secret})


@router.post("/webhooks/{webhook_id}/test", response_class=Response)
async def test_webhook(webhook_id: str, request: Request, service: AdminService) -> Response:
    """Have a message sent now, and show what came back."""
    delivery = await webhooks.test(webhook_id, Response(), service)
    return await run_in_threadpool(_page, request, service, tested=delivery)


@router.post("/webhooks/{webhook_id}/delete")
def delete_webhook(webhook_id: str, service: AdminService) -> RedirectResponse:
    """Remove a webhook, with what it was still to be told."""
    webhook_services.remove(service.sessions, webhook_id)
    return RedirectResponse("/usage#webhooks", 303)


def _page(request: Request, service: State, cursor: str | None = None, **happened: Any) -> Response:
    for_admins: dict[str, Any] = {"keys": [], "webhooks": [], "audit": None, "older": None}
    if service.caller.role is Role.ADMIN:
        audit = access.get_audit(service, _ENTRIES, cursor)
        for_admins = {
            "keys": access.list_keys(service).keys,
            "webhooks": webhooks.list_webhooks(service).webhooks,
            "audit": audit.entries,
            "older": with_query("/usage", {"cursor": audit.next_cursor}) + "#audit" if audit.next_cursor else None,
        }
    return render(
        request,
        "usage.html",
        service,
        project=access.get_project(service),
        usage=access.get_usage(service),
        roles=list(Role),
        message_kinds=list(MessageKind),
        newest="/usage#audit" if cursor else None,
        **{"made_key": None, "made_webhook": None, "tested": None, **for_admins, **happened},
    )
