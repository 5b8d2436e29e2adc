"""The code blocks of pages that people copy from, and why some of them are not executed by the tests.

A block is executed unless the line above it says otherwise: `<!-- not executed: the reason -->`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXECUTED_LANGUAGES = ("sh", "", "python")
"""A block without a language is one of commands."""

_BLOCK = re.compile(
    r"(?:^<!-- not executed: (?P<reason>[^\n]+) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.M | re.S
)


@dataclass(frozen=True, slots=True)
class Block:
    """Code of a page; `reason` says why nobody executes it, None where the tests do."""

    page: Path
    language: str
    code: str
    reason: str | None


def pages(root: Path = ROOT) -> list[Path]:
    """The pages whose commands are executed."""
    return [root / "README.md", root / "docs/quickstart.md", *sorted((root / "docs/guides").glob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """The commands and programs of a page, in order; no examples of answers, which are JSON or plain text."""
    found = [Block(page, m["language"], m["code"], m["reason"]) for m in _BLOCK.finditer(page.read_text())]
    return [block for block in found if block.language in EXECUTED_LANGUAGES]
