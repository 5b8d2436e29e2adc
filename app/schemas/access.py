"""Keys, projects, usage and the audit log, as the API takes and answers them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError

from app.access.roles import Role
from app.lifecycle.states import JobState
from app.schemas.answers import Answer
from app.schemas.parsing import invalid_fields
from app.schemas.strict import Strict


def _printable(text: str | None) -> str | None:
    if text is not None and not text.isprintable():
        raise ValueError("must have no control characters")
    return text


class KeyRequest(Strict):
    """A key to make."""

    role: Role = Field(description="What the key may do.")
    label: Annotated[
        str | None,
        Field(min_length=1, max_length=255, description="Whose it is, or what for."),
        AfterValidator(_printable),
    ] = None
    expires_in_days: Annotated[int, Field(ge=1, le=3650)] | None = Field(
        default=None, description="How long it is valid; null: until it is revoked."
    )

    @property
    def valid_for(self) -> timedelta | None:
        """How long it is valid; None: until it is revoked."""
        return None if self.expires_in_days is None else timedelta(days=self.expires_in_days)


def parse_key_request(members: Mapping[str, Any]) -> KeyRequest:
    """The request of a key with these JSON members.

    Raises:
        AppError: `request_invalid`; names every wrong field.
    """
    try:
        # By way of JSON text: only there a text may stand for a role.
        return KeyRequest.model_validate_json(json.dumps(members))
    except ValidationError as error:
        raise invalid_fields(error.errors(include_url=False), KeyRequest) from None


class Key(Answer):
    """A key, without what would let anybody use it."""

    id: str
    role: Role
    label: str | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    used_at: datetime | None = Field(description="Its last use, to the minute.")


class NewKey(Key):
    key: str = Field(description="The key itself. It is not stored: no other answer has it.")


class KeyList(Answer):
    keys: list[Key]


class ProjectQuotas(Answer):
    """null: no limit."""

    bytes: int | None = Field(description="Contents that are stored: uploads, results, and the cache of analyses.")
    queued: int | None = Field(description="Jobs that wait.")
    running: int | None = Field(description="Jobs that run at once; more of them wait.")
    samples: int | None = Field(description="Samples of one dataset.")
    requests_per_minute: int | None


class Project(Answer):
    """The project of the key, and what the key may do in it."""

    name: str
    role: Role
    key_id: str | None = Field(description="null: the service asks for no keys.")
    quotas: ProjectQuotas


class Used(Answer):
    """One quota and what is used of it."""

    used: int | None = Field(description="null: not counted, as there is no quota.")
    quota: int | None = Field(description="null: no limit.")


class Usage(Answer):
    """What the project takes, beside its quotas."""

    bytes: Used
    queued: Used
    running: Used
    requests_per_minute: Used = Field(description="Of the minute that began with the first of them.")
    jobs: dict[JobState, int]


class AuditEntry(Answer):
    at: datetime
    key_id: str | None = Field(description="null: a command of whoever runs the service, or a service without keys.")
    action: str
    subject: str | None = Field(description="What it was done to, as the path of the API.")
    detail: dict[str, Any] | None


class AuditList(Answer):
    entries: list[AuditEntry]
    next_cursor: str | None = Field(description="Give it as `cursor` to get the entries before these; null: no more.")
