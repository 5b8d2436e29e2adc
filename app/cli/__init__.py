"""The command line: `bitbudget plan | apply | certify | audit | serve | submit | status | download | rm | ...`."""

from __future__ import annotations

import signal
import sys
from importlib.metadata import version
from types import FrameType
from typing import Annotated, NoReturn

import typer

from app.cli import auditing, certifying, describing, jobs, keys, planning, results, serving, submitting
from app.cli.exits import Exit
from app.cli.failures import say_failure
from app.cli.output import WrongUsage


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bitbudget {version('bitbudget')}")
        raise typer.Exit


app = typer.Typer(
    name="bitbudget",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for part in (planning, certifying, auditing, describing, submitting, jobs, results, serving, keys):
    part.register(app)


@app.callback()
def about(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Give it a network and how much accuracy you can spare; get back a smaller network that keeps the promise."""


_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> None:
    """The console script; docs/cli.md lists its exit statuses."""
    for number in _ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _leave)
    try:
        app()
    except Exception as error:
        if not say_failure(error):
            raise
        sys.exit(Exit.USAGE if isinstance(error, WrongUsage) else Exit.FAILED)


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    """End as a shell says that a signal ended a command, and clean up on the way."""
    raise SystemExit(128 + number)
