"""Results as HTML for a notebook. Names come out of uploaded files: everything is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from bitbudget_client.documents import Certificate

_WORDS = {"met": "the budget is met", "not_met": "the budget is not met", "deadline": "stopped at the deadline"}


def figures(certificate: Certificate) -> str:
    """The certificate in one line."""
    low, high = certificate.interval
    return (
        f"{certificate.metric} {certificate.float_value:.4g} to {certificate.quantized_value:.4g}, "
        f"drop {certificate.drop:+.4f} ({certificate.level:.0%} interval {low:+.4f} to {high:+.4f}), "
        f"allowed {certificate.max_drop:g}"
    )


def headline(sizes: str, outcome: str, reason: str | None, certificate: Certificate) -> str:
    """How it ended, in a line, and below it the certificate in words."""
    lines = [figures(certificate), *([reason] if reason else []), certificate.statement]
    head = f"<strong>{escape(sizes)}; {escape(_WORDS.get(outcome, outcome))}</strong>"
    return f"<p>{head}</p>" + "".join(f"<p>{escape(line)}</p>" for line in lines)


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table; nothing where there are no rows."""
    if not rows:
        return ""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(_text(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _text(cell: object) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float):
        return f"{cell:.2e}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)
