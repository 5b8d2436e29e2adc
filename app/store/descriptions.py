"""SQL on descriptions of uploads: asked for by a project, taken by workers, whose writes are fenced by their name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, false, func, or_, select, update
from sqlalchemy.orm import Session

from app.store.engine import project_of
from app.store.statements import insert
from app.store.tables import DescriptionRow, ProjectRow


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
    """Take the description whose turn it is, for `owner`, until then; None: none is asked for.

    First come projects that the fewest workers are at, then those whose turn is longest ago; of one project, what was
    asked for first.
    """
    row = session.scalar(_by_turn(now).with_for_update(of=DescriptionRow, skip_locked=True))
    if row is None:
        return None
    row.owner, row.lease_until, row.attempts = owner, until, row.attempts + 1
    session.execute(update(ProjectRow).where(ProjectRow.id == row.project_id).values(described_at=now))
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


def _by_turn(now: datetime) -> Select[DescriptionRow]:
    count = func.count().label("count")
    held = (DescriptionRow.state == "pending") & (DescriptionRow.lease_until >= now)
    at_work = select(DescriptionRow.project_id, count).where(held).group_by(DescriptionRow.project_id).subquery()
    return (
        select(DescriptionRow)
        .join(ProjectRow, ProjectRow.id == DescriptionRow.project_id)
        .outerjoin(at_work, at_work.c.project_id == DescriptionRow.project_id)
        .where(_free(now))
        .order_by(
            func.coalesce(at_work.c.count, 0), ProjectRow.described_at.asc().nulls_first(), DescriptionRow.asked_at
        )
        .limit(1)
    )


def _free(now: datetime) -> ColumnElement[bool]:
    free = or_(DescriptionRow.lease_until.is_(None), DescriptionRow.lease_until < now)
    return (DescriptionRow.state == "pending") & free


def _change(session: Session, *conditions: ColumnElement[bool], values: Mapping[str, Any]) -> bool:
    statement = update(DescriptionRow).where(*conditions).values(**values).returning(DescriptionRow.upload_id)
    return session.scalars(statement.execution_options(synchronize_session=False)).first() is not None
