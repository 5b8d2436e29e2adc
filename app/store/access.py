"""SQL on projects and keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.store.engine import project_of
from app.store.statements import insert
from app.store.tables import KeyRow, ProjectRow


def find_project(session: Session, project_id: str) -> ProjectRow | None:
    return session.get(ProjectRow, project_id)


def find_project_by_name(session: Session, name: str) -> ProjectRow | None:
    return session.scalar(select(ProjectRow).where(ProjectRow.name == name))


def list_projects(session: Session) -> Sequence[ProjectRow]:
    """All projects of the installation, by name: for whoever runs it, not for callers."""
    return session.scalars(select(ProjectRow).order_by(ProjectRow.name)).all()


def add_key(session: Session, key: KeyRow) -> KeyRow:
    """Store a key to the project of this transaction."""
    key.project_id = project_of(session)
    session.add(key)
    session.flush()
    return key


def find_key(session: Session, key_id: str) -> KeyRow | None:
    """The key of this project with the id `key_id`."""
    return session.scalar(select(KeyRow).where(KeyRow.id == key_id, KeyRow.project_id == project_of(session)))


def list_keys(session: Session) -> Sequence[KeyRow]:
    """The keys of this project, oldest first."""
    ours = KeyRow.project_id == project_of(session)
    return session.scalars(select(KeyRow).where(ours).order_by(KeyRow.created_at, KeyRow.id)).all()


def find_any_key(session: Session, key_id: str) -> tuple[KeyRow, ProjectRow] | None:
    """A key of whatever project, and that project: only to find out who calls."""
    joined = select(KeyRow, ProjectRow).join(ProjectRow, ProjectRow.id == KeyRow.project_id)
    row = session.execute(joined.where(KeyRow.id == key_id)).one_or_none()
    return None if row is None else (row[0], row[1])


def note_use(session: Session, key_id: str, now: datetime) -> None:
    session.execute(update(KeyRow).where(KeyRow.id == key_id).values(used_at=now))


def put_project(session: Session, project_id: str, name: str, now: datetime) -> ProjectRow:
    """The project called `name`, under this id if it is new."""
    statement = insert(session, ProjectRow).values(id=project_id, name=name, created_at=now)
    session.execute(statement.on_conflict_do_nothing())
    return session.scalars(select(ProjectRow).where(ProjectRow.name == name)).one()


def change_project(session: Session, values: Mapping[str, Any]) -> ProjectRow:
    """The project of this transaction, with these values in place of its own."""
    project = session.get_one(ProjectRow, project_of(session))
    for name, value in values.items():
        setattr(project, name, value)
    session.flush()
    return project
