"""What `bitbudget keys` and `bitbudget projects` do. Loads the database."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from rich.table import Column, Table

from app.access import projects
from app.access.keys import create_key, list_keys, revoke_key
from app.access.roles import Role
from app.cli.output import CONSOLE, ERRORS, Refused, Shown, plain, say, show_json
from app.errors import AppError
from app.schemas.access import Key
from app.settings import Settings
from app.store.access import find_any_key
from app.store.engine import Sessions, open_sessions
from app.store.migrate import upgrade
from app.store.tables import KeyRow, ProjectRow

_DURATION = re.compile(r"([1-9][0-9]{0,4})([dhm])")
_UNITS = {"d": "days", "h": "hours", "m": "minutes"}


def create(project: str, role: Role, expires: str | None, label: str | None, shown: Shown) -> None:
    """Make a key and print it."""
    valid_for = None if expires is None else duration(expires)
    if label is not None and not (1 <= len(label) <= 255 and label.isprintable()):
        raise Refused("a label has 1 to 255 characters that can be printed")
    with _database() as sessions:
        row, text = create_key(
            sessions.of(projects.ensure_project(sessions, project).id), role, label=label, valid_for=valid_for
        )
    if shown.as_json:
        show_json({"key": text, "project": project, **_key(row)})
        return
    ERRORS.print(f"key {row.id}, {role} of {plain(project)}, valid {_until(row.expires_at)}; it is shown only now:")
    CONSOLE.print(text, highlight=False, soft_wrap=True)


def list_all(project: str | None, shown: Shown) -> None:
    """The keys of a project, or of all."""
    with _database() as sessions:
        chosen = projects.list_projects(sessions) if project is None else [projects.find_project(sessions, project)]
        rows = [(one.name, key) for one in chosen for key in list_keys(sessions.of(one.id))]
    if shown.as_json:
        show_json([{"project": name, **_key(key)} for name, key in rows])
        return
    table = Table(Column("id", no_wrap=True), "project", "role", "label", "made", "valid", "last used")
    for name, key in rows:
        valid = "revoked" if key.revoked_at is not None else _until(key.expires_at)
        used = "never" if key.used_at is None else _shown(key.used_at)
        cells = (key.id, name, key.role, key.label or "", _shown(key.created_at), valid, used)
        table.add_row(*map(plain, cells))
    CONSOLE.print(table)


def revoke(key_id: str, shown: Shown) -> None:
    """End a key."""
    with _database() as sessions:
        with sessions.read() as session:
            known = find_any_key(session, key_id)
        if known is None:
            raise Refused(f"no key has the id {key_id[:64]!r}; `bitbudget keys list` lists them")
        row = revoke_key(sessions.of(known[1].id), key_id)
    if shown.as_json:
        show_json(_key(row))
    else:
        say(f"the key {key_id} is revoked")


def list_projects(shown: Shown) -> None:
    """The projects with their quotas."""
    with _database() as sessions:
        _show_projects(projects.list_projects(sessions), shown)


def set_limits(name: str, given: Mapping[str, str | None], shown: Shown) -> None:
    """Give a project those quotas that are not None: numbers, or `none`."""
    limits = {limit: _number(limit, text) for limit, text in given.items() if text is not None}
    if not limits:
        raise Refused("nothing to set; give at least one of the options, e.g. --max-queued 100")
    with _database() as sessions:
        _show_projects([projects.set_limits(sessions, name, limits)], shown)


def _show_projects(rows: Sequence[ProjectRow], shown: Shown) -> None:
    """A table of projects."""
    if shown.as_json:
        show_json([{name: getattr(row, name) for name in ("name", *projects.LIMITS)} for row in rows])
        return
    table = Table("project", *(limit.replace("_", " ") for limit in projects.LIMITS))
    for row in rows:
        values = (getattr(row, limit) for limit in projects.LIMITS)
        table.add_row(plain(row.name), *("-" if value is None else str(value) for value in values))
    CONSOLE.print(table)


def duration(text: str) -> timedelta:
    """A duration from text like `90d`, `12h` or `30m`.

    Raises:
        Refused: it is none of these.
    """
    parts = _DURATION.fullmatch(text)
    if parts is None:
        raise Refused(f"--expires takes days, hours or minutes like 90d, 12h or 30m, got {text!r}")
    return timedelta(**{_UNITS[parts[2]]: int(parts[1])})


def _key(row: KeyRow) -> dict[str, Any]:
    """As the API shows it."""
    return Key(**{name: getattr(row, name) for name in Key.model_fields}).model_dump(mode="json")


@contextmanager
def _database() -> Iterator[Sessions]:
    """The database of the settings; errors of the service are those of the command."""
    settings = Settings()
    if settings.database_url.startswith("sqlite"):
        upgrade(settings.database_url)
    sessions = open_sessions(settings.database_url)
    try:
        yield sessions
    except AppError as error:
        raise Refused(error.detail) from None
    finally:
        sessions.dispose()


def _number(limit: str, text: str) -> int | None:
    if text == "none":
        return None
    try:
        return int(text)
    except ValueError:
        raise Refused(f"--{limit.replace('_', '-')} takes a number or none, got {text!r}") from None


def _until(expires_at: datetime | None) -> str:
    return "until revoked" if expires_at is None else f"until {_shown(expires_at)}"


def _shown(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M}Z"
