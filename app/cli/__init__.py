"""The command line: `bitbudget plan | apply | certify | audit | serve | submit | status | download | rm | ...`."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import NoReturn

import typer

from app.cli import auditing, certifying, describing, keys, planning, remote, serving
from app.cli.failures import say_failure

app = typer.Typer(
    name="bitbudget",
    help="Give it a network and how much accuracy you can spare; get back a smaller network that keeps the promise.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for part in (planning, certifying, auditing, describing, remote, serving, keys):
    part.register(app)

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
        sys.exit(1)


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    """End as a shell says that a signal ended a command, and clean up on the way."""
    raise SystemExit(128 + number)
