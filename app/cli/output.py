"""What every command writes with: to standard output, to standard error, as text or as JSON.

Names of layers and files come from whoever made the network. Nothing of them reaches the terminal as a command: neither
control characters nor rich's markup (`plain`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text

CONSOLE = Console()
ERRORS = Console(stderr=True)
PROGRESS = Console(stderr=True)
"""For what only says how things go on: `--quiet` silences it."""


@dataclass
class Mode:
    """How this process shows things; set once, when the options of its command are read."""

    as_json: bool = False


MODE = Mode()


def _set_json(value: bool) -> bool:
    MODE.as_json = value
    return value


def _set_quiet(value: bool) -> bool:
    PROGRESS.quiet = value
    return value


AsJson = Annotated[
    bool,
    typer.Option("--json", callback=_set_json, help="Print the result as JSON, and an error as JSON, too."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", callback=_set_quiet, help="Say nothing about progress.")]


@dataclass(frozen=True, slots=True)
class Shown:
    """Options of what is shown."""

    as_json: AsJson = False
    quiet: Quiet = False


class Refused(Exception):
    """The command cannot do this; the text says why and what to do.

    `title` and `code` are those of the catalogue of errors, where the service refuses the same.
    """

    def __init__(self, detail: str, *, title: str = "", code: str = "refused") -> None:
        super().__init__(detail)
        self.title = title
        self.code = code


class WrongUsage(Refused):
    """The value of an option, or a file that one names, cannot be read."""


def printable(value: object) -> str:
    """The text of `value`, with control and other invisible characters as escapes."""
    shown = (c if c.isprintable() or c == "\n" else c.encode("unicode_escape", "replace").decode() for c in str(value))
    return "".join(shown)


def plain(value: object) -> str:
    """The printable text of `value` for a line of markup, its own markup as it is written. No tag may follow it."""
    return escape(printable(value) + " ")[:-1]  # `escape` would double a backslash at the end


def complain(title: str, detail: str = "", *, code: str = "failed") -> None:
    """Say on standard error what went wrong; after `--json` as a problem (RFC 9457) on a line of its own."""
    if MODE.as_json:
        ERRORS.out(json.dumps({"code": code, "title": title, "detail": detail}), highlight=False)
        return
    text = Text.assemble((printable(title), "bold red"), f": {printable(detail)}" if detail else "")
    ERRORS.print(text, soft_wrap=True)


def say(line: object) -> None:
    """One line on standard output, as it is."""
    CONSOLE.print(plain(line), soft_wrap=True, highlight=False)


def show_json(value: Any) -> None:
    """One JSON value on standard output."""
    CONSOLE.print_json(json.dumps(value), ensure_ascii=True)
