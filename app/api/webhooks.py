"""Webhooks of a project: who is told what happens to its jobs."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from app.api.declared import declared
from app.api.problems import problem_answers
from app.api.receiving import received_json
from app.api.state import AdminService
from app.delivery.addresses import Reach, parse_networks
from app.schemas.parsing import parse_object, parse_webhook_request
from app.schemas.webhook_answers import Delivery, DeliveryList, NewWebhook, Webhook, WebhookList
from app.schemas.webhook_request import WebhookRequest
from app.services import webhooks
from app.settings import Settings
from app.store.tables import DeliveryRow

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])

LOOK_SECONDS = 0.1
TAKEN_WITHIN_SECONDS = 2.0

_CREATE_ANSWERS = {201: declared(201, "Location")} | problem_answers(
    "origin_refused",
    "request_malformed",
    "request_invalid",
    "media_type_unsupported",
    "payload_too_large",
    "webhook_limit_reached",
)
_CHANGE_ERRORS = problem_answers("origin_refused", "not_found")
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": WebhookRequest.model_json_schema(ref_template="#/components/schemas/{model}")
            }
        },
    }
}
SCHEMAS = _BODY["requestBody"]["content"]["application/json"]["schema"].pop("$defs")
"""Schemas that the body above refers to; `app.main` adds them to OpenAPI."""


@router.post("", name="create_webhook", status_code=201, responses=_CREATE_ANSWERS, openapi_extra=_BODY)
async def create(request: Request, response: Response, service: AdminService) -> NewWebhook:
    """Have messages sent to an address. The answer is the only one that shows the secret that signs them."""
    wanted = parse_webhook_request(parse_object(await received_json(request)))
    reach = Reach(parse_networks(service.settings.webhook_networks))
    row = await run_in_threadpool(webhooks.create, service.sessions, reach, wanted)
    response.headers["Location"] = f"/v1/webhooks/{row.id}/deliveries"
    return NewWebhook(
        id=row.id,
        url=row.url,
        events=row.events,
        created_at=row.created_at,
        failing_since=row.failing_since,
        pending=0,
        secret=row.secret,
    )


@router.get("")
def list_webhooks(service: AdminService) -> WebhookList:
    """The project's webhooks, oldest first, without their secrets."""
    return WebhookList(
        webhooks=[
            Webhook(
                id=row.id,
                url=row.url,
                events=row.events,
                created_at=row.created_at,
                failing_since=row.failing_since,
                pending=pending,
            )
            for row, pending in webhooks.known(service.sessions)
        ]
    )


@router.delete("/{webhook_id}", name="delete_webhook", status_code=204, responses=_CHANGE_ERRORS)
def remove(webhook_id: str, service: AdminService) -> None:
    """Remove a webhook. What it was still to be told is not sent any more."""
    webhooks.remove(service.sessions, webhook_id)


@router.post("/{webhook_id}/test", name="test_webhook", responses={202: {"model": Delivery}, **_CHANGE_ERRORS})
async def test(webhook_id: str, response: Response, service: AdminService) -> Delivery:
    """Have the dispatcher send a message of the kind `webhook.test` now, and answer what came back. 202: it was not
    tried yet, because no dispatcher runs, or because it has much to send."""
    row = await run_in_threadpool(webhooks.test, service.sessions, webhook_id)
    deadline = time.monotonic() + _patience(service.settings)
    while row.tried_at is None and time.monotonic() < deadline:
        await asyncio.sleep(LOOK_SECONDS)
        row = await run_in_threadpool(webhooks.delivery, service.sessions, webhook_id, row.id)
    response.status_code = 202 if row.tried_at is None else 200
    return _view(row)


@router.get("/{webhook_id}/deliveries", responses=problem_answers("not_found"))
def list_deliveries(
    webhook_id: str,
    service: AdminService,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> DeliveryList:
    """What a webhook was told within the last 30 days, and is to be told, newest first."""
    rows, following = webhooks.deliveries(service.sessions, webhook_id, limit, cursor)
    return DeliveryList(deliveries=[_view(row) for row in rows], next_cursor=following)


@router.post(
    "/{webhook_id}/deliveries/{delivery_id}/resend", name="resend_delivery", status_code=202, responses=_CHANGE_ERRORS
)
def resend(webhook_id: str, delivery_id: str, service: AdminService) -> Delivery:
    """Send a message again, under the same webhook-id, whether it was taken, given up, or still waits."""
    return _view(webhooks.resend(service.sessions, webhook_id, delivery_id))


def _patience(settings: Settings) -> float:
    """Seconds within which a dispatcher that runs has taken a message and come back."""
    return settings.webhook_timeout_seconds + settings.dispatch_interval_seconds + TAKEN_WITHIN_SECONDS


def _view(row: DeliveryRow) -> Delivery:
    return Delivery(
        next_at=row.next_at if row.state == "pending" else None,
        **{name: getattr(row, name) for name in Delivery.model_fields if name != "next_at"},
    )
