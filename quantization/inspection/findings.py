"""What an inspection says of a file."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """A defect makes the file wrong or keeps it from being what it claims; a warning costs; a note informs."""

    DEFECT = "defect"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """`code` is stable, `where` names a weight, node or output, `text` says what, expected and the remedy."""

    code: str
    where: str
    text: str
    severity: Severity


def defect(code: str, where: str, text: str) -> Finding:
    return Finding(code, where, text, Severity.DEFECT)


def warning(code: str, where: str, text: str) -> Finding:
    return Finding(code, where, text, Severity.WARNING)


def note(code: str, where: str, text: str) -> Finding:
    return Finding(code, where, text, Severity.NOTE)
