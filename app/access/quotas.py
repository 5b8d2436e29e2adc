"""Keeping a project within its quotas: each check stands in the transaction of what it admits."""

from __future__ import annotations

from typing import BinaryIO

from sqlalchemy.orm import Session

from app.access.samples import count_samples
from app.errors import AppError
from app.settings import Settings
from app.store import usage
from app.store.engine import Sessions, quotas_of
from app.store.quotas import Quotas
from app.store.tables import ProjectRow

ASK_AGAIN_SECONDS = 60
"""What a client is told to wait where nobody knows when a job ends or something is removed."""


def effective_quotas(project: ProjectRow | None, settings: Settings) -> Quotas:
    """The quotas of a project: its own, and those of the settings where it has none."""
    own = project or ProjectRow()
    return Quotas(
        bytes=_first(own.max_bytes, settings.quota_bytes),
        queued=_first(own.max_queued, settings.quota_queued),
        running=_first(own.max_running, settings.quota_running),
        samples=_first(own.max_samples, settings.quota_samples),
        requests_per_minute=_first(own.max_requests_per_minute, settings.quota_requests_per_minute),
    )


def quota_exceeded(what: str, remedy: str, retry_after_seconds: int = ASK_AGAIN_SECONDS) -> AppError:
    """The error for a project that has used up a quota.

    Args:
        what: the quota and what was asked for.
        remedy: what else the caller can do, an imperative.
    """
    return AppError(
        "quota_exceeded",
        f"{what}. {remedy}, or have whoever runs the service raise the quota",
        headers={"Retry-After": str(retry_after_seconds)},
    )


def admit_job(session: Session) -> None:
    """Refuse the job that this transaction has made if the project has too many that wait.

    Raises:
        AppError: `quota_exceeded`.
    """
    most = quotas_of(session).queued
    if most is None:
        return
    usage.hold_project(session)
    if usage.jobs_queued(session) > most:
        raise quota_exceeded(f"the project may have {most} jobs that wait, and has them", "Wait for one to start")


def admit_bytes(session: Session) -> None:
    """Refuse the contents that this transaction registers if with them the project stores too much.

    Raises:
        AppError: `quota_exceeded`.
    """
    if quotas_of(session).bytes is not None:
        usage.hold_project(session)
        check_room(session, 0)


def check_room(session: Session, size_bytes: int) -> None:
    """Refuse contents of this size, before they are received, if the project has no room for them.

    Raises:
        AppError: `quota_exceeded`.
    """
    most = quotas_of(session).bytes
    if most is None:
        return
    stored = usage.bytes_stored(session)
    if stored + size_bytes > most:
        raise no_room(most, max(0, most - stored))


def check_samples(sessions: Sessions, contents: BinaryIO) -> None:
    """Refuse a dataset with more samples than the project may have in one; without a quota it is not looked at.

    Raises:
        AppError: `quota_exceeded`; `dataset_invalid` if they cannot be counted.
    """
    most = sessions.quotas.samples
    if most is None:
        return
    samples = count_samples(contents)
    if samples > most:
        raise quota_exceeded(f"a dataset of the project may have {most} samples, got {samples}", "Send fewer samples")


def room(sessions: Sessions) -> int | None:
    """Bytes that the project may still store; None: no limit."""
    most = sessions.quotas.bytes
    if most is None:
        return None
    with sessions.read() as session:
        return max(0, most - usage.bytes_stored(session))


def no_room(most: int, left: int) -> AppError:
    """The error for contents that the project has no room for."""
    return quota_exceeded(
        f"the project may store {most} bytes, of which {left} are left", "Remove uploads or jobs that are not needed"
    )


def _first(own: int | None, default: int | None) -> int | None:
    return default if own is None else own
