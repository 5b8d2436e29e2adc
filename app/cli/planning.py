"""`bitbudget plan` and `apply`: one job from file to file, through the service with everything embedded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from app.cli import options
from app.cli.changes import Changes, with_changes
from app.cli.client import Client, Job
from app.cli.extras import require_worker
from app.cli.http import private_server
from app.cli.options import AppliedOptions, JobOptions, merged, read_object, takes
from app.cli.output import CONSOLE, ERRORS, job_bar, plain, show_json, show_plan
from app.cli.remote import Files, conclude, read_plan, submitted
from app.embedded import Embedded
from app.logs import configure_logging
from app.schemas.plan import applied_request
from app.settings import Settings
from app.store.migrate import upgrade
from app.store.private import private_file

POLL_SECONDS = 0.2

Collected = TypeVar("Collected")

Out = Annotated[Path, typer.Option(help="Folder for model.onnx, plan.json, plan.csv and the rest.", file_okay=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print the job as JSON.")]
Pipeline = Annotated[str | None, typer.Option(hidden=True)]
PlanFile = Annotated[Path, typer.Argument(help="A plan.json, edited or not.", exists=True, dir_okay=False)]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(plan)
    app.command()(apply)


@takes(JobOptions)
def plan(
    model: options.Model,
    *,
    out: Out,
    data: options.Data = None,
    given: JobOptions,
    as_json: AsJson = False,
    pipeline: Pipeline = None,
) -> None:
    """Quantize one network within an accuracy budget, on this machine, and write the results to a folder.

    The analysis is kept (BITBUDGET_HOME), so that another budget for the same network and data takes little.
    Exit status: 0 the budget is met, 3 it is not and the best effort was written, 1 an error.
    """
    _run(given.body(), Files(model, data, given.metric_graph), out, as_json, pipeline)


@takes(AppliedOptions)
def apply(
    model: options.Model,
    plan: PlanFile,
    *,
    out: Out,
    data: options.Data = None,
    change: Changes = None,
    given: AppliedOptions,
    as_json: AsJson = False,
    pipeline: Pipeline = None,
) -> None:
    """Quantize one network as a plan says, without any search, and measure the result on held-out samples.

    The plan may name only some layers, if it says what the others get: "base": "float32", or the id of a job.
    Budget, rounding, ranges of activations, target, opset and seed are those of the job that made the plan, if the
    file has them; options override.
    Exit status: 0 the budget is met, 3 it is not (the file was written all the same), 1 an error.
    """
    changed = with_changes(read_object(plan), change or [])
    _run(applied_body(changed, given), Files(model, data, given.metric_graph), out, as_json, pipeline)


def applied_body(plan: Mapping[str, Any], options: AppliedOptions) -> dict[str, Any]:
    """The request that applies `plan` as the job that delivered it did, but for what the options say."""
    body = applied_request(plan)
    return {**merged(body, options.body()), "plan": body["plan"]}


def _run(body: Mapping[str, Any], files: Files, out: Path, as_json: bool, pipeline: str | None) -> None:
    """One job through the service, with everything embedded."""
    job, _ = run_here(
        lambda client: submitted(client, body, files), lambda client, made: client.download(made, out), pipeline
    )
    _conclude(job, out, as_json)


def run_here(
    make: Callable[[Client], Job], collect: Callable[[Client, str], Collected], pipeline: str | None
) -> tuple[Job, Collected | None]:
    """One job through the service, with everything embedded: how it ended, and what `collect` took of its results,
    None where there are none."""
    # The bar shows how the job goes; what remains is worth a line only when something is wrong.
    configure_logging(level="error", form="text")
    require_worker()
    settings = Settings()
    upgrade(settings.database_url)
    log = settings.home / "worker.log"
    private_file(log)
    arguments = () if pipeline is None else ("--pipeline", pipeline)
    with Embedded(settings, worker_arguments=arguments, worker_log=log) as embedded, private_server(settings) as client:
        runs_here = embedded.start()
        if not runs_here:
            ERRORS.print(f"the worker of {embedded.lock_holder()} takes the job", highlight=False)
        job = make(client)
        with job_bar() as bar:
            job = _follow(client, embedded, str(job["id"]), bar)
        return job, collect(client, str(job["id"])) if job["state"] == "succeeded" else None


def _follow(client: Client, embedded: Embedded, job_id: str, bar: Callable[[Job], None]) -> Job:
    def show(job: Job) -> None:
        bar(job)
        # Another process ran the worker of this home when the job was made; it may have gone since.
        embedded.start()

    try:
        return client.follow(job_id, show, POLL_SECONDS)
    except KeyboardInterrupt:
        client.cancel(job_id)
        raise


def _conclude(job: Job, out: Path, as_json: bool) -> None:
    if as_json:
        show_json(job)
    elif job["state"] == "succeeded":
        show_plan(read_plan(out))
        CONSOLE.print(f"quantized network: {plain(out / 'model.onnx')}", soft_wrap=True, highlight=False)
    conclude(job)
