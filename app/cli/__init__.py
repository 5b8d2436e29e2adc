"""The command line: `bitbudget plan | apply | certify | audit | serve | submit | status | download | rm | ...`."""

from __future__ import annotations

import sys

import httpx
import typer
from pydantic import ValidationError
from sqlalchemy.exc import OperationalError

from app.cli import auditing, certifying, keys, planning, remote, serving
from app.cli.client import ServerProblem
from app.cli.output import Refused, complain

app = typer.Typer(
    name="bitbudget",
    help="Give it a network and how much accuracy you can spare; get back a smaller network that keeps the promise.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
planning.register(app)
certifying.register(app)
auditing.register(app)
remote.register(app)
serving.register(app)
keys.register(app)


def main() -> None:
    """The console script. Exit status: 0 done, 1 an error that was printed, 2 wrong usage, 3 budget not met."""
    try:
        app()
    except ServerProblem as error:
        complain(error.title, error.detail)
    except Refused as error:
        complain(str(error))
    except ValidationError as error:
        complain("The settings are not valid", "; ".join(_setting_error(dict(entry)) for entry in error.errors()))
    except httpx.TransportError as error:
        where = f"{error.request.url.scheme}://{error.request.url.netloc.decode()}" if _has_request(error) else "it"
        complain(
            "The server does not answer",
            f"{where}: {error}. Start one with `bitbudget serve`, or give its address with --server.",
        )
    except OperationalError as error:
        complain("The database does not answer", f"{error.orig}. See BITBUDGET_DATABASE_URL.")
    sys.exit(1)


def _setting_error(entry: dict[str, object]) -> str:
    location = entry.get("loc")
    name = ".".join(str(part) for part in location) if isinstance(location, tuple) else ""
    message = str(entry.get("msg", "")).removeprefix("Value error, ")
    return f"BITBUDGET_{name.upper()}: {message}" if name else message


def _has_request(error: httpx.TransportError) -> bool:
    return getattr(error, "_request", None) is not None
