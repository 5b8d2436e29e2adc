"""`bitbudget status`, `cancel`, `rm`, `events` and `logs`: how jobs go, and their end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from typing import Annotated, Any

import typer

from app.cli.connection import JobsOptions, ServerOptions
from app.cli.exits import conclude
from app.cli.job_view import show_job, show_jobs
from app.cli.options import takes
from app.cli.output import Shown, say, show_json
from app.cli.progress import event_line, follow
from bitbudget_client import Client, Event

LISTED = 20
LOG_LINES = 1_000

JobId = Annotated[str, typer.Argument(metavar="JOB", help="The id of a job.")]
JobIds = Annotated[list[str], typer.Argument(metavar="JOB...", help="Ids of jobs.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (status, cancel, rm, events, logs):
        app.command()(command)


@takes(at=JobsOptions, shown=Shown)
def status(
    job_id: Annotated[
        str | None, typer.Argument(metavar="[JOB]", help="The job; without it, the newest ones are listed.")
    ] = None,
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Show progress until the job has ended.")] = False,
    name: Annotated[str | None, typer.Option(help="List only jobs of this name.", show_default="any")] = None,
    tag: Annotated[str | None, typer.Option(help="List only jobs with this tag.", show_default="any")] = None,
    at: JobsOptions,
    shown: Shown,
) -> None:
    """Say how a job is, or list jobs. With --wait the exit status says how it ended."""
    with at.client() as client:
        if job_id is None:
            rows = [job.document for job in islice(client.jobs(limit=LISTED, name=name, tag=tag), LISTED)]
            return show_json(rows) if shown.as_json else show_jobs(rows)
        job = follow(client, job_id) if wait else client.job(job_id)
    if shown.as_json:
        show_json(job.document)
    else:
        show_job(job.document)
    if wait:
        conclude(job)
    return None


@takes(at=JobsOptions, shown=Shown)
def cancel(job_ids: JobIds, *, at: JobsOptions, shown: Shown) -> None:
    """Cancel jobs: at once those that wait, within seconds those that run."""
    with at.client() as client:
        jobs = [client.cancel(job_id).document for job_id in job_ids]
    if shown.as_json:
        show_json(jobs)


@takes(at=JobsOptions, shown=Shown)
def rm(job_ids: JobIds, *, at: JobsOptions, shown: Shown) -> None:
    """Remove jobs that have ended, with all that they gave; their models and data stay."""
    with at.client() as client:
        for job_id in job_ids:
            client.delete_job(job_id)
    if shown.as_json:
        show_json({"removed": job_ids})


@takes(at=ServerOptions, shown=Shown)
def events(job_id: JobId, *, at: ServerOptions, shown: Shown) -> None:
    """Follow what happens to a job, until it has ended; with --json one object on each line."""
    with at.client() as client:
        for event in client.events(job_id):
            if shown.as_json:
                _print_line({"event": event.kind, "data": event.data})
            elif line := _event_text(event):
                say(line)


@takes(at=JobsOptions, shown=Shown)
def logs(job_id: JobId, *, at: JobsOptions, shown: Shown) -> None:
    """Print what the workers said about a job; with --json one object on each line."""
    with at.client() as client:
        for line in _log_lines(client, job_id):
            if shown.as_json:
                _print_line(line)
            else:
                say(f"{line['at'][:19]}Z {line['level'].upper():7} {line['text']}")


def _event_text(event: Event) -> str | None:
    line = event_line(event)
    return line if line is None else f"{event.data['at'][:19]}Z {line}"


def _log_lines(client: Client, job_id: str) -> Iterator[dict[str, Any]]:
    after = 0
    while page := client.text(f"/v1/jobs/{job_id}/log", after=after, limit=LOG_LINES).splitlines():
        lines = [json.loads(line) for line in page]
        yield from lines
        after = lines[-1]["seq"]


def _print_line(value: Any) -> None:
    typer.echo(json.dumps(value))
