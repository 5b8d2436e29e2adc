"""`bitbudget submit` and `replan`: jobs of a server that are not waited for; and how the files of any job are sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli import options
from app.cli.connection import ServerOptions
from app.cli.options import JobOptions, merged, takes
from app.cli.output import Shown, say, show_json
from app.cli.progress import upload_progress
from app.schemas.parsing import merge
from bitbudget_client import Client, Job

Name = Annotated[str | None, typer.Option(help="What to call the job.", show_default="none")]
Tag = Annotated[list[str] | None, typer.Option(help="A tag of the job; may be given several times.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(submit)
    app.command()(replan)


@dataclass(frozen=True, slots=True)
class Files:
    """What a job is about: a network, its samples, and a metric graph; None where there is none."""

    model: Path
    data: Path | None = None
    metric: Path | None = None


@takes(given=JobOptions, at=ServerOptions, shown=Shown)
def submit(
    model: options.Model,
    *,
    data: options.Data = None,
    given: JobOptions,
    name: Name = None,
    tag: Tag = None,
    at: ServerOptions,
    shown: Shown,
) -> None:
    """Upload a network and its data to a server and make a job; prints the job's id."""
    body = merged(given.body(), {"name": name, "tags": tag})
    with at.client() as client:
        job = submitted(client, body, Files(model, data, given.metric_graph))
    _show_made(job, shown)


@takes(given=JobOptions, at=ServerOptions, shown=Shown)
def replan(
    job_id: Annotated[str, typer.Argument(metavar="JOB", help="A job that searched for a plan or applied one.")],
    *,
    given: JobOptions,
    name: Name = None,
    tag: Tag = None,
    at: ServerOptions,
    shown: Shown,
) -> None:
    """Ask another question about the model and data of a job; what was analysed is used again. Prints the new job's id.

    What the options leave out stays as in that job.
    """
    body = merged(given.changes(), {"name": name, "tags": tag})
    with at.client() as client:
        if given.metric_graph is not None:
            body = merge(body, {"budget": {"metric_id": _upload(client, "model", given.metric_graph)}})
        job = client.post_job(f"/v1/jobs/{job_id}/replan", body)
    _show_made(job, shown)


def submitted(client: Client, body: Mapping[str, Any], files: Files, key: str | None = None) -> Job:
    """The job of this request, made once its files are uploaded; a metric graph takes the place of another metric."""
    ids = uploaded(client, {"model": files.model, "dataset": files.data}, files.metric)
    return client.post_job("/v1/jobs", merge(body, ids), key)


def uploaded(client: Client, files: Mapping[str, Path | None], metric: Path | None) -> dict[str, Any]:
    """The members of a request that name these files, once they are there: `model`, `quantized`, `dataset`."""
    ids: dict[str, Any] = {
        f"{part}_id": _upload(client, "dataset" if part == "dataset" else "model", path)
        for part, path in files.items()
        if path is not None
    }
    if metric is not None:
        ids["budget"] = {"metric_id": _upload(client, "model", metric)}
    return ids


def _upload(client: Client, kind: str, path: Path) -> str:
    send = client.upload_model if kind == "model" else client.upload_dataset
    with upload_progress() as sent:
        return send(path, sent=sent).id


def _show_made(job: Job, shown: Shown) -> None:
    if shown.as_json:
        show_json(job.document)
    else:
        say(job.id)
