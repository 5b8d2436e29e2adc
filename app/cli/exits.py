"""How commands end: docs/cli.md lists the same for users."""

from __future__ import annotations

from enum import IntEnum

import typer

from app.cli.output import complain
from app.schemas.headline import reason
from bitbudget_client import Job


class Exit(IntEnum):
    """The status of a command; one that a signal ended has 128 and its number."""

    DONE = 0
    FAILED = 1
    """It, or the job that it waited for."""
    USAGE = 2
    NOT_MET = 3
    CANCELLED = 4
    """The job that it waited for."""


def conclude(job: Job) -> None:
    """Say how a job ended that was waited for, and end the command with the status that says the same.

    Raises:
        typer.Exit: the budget is not met, or there is no result.
    """
    if job.outcome == "met":
        return
    if job.succeeded:
        why = reason(job.summary or {}) or "the best plan was delivered all the same"
        complain("The budget is not met", f"{job.outcome}: {why}", code=f"budget_{job.outcome}")
        raise typer.Exit(Exit.NOT_MET)
    if job.state == "cancelled":
        complain("The job was cancelled", job.id, code="job_cancelled")
        raise typer.Exit(Exit.CANCELLED)
    error = job.document["error"]
    complain(error["title"], error["detail"], code=error["code"])
    raise typer.Exit(Exit.FAILED)
