"""Results of stages, by a key made of all that they depend on.

They belong to a project and to no job: a retry, a second budget, another job with the same key takes them as they are.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import ColumnElement, delete, func, or_, select, update
from sqlalchemy.orm import Session

from app.store.blobs import BlobRef, find_blob, keep_blob
from app.store.engine import Sessions, clock, project_of
from app.store.statements import insert
from app.store.tables import StageResultRow

USE_NOTED_EVERY = timedelta(days=1)
"""How exactly it is known when a result was used last: writing it down at every use would cost a write each."""


def get_stage_result(sessions: Sessions, key: str) -> BlobRef | None:
    """The stored result of the stage with this key, or None; notes the use, to the day."""
    with sessions.read() as session:
        row = session.scalar(select(StageResultRow).where(*_under(session, key)))
        if row is None:
            return None
        blob = find_blob(session, row.blob_id)
        noted = (row.used_at or row.created_at) > clock(session) - USE_NOTED_EVERY
    if not noted:
        with sessions.begin() as session:
            now = clock(session)
            long_ago = or_(StageResultRow.used_at.is_(None), StageResultRow.used_at < now - USE_NOTED_EVERY)
            session.execute(update(StageResultRow).where(*_under(session, key), long_ago).values(used_at=now))
    return blob


def put_stage_result(sessions: Sessions, key: str, blob: BlobRef) -> BlobRef:
    """Store `blob` as the result under `key` and return the result that counts: the first one, if two were stored.

    Args:
        key: 1 to 255 characters.
    """
    if not 1 <= len(key) <= 255:
        raise ValueError(f"the key of a stage has 1 to 255 characters, got {len(key)}")
    with sessions.begin() as session:
        keep_blob(session, blob)
        session.execute(
            insert(session, StageResultRow)
            .values(project_id=project_of(session), key=key, blob_id=blob.id, created_at=clock(session))
            .on_conflict_do_nothing()
        )
        blob_id = session.scalars(select(StageResultRow.blob_id).where(*_under(session, key))).one()
        return find_blob(session, blob_id)


def remove_stage_results(sessions: Sessions, prefix: str) -> int:
    """Forget every result whose key begins with `prefix`, e.g. the chunks of a finished stage; returns how many.

    Their blobs go with the next cleaning, unless something else refers to them.
    """
    if not prefix:
        raise ValueError("an empty prefix would remove the results of every stage")
    with sessions.begin() as session:
        # Not LIKE, which takes `_` for any character, and on SQLite `a` for `A`.
        begins = func.substr(StageResultRow.key, 1, len(prefix)) == prefix
        ours = StageResultRow.project_id == project_of(session)
        return len(session.scalars(delete(StageResultRow).where(ours, begins).returning(StageResultRow.key)).all())


def _under(session: Session, key: str) -> tuple[ColumnElement[bool], ...]:
    return StageResultRow.project_id == project_of(session), StageResultRow.key == key
