"""Jobs on the terminal: one in a few lines, many as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.filesize import decimal
from rich.table import Column, Table
from rich.text import Text

from app.cli.output import CONSOLE, plain, printable
from app.cli.plan_view import show_headline
from app.cli.progress import time_left

Document = Mapping[str, Any]
"""A job as the API shows it."""


def show_job(job: Document) -> None:
    """What the job came to; or how it goes; or why it failed."""
    state = job["state"] if job["outcome"] is None else f"{job['state']} ({job['outcome']})"
    CONSOLE.print(Text.assemble(f"job {printable(job['id'])}: ", (printable(state), "bold")), highlight=False)
    if job["summary"] is not None:
        show_headline(job["summary"])
    if job["state"] == "running":
        left = time_left(job["eta_seconds"])
        CONSOLE.print(f"  {plain(job['stage'])}, {job['progress']:.0%}{', ' + left if left else ''}", highlight=False)
    if job["estimate"] is not None and job["outcome"] is None:
        CONSOLE.print(f"  {_expected(job['estimate'])}", highlight=False)
    if job["error"] is not None:
        CONSOLE.print(f"  {plain(job['error']['title'])}: {plain(job['error']['detail'])}", soft_wrap=True)


def show_jobs(jobs: Sequence[Document]) -> None:
    """A table of jobs, the newest first, that fits into 80 columns."""
    # The id is there to be copied: the other columns give way.
    named = any(job["name"] for job in jobs)
    widths = {"job": 32, **({"name": 12} if named else {}), "state": 11, "drop": 13, "size": 8}
    columns = [Column(name, width=width, no_wrap=True) for name, width in widths.items()]
    columns[-1].justify = "right"
    table = Table(*columns, box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for job in jobs:
        summary = job["summary"] or {}
        cells = (job["id"], *([job["name"] or ""] * named), _state(job), _drop(summary), _size(summary))
        table.add_row(*map(plain, cells))
    CONSOLE.print(table)


def _state(job: Document) -> str:
    if job["state"] == "running":
        return f"running {job['progress']:.0%}"
    return str(job["outcome"] or job["state"])


def _drop(summary: Mapping[str, Any]) -> str:
    certificate = summary.get("certificate")
    return f"{certificate['drop']:.3g} {certificate['metric']}" if certificate else ""


def _size(summary: Mapping[str, Any]) -> str:
    return decimal(summary["size_bytes"]) if "size_bytes" in summary else ""


def _expected(estimate: Mapping[str, Any]) -> str:
    return f"it was estimated at {estimate['seconds']:,.0f} s and {estimate['memory_bytes'] / 1e6:,.0f} MB"
