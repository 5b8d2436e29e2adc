"""What the tests of the pages share: reading tables, code blocks and sections out of Markdown."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CELL_BORDER = re.compile(r"(?<!\\)\|")


@dataclass(frozen=True)
class Page:
    """One page of `docs/`."""

    path: Path
    text: str

    def section(self, title: str) -> str:
        """What stands under the heading `title`, down to the next heading of its level."""
        found = re.search(rf"^(#+) {re.escape(title)}$", self.text, re.MULTILINE)
        assert found, f"{self.path.name} has no section {title!r}"
        # Comments in code look like headings.
        prose = _FENCE.sub(lambda block: block[0].replace("#", " "), self.text)
        end = re.search(rf"^#{{1,{len(found[1])}}} ", prose[found.end() :], re.MULTILINE)
        return self.text[found.end() : found.end() + end.start() if end else None]

    def rows(self, title: str) -> list[list[str]]:
        """The rows of all tables in a section, without their heads, as lists of cells."""
        rows = []
        lines = self.section(title).splitlines()
        for number, line in enumerate(lines):
            head = number + 1 < len(lines) and lines[number + 1].startswith("|---")
            if line.startswith("|") and not line.startswith("|---") and not head:
                rows.append([cell.strip().replace("\\|", "|") for cell in _CELL_BORDER.split(line)[1:-1]])
        return rows

    def blocks(self, language: str) -> list[str]:
        """The code blocks of this language."""
        return [body for kind, body in _FENCE.findall(self.text) if kind == language]


@pytest.fixture
def page() -> Callable[[str], Page]:
    """`page("api")`: the page docs/api.md."""

    def read(name: str) -> Page:
        path = DOCS / f"{name}.md"
        return Page(path, path.read_text())

    return read


@pytest.fixture
def documented() -> list[Page]:
    """Every page of the documentation, and those of the root folder."""
    paths = [*sorted(DOCS.parent.glob("*.md")), *sorted(DOCS.rglob("*.md"))]
    return [Page(path, path.read_text()) for path in paths]
