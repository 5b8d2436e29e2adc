"""SQL on descriptions of uploads: asked for by a project, taken by workers, whose writes are fenced by their name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, false, func, or_, select, update
from sqlalchemy.orm import Session

from app.store.engine import project_of
from app.store.statements import insert
from app.store.tables import DescriptionRow


@dataclass(frozen=True, slots=True)
class Ask:
    """A description that a worker has taken to make it."""

    project_id: str
    kind: str
    upload_id: str
    attempts: int


def find(session: Session, kind: str, upload_id: str) -> DescriptionRow | None:
    """The description of an upload of this project; None: nobody has asked for it."""
    return session.get(DescriptionRow, (project_of(session), kind, upload_id))


def ask(
    session: Session, kind: str, upload_id: str, version: int, now: datetime, instead_of: DescriptionRow | None = None
) -> tuple[DescriptionRow, bool]:
    """The description of an upload that this transaction keeps, and whether this call is the first to ask for it.

    Args:
        instead_of: the one that is there and outdated; if another has been asked for since, that stays.
    """
    key = {"project_id": project_of(session), "kind": kind, "upload_id": upload_id}
    fresh = {
        "version": version,
        "state": "pending",
        "owner": None,
        "lease_until": None,
        "attempts": 0,
        "document": None,
        "problem_code": None,
        "problem_detail": None,
        "asked_at": now,
    }
    asked = session.scalar(
        insert(session, DescriptionRow)
        .values(**key, **fresh)
        .on_conflict_do_update(index_elements=list(key), set_=fresh, where=_same(instead_of))
        .returning(DescriptionRow.upload_id)
    )
    row = session.get_one(DescriptionRow, tuple(key.values()), populate_existing=True)
    return row, asked is not None


def waiting(session: Session, now: datetime) -> int:
    """How many descriptions of all projects are asked for, and nobody is at."""
    return session.scalars(select(func.count()).select_from(DescriptionRow).where(_free(now))).one()


def take(session: Session, owner: str, now: datetime, until: datetime) -> Ask | None:
    """Take the description that was asked for first, for `owner`, until then; None: none is asked for."""
    which = select(DescriptionRow).where(_free(now)).order_by(DescriptionRow.asked_at).limit(1)
    row = session.scalar(which.with_for_update(skip_locked=True))
    if row is None:
        return None
    row.owner, row.lease_until, row.attempts = owner, until, row.attempts + 1
    return Ask(row.project_id, row.kind, row.upload_id, row.attempts)


def keep(session: Session, taken: Ask, owner: str, until: datetime) -> bool:
    """`owner` is still at it; False: the upload is gone, or somebody else is at it."""
    return _change(session, *_held(taken, owner), values={"lease_until": until})


def end(session: Session, taken: Ask, owner: str, values: Mapping[str, Any]) -> bool:
    """Write how it ended; False: the upload is gone, or somebody else is at it."""
    return _change(session, *_held(taken, owner), values={**values, "owner": None, "lease_until": None})


def give_back(session: Session, owner_prefix: str) -> None:
    """Those whose names begin so are at nothing any more."""
    begins = func.substr(DescriptionRow.owner, 1, len(owner_prefix)) == owner_prefix
    _change(session, begins, values={"owner": None, "lease_until": None})


def _same(row: DescriptionRow | None) -> ColumnElement[bool]:
    if row is None:
        return false()
    return (DescriptionRow.version == row.version) & (DescriptionRow.asked_at == row.asked_at)


def _held(taken: Ask, owner: str) -> tuple[ColumnElement[bool], ...]:
    return (
        DescriptionRow.project_id == taken.project_id,
        DescriptionRow.kind == taken.kind,
        DescriptionRow.upload_id == taken.upload_id,
        DescriptionRow.owner == owner,
        DescriptionRow.state == "pending",
    )


def _free(now: datetime) -> ColumnElement[bool]:
    free = or_(DescriptionRow.lease_until.is_(None), DescriptionRow.lease_until < now)
    return (DescriptionRow.state == "pending") & free


def _change(session: Session, *conditions: ColumnElement[bool], values: Mapping[str, Any]) -> bool:
    statement = update(DescriptionRow).where(*conditions).values(**values).returning(DescriptionRow.upload_id)
    return session.scalars(statement.execution_options(synchronize_session=False)).first() is not None
