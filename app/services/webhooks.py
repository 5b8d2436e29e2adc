"""Making, removing and trying webhooks, and looking at what they were told."""

from __future__ import annotations

import ipaddress
import re
import uuid
from collections.abc import Sequence

from sqlalchemy.orm import Session

from app.delivery.addresses import Reach, checked_url
from app.delivery.signature import new_secret
from app.errors import AppError
from app.schemas.webhook_request import WebhookRequest
from app.store import audit, webhooks
from app.store.engine import Sessions, clock
from app.store.tables import DeliveryRow, WebhookRow

MAX_WEBHOOKS = 20
"""Of one project: every change of a job writes a row for each."""

_ID = re.compile(r"[0-9a-f]{32}")


def create(sessions: Sessions, reach: Reach, request: WebhookRequest) -> WebhookRow:
    """A new webhook of the project, with a new secret.

    Raises:
        AppError: `request_invalid` for a URL that cannot be one, or whose host is an address, written as numbers, that
            messages may not go to (a name is looked up for every message); `webhook_limit_reached`.
    """
    try:
        url = checked_url(request.url)
        if _is_address(url.host) and url.host not in reach:
            raise ValueError(
                f"messages may not go to {url.host}, which is no public address; whoever runs the service can name "
                "its network in BITBUDGET_WEBHOOK_NETWORKS"
            )
    except ValueError as error:
        entry = {"field": "url", "message": str(error)}
        raise AppError("request_invalid", f"url: {error}", {"errors": [entry]}) from None
    with sessions.begin() as session:
        if len(webhooks.list_webhooks(session)) >= MAX_WEBHOOKS:
            raise AppError(
                "webhook_limit_reached",
                f"the project has {MAX_WEBHOOKS} webhooks, and may have no more; remove one with DELETE "
                "/v1/webhooks/{id}",
            )
        row = webhooks.put_webhook(session, uuid.uuid4().hex, str(url), new_secret(), request.events, clock(session))
        # Only the host: what follows it may be a secret of the receiver.
        audit.record(session, "webhook.create", _path(row.id), {"host": url.host})
        return row


def known(sessions: Sessions) -> Sequence[tuple[WebhookRow, int]]:
    """The project's webhooks, oldest first, each with the number of messages that it has not taken yet."""
    with sessions.read() as session:
        return webhooks.list_webhooks(session)


def remove(sessions: Sessions, webhook_id: str) -> None:
    """Remove a webhook with all that it was and was to be told.

    Raises:
        AppError: `not_found`.
    """
    with sessions.begin() as session:
        row = webhooks.remove_webhook(session, webhook_id) if _ID.fullmatch(webhook_id) else None
        if row is None:
            raise _no_webhook(webhook_id)
        audit.record(session, "webhook.delete", _path(webhook_id))


def test(sessions: Sessions, webhook_id: str) -> DeliveryRow:
    """A message that is about nothing, for the dispatcher to send at once, and once only.

    Raises:
        AppError: `not_found`.
    """
    with sessions.begin() as session:
        _get(session, webhook_id)
        row = webhooks.add_test(session, uuid.uuid4().hex, webhook_id, clock(session))
        audit.record(session, "webhook.test", _path(webhook_id))
        return row


def delivery(sessions: Sessions, webhook_id: str, delivery_id: str) -> DeliveryRow:
    """A message for a webhook, and what became of it.

    Raises:
        AppError: `not_found`.
    """
    with sessions.read() as session:
        return _get_delivery(session, webhook_id, delivery_id)


def deliveries(
    sessions: Sessions, webhook_id: str, limit: int, cursor: str | None
) -> tuple[Sequence[DeliveryRow], str | None]:
    """Messages for a webhook, newest first, and the cursor of the next page; None when there are no more.

    Args:
        cursor: the id of the last message of the page before.

    Raises:
        AppError: `not_found`; `request_invalid` for a cursor that is none.
    """
    with sessions.read() as session:
        _get(session, webhook_id)
        before = None
        if cursor is not None:
            last = webhooks.find_delivery(session, webhook_id, cursor) if _ID.fullmatch(cursor) else None
            if last is None:
                raise AppError(
                    "request_invalid",
                    f"the cursor {cursor[:100]!r} is not valid; send next_cursor of the last page, or leave it out",
                )
            before = last.created_at, last.id
        rows = webhooks.list_deliveries(session, webhook_id, limit=limit + 1, before=before)
    page = rows[:limit]
    return page, page[-1].id if len(rows) > limit else None


def resend(sessions: Sessions, webhook_id: str, delivery_id: str) -> DeliveryRow:
    """Send a message again, whatever became of it; it keeps its id, by which receivers know it.

    Raises:
        AppError: `not_found`.
    """
    with sessions.begin() as session:
        row = _get_delivery(session, webhook_id, delivery_id)
        webhooks.send_again(row, clock(session))
        audit.record(session, "webhook.resend", f"{_path(webhook_id)}/deliveries/{delivery_id}")
        return row


def _get(session: Session, webhook_id: str) -> WebhookRow:
    row = webhooks.find_webhook(session, webhook_id) if _ID.fullmatch(webhook_id) else None
    if row is None:
        raise _no_webhook(webhook_id)
    return row


def _get_delivery(session: Session, webhook_id: str, delivery_id: str) -> DeliveryRow:
    _get(session, webhook_id)
    row = webhooks.find_delivery(session, webhook_id, delivery_id) if _ID.fullmatch(delivery_id) else None
    if row is None:
        raise AppError(
            "not_found",
            f"the webhook has no delivery with the id {delivery_id[:64]!r}; GET {_path(webhook_id)}/deliveries lists "
            "those of the last 30 days",
        )
    return row


def _no_webhook(webhook_id: str) -> AppError:
    return AppError("not_found", f"no webhook has the id {webhook_id[:64]!r}; GET /v1/webhooks lists them")


def _path(webhook_id: str) -> str:
    return f"/v1/webhooks/{webhook_id}"


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
