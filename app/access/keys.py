"""Keys: made once, shown once, kept as a digest."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.exc import SQLAlchemyError

from app.access.quotas import effective_quotas
from app.access.roles import Role
from app.errors import AppError
from app.settings import Settings
from app.store import access
from app.store.audit import record
from app.store.engine import Sessions, clock
from app.store.quotas import Quotas
from app.store.tables import DEFAULT_PROJECT, KeyRow

logger = logging.getLogger(__name__)

USED_AGAIN_AFTER = timedelta(minutes=1)
"""How old the time of the last use may be: not every request shall write."""

_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="bitbudget"'}
_KEY = re.compile(r"bb_([0-9a-f]{12})_[0-9a-f]{48}")


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever sent a request: the project and the role that are theirs, and what the project may take."""

    project_id: str
    key_id: str | None
    """None: the service asks for no keys."""
    role: Role
    quotas: Quotas


def create_key(
    sessions: Sessions, role: Role, *, label: str | None = None, valid_for: timedelta | None = None
) -> tuple[KeyRow, str]:
    """Make a key to the project of `sessions`; its row, and the key itself, which nobody can tell again.

    Args:
        label: up to 255 characters by which people recognise it.
        valid_for: more than nothing; None: until it is revoked.
    """
    key_id = secrets.token_hex(6)
    text = f"bb_{key_id}_{secrets.token_hex(24)}"
    with sessions.begin() as session:
        now = clock(session)
        row = access.add_key(
            session,
            KeyRow(
                id=key_id,
                role=role.value,
                sha256=_digest(text),
                label=label,
                created_at=now,
                expires_at=None if valid_for is None else now + valid_for,
            ),
        )
        record(session, "key.create", f"/v1/keys/{key_id}", {"role": role.value})
    return row, text


def list_keys(sessions: Sessions) -> Sequence[KeyRow]:
    """The keys of the project, oldest first, the revoked ones among them."""
    with sessions.read() as session:
        return access.list_keys(session)


def revoke_key(sessions: Sessions, key_id: str) -> KeyRow:
    """End a key at once; repeating it does nothing.

    Raises:
        AppError: `not_found` for a key that the project does not have.
    """
    with sessions.begin() as session:
        row = access.find_key(session, key_id)
        if row is None:
            raise AppError("not_found", f"no key has the id {key_id[:64]!r}; GET /v1/keys lists them")
        if row.revoked_at is None:
            row.revoked_at = clock(session)
            record(session, "key.revoke", f"/v1/keys/{key_id}")
    return row


def authenticate(sessions: Sessions, settings: Settings, key: str | None) -> Caller:
    """Who sends a request with this key; where no keys are asked for, everybody is an admin of one project.

    Raises:
        AppError: `key_missing`; `key_invalid` for one that is unknown, revoked or expired.
    """
    if settings.auth == "none":
        with sessions.read() as session:
            project = access.find_project(session, DEFAULT_PROJECT)
        return Caller(DEFAULT_PROJECT, None, Role.ADMIN, effective_quotas(project, settings))
    if key is None:
        raise AppError(
            "key_missing",
            "this service asks for a key; send the header Authorization: Bearer KEY. Whoever runs the service makes "
            "one with: bitbudget keys create",
            headers=_CHALLENGE,
        )
    parts = _KEY.fullmatch(key)
    with sessions.read() as session:
        now = clock(session)
        known = None if parts is None else access.find_any_key(session, parts[1])
    if known is None or not hmac.compare_digest(known[0].sha256, _digest(key)):
        raise _invalid("is not known here; check that it was copied as a whole")
    row, project = known
    if row.revoked_at is not None:
        raise _invalid("was revoked; ask an admin of the project for a new one")
    if row.expires_at is not None and row.expires_at <= now:
        raise _invalid(f"expired at {row.expires_at.isoformat()}; ask an admin of the project for a new one")
    if row.used_at is None or now - row.used_at >= USED_AGAIN_AFTER:
        _note_use(sessions, row.id, now)
    return Caller(row.project_id, row.id, Role(row.role), effective_quotas(project, settings))


def check_metrics_token(settings: Settings, token: str | None) -> None:
    """Let whoever sent this token read the metrics of the whole installation.

    Raises:
        AppError: `key_missing`, `key_invalid`.
    """
    expected = settings.metrics_token
    if expected is None and settings.auth == "none":
        return
    if expected is None or token is None:
        raise AppError(
            "key_missing",
            "figures of all projects are for whoever runs the service: set BITBUDGET_METRICS_TOKEN there, and send it "
            "as Authorization: Bearer TOKEN",
            headers=_CHALLENGE,
        )
    if not hmac.compare_digest(expected.encode(), token.encode()):
        raise _invalid("is not that of BITBUDGET_METRICS_TOKEN")


def _note_use(sessions: Sessions, key_id: str, now: datetime) -> None:
    try:
        with sessions.begin() as session:
            access.note_use(session, key_id, now)
    except SQLAlchemyError:
        # A full disk must not keep anybody from reading.
        logger.warning("the use of the key %s could not be written down", key_id, exc_info=True)


def _invalid(why: str) -> AppError:
    return AppError("key_invalid", f"the key {why}", headers=_CHALLENGE)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
