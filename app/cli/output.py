"""What every command writes with: to standard output, to standard error, as text or as JSON.

Names of layers and files come from whoever made the network. Nothing of them reaches the terminal as a command: neither
control characters nor rich's markup (`plain`).
"""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.text import Text

CONSOLE = Console()
ERRORS = Console(stderr=True)


class Refused(Exception):
    """The command cannot do this; the text says why and what to do.

    `title` and `code` are those of the catalogue of errors, where the service refuses the same.
    """

    def __init__(self, detail: str, *, title: str = "", code: str = "refused") -> None:
        super().__init__(detail)
        self.title = title
        self.code = code


def printable(value: object) -> str:
    """The text of `value`, with control and other invisible characters as escapes."""
    shown = (c if c.isprintable() or c == "\n" else c.encode("unicode_escape", "replace").decode() for c in str(value))
    return "".join(shown)


def plain(value: object) -> str:
    """The printable text of `value` for a line of markup, its own markup as it is written. No tag may follow it."""
    return escape(printable(value) + " ")[:-1]  # `escape` would double a backslash at the end


def complain(title: str, detail: str = "") -> None:
    """Say on standard error what went wrong."""
    text = Text.assemble((printable(title), "bold red"), f": {printable(detail)}" if detail else "")
    ERRORS.print(text, soft_wrap=True)


def show_json(value: Any) -> None:
    """One JSON value on standard output."""
    CONSOLE.print_json(json.dumps(value), ensure_ascii=True)
