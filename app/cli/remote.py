"""`bitbudget submit`, `status`, `download` and `rm`: jobs of a server that runs somewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli import options
from app.cli.certificate_view import show_certificate
from app.cli.client import DEFAULT_SERVER, Client, Job
from app.cli.job_view import show_job, show_jobs
from app.cli.options import JobOptions, takes
from app.cli.output import CONSOLE, complain, plain, show_json
from app.cli.plan_view import show_plan
from app.cli.progress import job_progress, upload_bar
from app.schemas.parsing import merge
from bitbudget_client.data_files import with_data_files

POLL_SECONDS = 0.5
NOT_MET = 3

Server = Annotated[str, typer.Option(envvar="BITBUDGET_SERVER", help="Address of the server.")]
Key = Annotated[
    str | None,
    typer.Option(envvar="BITBUDGET_KEY", help="The key that the server asks for.", show_default="none"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (submit, status, download, rm):
        app.command()(command)


@takes(JobOptions)
def submit(
    model: options.Model,
    *,
    data: options.Data = None,
    given: JobOptions,
    name: Annotated[str | None, typer.Option(help="What to call the job.", show_default="none")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag of the job; may be given several times.")] = None,
    server: Server = DEFAULT_SERVER,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Upload a network and its data to a server and make a job; prints the job's id."""
    body = merge(given.body(), {label: value for label, value in {"name": name, "tags": tag}.items() if value})
    with Client(server, key=key) as client:
        job = submitted(client, body, Files(model, data, given.metric_graph))
    if as_json:
        show_json(job)
    else:
        CONSOLE.print(plain(job["id"]), highlight=False)


def status(
    job_id: Annotated[str | None, typer.Argument(help="The job; without it, the newest ones are listed.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Show progress until the job has ended.")] = False,
    name: Annotated[str | None, typer.Option(help="List only jobs of this name.", show_default="any")] = None,
    tag: Annotated[str | None, typer.Option(help="List only jobs with this tag.", show_default="any")] = None,
    server: Server = DEFAULT_SERVER,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Say how a job is. With --wait the exit status says how it ended: 0 met, 3 not met, 1 failed or cancelled."""
    with Client(server, key=key) as client:
        if job_id is None:
            jobs = client.jobs(limit=20, name=name, tag=tag)
            return show_json(jobs) if as_json else show_jobs(jobs)
        if wait:
            with job_progress() as bar:
                job = client.follow(job_id, bar, POLL_SECONDS)
        else:
            job = client.job(job_id)
    if as_json:
        show_json(job)
    else:
        show_job(job)
    if wait and not (job["state"] == "succeeded" and job["outcome"] == "met"):
        raise typer.Exit(NOT_MET if job["state"] == "succeeded" else 1)
    return None


def download(
    job_id: Annotated[str, typer.Argument(help="A job that has succeeded.")],
    out: Annotated[
        Path, typer.Option(help="Folder for model.onnx, plan.json, plan.csv and the rest.", file_okay=False)
    ],
    server: Server = DEFAULT_SERVER,
    key: Key = None,
) -> None:
    """Write the results of a job to a folder."""
    with Client(server, key=key) as client:
        paths = client.download(job_id, out)
    if [path.name for path in paths] == ["certificate.json"]:
        show_certificate(json.loads(paths[0].read_bytes()))
    else:
        show_plan(read_plan(out))
    for path in paths:
        CONSOLE.print(plain(path), soft_wrap=True, highlight=False)


def rm(
    job_ids: Annotated[list[str], typer.Argument(metavar="JOB...", help="Jobs that have ended.")],
    server: Server = DEFAULT_SERVER,
    key: Key = None,
) -> None:
    """Remove jobs with all that they gave; their models and data stay."""
    with Client(server, key=key) as client:
        for job_id in job_ids:
            client.remove(job_id)


@dataclass(frozen=True, slots=True)
class Files:
    """What a job is about: a network, its samples, and a metric graph; None where there is none."""

    model: Path
    data: Path | None = None
    metric: Path | None = None


def submitted(client: Client, body: Mapping[str, Any], files: Files, key: str | None = None) -> Job:
    """The job of this request, made once its files are uploaded; a metric graph takes the place of another metric."""
    uploads: dict[str, Any] = {"model_id": upload(client, "model", files.model)}
    if files.data is not None:
        uploads["dataset_id"] = upload(client, "dataset", files.data)
    if files.metric is not None:
        uploads["budget"] = {"metric_id": upload(client, "model", files.metric)}
    return client.submit(merge(body, uploads), key=key)


def upload(client: Client, kind: str, path: Path) -> str:
    """Upload a file under a bar and return its id; a model with the data files of its tensors."""
    with with_data_files(path) if kind == "model" else nullcontext(path) as file, upload_bar(file) as sent:
        return client.upload(kind, file, sent, path.name)


def read_plan(folder: Path) -> Mapping[str, Any]:
    """The plan that was downloaded into `folder`."""
    plan: Mapping[str, Any] = json.loads((folder / "plan.json").read_bytes())
    return plan


def conclude(job: Job) -> None:
    """Say how a job ended that was waited for, and end the command with the status that says the same.

    Raises:
        typer.Exit: 3 when the budget is not met, 1 when there is no result.
    """
    if job["state"] == "succeeded":
        if job["outcome"] != "met":
            complain("The budget is not met", f"{job['outcome']}; the best plan was written")
            raise typer.Exit(NOT_MET)
        return
    error = job["error"]
    if error is None:
        complain(f"The job was {job['state']}")
    else:
        complain(error["title"], error["detail"])
    raise typer.Exit(1)
