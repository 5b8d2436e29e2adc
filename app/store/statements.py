"""Statements that the two databases spell alike, but SQLAlchemy does not."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, exists, func
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.store.tables import Base

Insert = postgresql.Insert | sqlite.Insert


def insert(session: Session, table: type[Base]) -> Insert:
    """`INSERT INTO table` with `on_conflict_do_nothing` and `on_conflict_do_update`."""
    if session.get_bind().dialect.name == "sqlite":
        return sqlite.insert(table)
    return postgresql.insert(table)


def has_member(session: Session, column: InstrumentedAttribute[Any], text: str) -> ColumnElement[bool]:
    """Whether the JSON list of texts in `column` has the member `text`; a list that is NULL has none."""
    sqlite_there = session.get_bind().dialect.name == "sqlite"
    members = func.json_each(column) if sqlite_there else func.json_array_elements_text(column)
    member = members.table_valued("value") if sqlite_there else members.table_valued("value").render_derived()
    return exists().where(member.c.value == text)


def storable(text: str, limit: int) -> str:
    """`text` as every database can keep it: at most `limit` characters, no NUL, no lone surrogates.

    Texts of errors quote names out of uploaded files, which may hold anything.
    """
    clean = text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"
