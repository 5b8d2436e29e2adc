"""What is shown of webhooks, and of what they were told."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from app.schemas.answers import Answer


class Webhook(Answer):
    id: str
    url: str
    events: list[str] | None = Field(description="The kinds of messages that it gets; null: all.")
    created_at: datetime
    failing_since: datetime | None = Field(
        description="When the first try since the last success failed; null: the last try succeeded."
    )
    pending: int = Field(description="Messages that it has not taken yet.")


class NewWebhook(Webhook):
    """A webhook that was just made: the only time that its secret is shown."""

    secret: str = Field(description="What messages are signed with, as Standard Webhooks has it: whsec_ and base64.")


class WebhookList(Answer):
    webhooks: list[Webhook]


class Delivery(Answer):
    """One message for one webhook."""

    id: str = Field(description="The header webhook-id of every try.")
    kind: str
    job_id: str | None
    state: Literal["pending", "delivered", "failed"]
    attempts: int = Field(description="Tries that were begun.")
    status: int | None = Field(description="HTTP status of the last answer; null: there was none.")
    last_error: str | None = Field(description="Why the last try failed.")
    created_at: datetime
    tried_at: datetime | None = Field(description="When the last try ended.")
    next_at: datetime | None = Field(description="When it is tried next; null: it has ended.")
    delivered_at: datetime | None
    payload: dict[str, Any] = Field(description="The message itself.")


class DeliveryList(Answer):
    deliveries: list[Delivery]
    next_cursor: str | None = Field(
        description="Give it as `cursor` to get the deliveries before these; null: no more."
    )
