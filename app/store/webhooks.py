"""SQL on webhooks, and on the messages that they are to get."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, case, delete, func, select, tuple_, update
from sqlalchemy.orm import Session

from app.store.engine import project_of
from app.store.statements import storable
from app.store.tables import DeliveryRow, JobRow, WebhookRow

GIVE_UP_AFTER = timedelta(days=3)
KIND_OF_STATE = {
    "running": "job.started",
    "succeeded": "job.succeeded",
    "failed": "job.failed",
    "cancelled": "job.cancelled",
}
"""Kind of the message about a job that comes into this state; a job that waits is news to nobody."""
TEST_KIND = "webhook.test"
ERROR_LIMIT = 500


@dataclass(frozen=True, slots=True)
class Attempt:
    """A try that was begun: one message, where it goes, what it is signed with."""

    delivery_id: str
    webhook_id: str
    url: str
    secret: str
    payload: Mapping[str, Any]
    number: int
    """From 1 on; only the newest try of a delivery may write down what came of it."""


def put_webhook(
    session: Session, webhook_id: str, url: str, secret: str, events: Sequence[str] | None, now: datetime
) -> WebhookRow:
    row = WebhookRow(
        id=webhook_id,
        project_id=project_of(session),
        url=url,
        secret=secret,
        events=None if events is None else list(events),
        created_at=now,
    )
    session.add(row)
    return row


def find_webhook(session: Session, webhook_id: str) -> WebhookRow | None:
    """The webhook of this project with the id `webhook_id`."""
    return session.scalar(
        select(WebhookRow).where(WebhookRow.id == webhook_id, WebhookRow.project_id == project_of(session))
    )


def list_webhooks(session: Session) -> Sequence[tuple[WebhookRow, int]]:
    """The webhooks of this project, oldest first, each with the number of messages that it has not taken yet."""
    pending = (
        select(func.count())
        .where(DeliveryRow.webhook_id == WebhookRow.id, DeliveryRow.state == "pending")
        .scalar_subquery()
    )
    rows = session.execute(
        select(WebhookRow, pending)
        .where(WebhookRow.project_id == project_of(session))
        .order_by(WebhookRow.created_at, WebhookRow.id)
    )
    return [(row[0], row[1]) for row in rows]


def remove_webhook(session: Session, webhook_id: str) -> WebhookRow | None:
    """Remove the webhook of this project with all of its deliveries; what it was, None if there was none."""
    # The lock first: an event that is written meanwhile has either seen the webhook, and then its delivery goes with
    # the others, or does not see it any more.
    row = session.scalar(
        select(WebhookRow)
        .where(WebhookRow.id == webhook_id, WebhookRow.project_id == project_of(session))
        .with_for_update()
    )
    if row is not None:
        session.execute(delete(DeliveryRow).where(DeliveryRow.webhook_id == webhook_id))
        session.execute(delete(WebhookRow).where(WebhookRow.id == webhook_id))
    return row


def add_deliveries(session: Session, job: JobRow, seq: int, now: datetime) -> None:
    """Write down, in the transaction that brings a job into its state, who is to hear of it.

    Args:
        seq: number of the job's event of this change.
    """
    kind = KIND_OF_STATE.get(job.state)
    if kind is None:
        return
    # KEY SHARE: a webhook that is deleted in this moment must not make the end of a job fail by its foreign key.
    webhooks = session.scalars(
        select(WebhookRow).where(WebhookRow.project_id == job.project_id).with_for_update(read=True, key_share=True)
    ).all()
    for webhook in webhooks:
        if webhook.events is None or kind in webhook.events:
            number = hashlib.sha256(f"{webhook.id}/{job.id}/{seq}".encode()).hexdigest()[:32]
            session.add(_delivery(number, webhook.id, kind, _about(job, seq), now, GIVE_UP_AFTER, job.id))


def add_test(session: Session, delivery_id: str, webhook_id: str, now: datetime) -> DeliveryRow:
    """A message that is about nothing, to be tried once."""
    data = {"id": webhook_id, "links": {"deliveries": f"/v1/webhooks/{webhook_id}/deliveries"}}
    row = _delivery(delivery_id, webhook_id, TEST_KIND, data, now, timedelta(0))
    session.add(row)
    return row


def find_delivery(session: Session, webhook_id: str, delivery_id: str) -> DeliveryRow | None:
    """A delivery of a webhook of this project."""
    return session.scalar(
        select(DeliveryRow)
        .join(WebhookRow, WebhookRow.id == DeliveryRow.webhook_id)
        .where(_delivery_of_project(session, webhook_id), DeliveryRow.id == delivery_id)
    )


def list_deliveries(
    session: Session, webhook_id: str, *, limit: int, before: tuple[datetime, str] | None
) -> Sequence[DeliveryRow]:
    """Deliveries of a webhook of this project, newest first, from the first one after `before` (created_at, id) on."""
    query = (
        select(DeliveryRow)
        .join(WebhookRow, WebhookRow.id == DeliveryRow.webhook_id)
        .where(_delivery_of_project(session, webhook_id))
        .order_by(DeliveryRow.created_at.desc(), DeliveryRow.id.desc())
        .limit(limit)
    )
    if before is not None:
        query = query.where(tuple_(DeliveryRow.created_at, DeliveryRow.id) < tuple_(*before))
    return session.scalars(query).all()


def send_again(delivery: DeliveryRow, now: datetime) -> None:
    """Make a delivery due now, whatever became of it; its tries go on being counted."""
    delivery.state = "pending"
    delivery.next_at = now
    delivery.give_up_at = now + GIVE_UP_AFTER


def take_due(
    session: Session, now: datetime, lease: timedelta, limit: int, busy: Collection[str] = ()
) -> Sequence[Attempt]:
    """Begin a try of deliveries that are due: of each webhook the one that waits longest, at most `limit`.

    Whoever takes one has until the lease ends; then it is due again. Several may take at once.

    Args:
        busy: webhooks from which nothing is to be taken now.
    """
    due = and_(DeliveryRow.state == "pending", DeliveryRow.next_at <= now)
    place = func.row_number().over(partition_by=DeliveryRow.webhook_id, order_by=(DeliveryRow.next_at, DeliveryRow.id))
    queue = (
        select(DeliveryRow.id, DeliveryRow.next_at, place.label("place"))
        .where(due, DeliveryRow.webhook_id.not_in(busy))
        .subquery()
    )
    first = select(queue.c.id).where(queue.c.place == 1).order_by(queue.c.next_at).limit(limit)
    # The condition again, on the locked rows: another dispatcher may have taken one meanwhile.
    free = select(DeliveryRow.id).where(DeliveryRow.id.in_(first), due).with_for_update(skip_locked=True)
    taken = session.execute(
        update(DeliveryRow)
        .where(DeliveryRow.id.in_(free))
        .values(attempts=DeliveryRow.attempts + 1, next_at=now + lease)
        .returning(DeliveryRow.id, DeliveryRow.webhook_id, DeliveryRow.payload, DeliveryRow.attempts)
        .execution_options(synchronize_session=False)
    ).all()
    webhooks = session.scalars(select(WebhookRow).where(WebhookRow.id.in_({row.webhook_id for row in taken})))
    by_id = {webhook.id: webhook for webhook in webhooks}
    return [
        Attempt(row.id, webhook.id, webhook.url, webhook.secret, row.payload, row.attempts)
        for row in taken
        if (webhook := by_id.get(row.webhook_id)) is not None
    ]


def record_success(session: Session, attempt: Attempt, status: int, now: datetime) -> bool:
    """The receiver has taken the message; False: another try was begun meanwhile, and counts."""
    # The webhook before its delivery, as where it is removed: the other order could end in a deadlock.
    failing = and_(WebhookRow.id == attempt.webhook_id, WebhookRow.failing_since.is_not(None))
    session.execute(update(WebhookRow).where(failing).values(failing_since=None))
    return _record(
        session,
        attempt,
        {"state": "delivered", "status": status, "last_error": None, "tried_at": now, "delivered_at": now},
    )


def record_failure(
    session: Session, attempt: Attempt, status: int | None, error: str, now: datetime, pause: timedelta
) -> bool:
    """The receiver has not taken the message: tried again after `pause`, unless it is to be given up by then.

    Args:
        status: HTTP status of the answer; None: there was none.

    Returns:
        False when another try was begun meanwhile, and counts.
    """
    well = and_(WebhookRow.id == attempt.webhook_id, WebhookRow.failing_since.is_(None))
    session.execute(update(WebhookRow).where(well).values(failing_since=now))
    values = {
        "state": case((DeliveryRow.give_up_at < now + pause, "failed"), else_="pending"),
        "status": status,
        "last_error": storable(error, ERROR_LIMIT),
        "tried_at": now,
        "next_at": now + pause,
    }
    return _record(session, attempt, values)


def remove_deliveries(session: Session, before: datetime, limit: int) -> int:
    """Remove deliveries that ended before this time, at most `limit`; returns how many went."""
    ended = (
        select(DeliveryRow.id)
        .where(DeliveryRow.state.in_(("delivered", "failed")), DeliveryRow.next_at < before)
        .limit(limit)
    )
    removed = session.scalars(delete(DeliveryRow).where(DeliveryRow.id.in_(ended)).returning(DeliveryRow.id))
    return len(removed.all())


def _delivery(
    delivery_id: str,
    webhook_id: str,
    kind: str,
    data: Mapping[str, Any],
    now: datetime,
    give_up_after: timedelta,
    job_id: str | None = None,
) -> DeliveryRow:
    payload = {"type": kind, "timestamp": now.isoformat().replace("+00:00", "Z"), "data": dict(data)}
    return DeliveryRow(
        id=delivery_id,
        webhook_id=webhook_id,
        job_id=job_id,
        kind=kind,
        payload=payload,
        state="pending",
        next_at=now,
        give_up_at=now + give_up_after,
        created_at=now,
    )


def _about(job: JobRow, seq: int) -> dict[str, Any]:
    return {
        "id": job.id,
        "state": job.state,
        "outcome": job.outcome,
        "code": job.error_code,
        "name": job.name,
        "tags": job.tags or [],
        "attempt": job.attempt,
        "event": seq,
        "links": {"job": f"/v1/jobs/{job.id}"},
    }


def _delivery_of_project(session: Session, webhook_id: str) -> ColumnElement[bool]:
    return and_(DeliveryRow.webhook_id == webhook_id, WebhookRow.project_id == project_of(session))


def _record(session: Session, attempt: Attempt, values: Mapping[str, Any]) -> bool:
    fence = and_(
        DeliveryRow.id == attempt.delivery_id, DeliveryRow.attempts == attempt.number, DeliveryRow.state == "pending"
    )
    return (
        session.execute(
            update(DeliveryRow)
            .where(fence)
            .values(**values)
            .returning(DeliveryRow.id)
            .execution_options(synchronize_session=False)
        ).first()
        is not None
    )
