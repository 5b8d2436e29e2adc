"""What went wrong with a command, in words."""

from __future__ import annotations

import sys

from pydantic import ValidationError

from app.cli.output import Refused, complain
from bitbudget_client import BitbudgetError, Problem, Unreachable


def say_failure(error: Exception) -> bool:
    """Say it on standard error; False, and nothing said, for what is a fault of this program."""
    match error:
        case Problem():
            complain(error.title, error.detail, code=error.code)
        case Refused():
            title, detail = (error.title, str(error)) if error.title else (str(error), "")
            complain(title, detail, code=error.code)
        case ValidationError():
            complain("The settings are not valid", "; ".join(_setting_error(dict(entry)) for entry in error.errors()))
        case Unreachable():
            detail = f"{error}. Start one with `bitbudget serve`, or give its address with --server."
            complain("The server does not answer", detail, code="unreachable")
        case BitbudgetError() | OSError():
            complain(str(error))
        case _ if _is_of_database(error):
            complain("The database does not answer", f"{getattr(error, 'orig', error)}. See BITBUDGET_DATABASE_URL.")
        case _:
            return False
    return True


def _setting_error(entry: dict[str, object]) -> str:
    location = entry.get("loc")
    name = ".".join(str(part) for part in location) if isinstance(location, tuple) else ""
    message = str(entry.get("msg", "")).removeprefix("Value error, ")
    return f"BITBUDGET_{name.upper()}: {message}" if name else message


def _is_of_database(error: Exception) -> bool:
    """Whether the database is away; whoever did not load SQLAlchemy has none."""
    errors = sys.modules.get("sqlalchemy.exc")
    return errors is not None and isinstance(error, errors.OperationalError)
