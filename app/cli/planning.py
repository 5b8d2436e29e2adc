"""`bitbudget plan`: one job from file to file, through the service with everything embedded."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli import options
from app.cli.client import Client, Job
from app.cli.http import private_server
from app.cli.options import JobOptions
from app.cli.output import CONSOLE, ERRORS, JobBar, job_bar, plain, show_json, show_plan
from app.cli.remote import conclude, read_plan, upload
from app.embedded import Embedded
from app.logs import configure_logging
from app.settings import Settings
from app.store.migrate import upgrade
from app.store.private import private_file

POLL_SECONDS = 0.2


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(plan)


def plan(
    model: options.Model,
    out: Annotated[
        Path, typer.Option(help="Folder for model.onnx, plan.json, plan.csv and the rest.", file_okay=False)
    ],
    data: options.Data = None,
    max_drop: options.MaxDrop = None,
    metric: options.MetricOption = None,
    relative: options.Relative = False,
    confidence: options.Confidence = None,
    objective: options.ObjectiveOption = None,
    bits: options.Bits = None,
    activation_bits: options.ActivationBits = None,
    rounding: options.RoundingOption = None,
    granularity: options.GranularityOption = None,
    keep: options.Keep = None,
    deadline: options.Deadline = None,
    seed: options.Seed = None,
    request: options.Request = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the job as JSON.")] = False,
    pipeline: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Quantize one network within an accuracy budget, on this machine, and write the results to a folder.

    The analysis is kept (BITBUDGET_HOME), so that another budget for the same network and data takes little.
    Exit status: 0 the budget is met, 3 it is not and the best effort was written, 1 an error.
    """
    # The bar shows how the job goes; what remains is worth a line only when something is wrong.
    configure_logging(logging.ERROR)
    job_options = JobOptions(
        max_drop,
        metric,
        relative,
        confidence,
        objective,
        bits,
        activation_bits,
        rounding,
        granularity,
        keep,
        deadline,
        seed,
        request,
    )
    body = job_options.body()
    settings = Settings()
    upgrade(settings.database_url)
    log = settings.home / "worker.log"
    private_file(log)
    arguments = () if pipeline is None else ("--pipeline", pipeline)
    with Embedded(settings, worker_arguments=arguments, worker_log=log) as embedded, private_server(settings) as client:
        runs_here = embedded.start()
        if not runs_here:
            ERRORS.print(f"the worker of {embedded.lock_holder()} takes the job", highlight=False)
        job = _submit(client, body, model, data)
        with job_bar() as bar:
            job = _follow(client, embedded, str(job["id"]), bar)
        if job["state"] == "succeeded":
            client.download(str(job["id"]), out)
    _conclude(job, out, as_json)


def _submit(client: Client, body: dict[str, Any], model: Path, data: Path | None) -> Job:
    uploads = {"model_id": upload(client, "model", model)}
    if data is not None:
        uploads["dataset_id"] = upload(client, "dataset", data)
    return client.submit({**body, **uploads})


def _follow(client: Client, embedded: Embedded, job_id: str, bar: JobBar) -> Job:
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
