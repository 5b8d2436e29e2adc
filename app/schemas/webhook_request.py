"""The request that makes a webhook."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field

from app.schemas.strict import Strict, refuse

MAX_URL = 2048


class MessageKind(StrEnum):
    """What a webhook may be told of a job."""

    STARTED = "job.started"
    SUCCEEDED = "job.succeeded"
    FAILED = "job.failed"
    CANCELLED = "job.cancelled"


def _some(kinds: tuple[MessageKind, ...]) -> tuple[MessageKind, ...]:
    if not kinds:
        refuse("request_invalid", f"it would be told nothing; name some of {', '.join(MessageKind)}, or leave it out")
    return kinds


class WebhookRequest(Strict):
    """An address that is to be told what happens to the project's jobs."""

    url: Annotated[str, Field(min_length=1, max_length=MAX_URL)] = Field(
        description="Where messages are sent by POST: http or https, without user, password and fragment."
    )
    events: Annotated[tuple[MessageKind, ...], Field(max_length=20), AfterValidator(_some)] | None = Field(
        default=None, description="The kinds of messages to send; null: all, also those of later versions."
    )
