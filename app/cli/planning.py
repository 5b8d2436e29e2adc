"""`bitbudget plan` and `apply`: one job from file to file, through the service with everything embedded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli import options
from app.cli.changes import Changes, with_changes
from app.cli.exits import conclude
from app.cli.options import AppliedOptions, JobOptions, merged, read_object, takes
from app.cli.output import Shown, say, show_json
from app.cli.plan_view import show_plan
from app.cli.prechecking import refuse_mismatch
from app.cli.results import Out
from app.cli.submitting import Files, submitted
from app.schemas.plan import applied_request
from bitbudget_client import Client

Report = Annotated[bool, typer.Option("--report", help="Also write report.html, with the charts of the job.")]
Pipeline = Annotated[str | None, typer.Option(hidden=True)]
PlanFile = Annotated[Path, typer.Argument(help="A plan.json, edited or not.", exists=True, dir_okay=False)]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(plan)
    app.command()(apply)


@takes(given=JobOptions, shown=Shown)
def plan(
    model: options.Model,
    *,
    out: Out,
    data: options.Data = None,
    given: JobOptions,
    report: Report = False,
    shown: Shown,
    pipeline: Pipeline = None,
) -> None:
    """Quantize one network within an accuracy budget, on this machine, and write the results to a folder.

    The analysis is kept (BITBUDGET_HOME), so that another budget for the same network and data takes little.
    Exit status: 0 the budget is met, 3 it is not and the best effort was written, 1 an error, 2 wrong usage.
    """
    _run(given.body(), Files(model, data, given.metric_graph), out, report, shown, pipeline)


@takes(given=AppliedOptions, shown=Shown)
def apply(
    model: options.Model,
    plan: PlanFile,
    *,
    out: Out,
    data: options.Data = None,
    change: Changes = None,
    given: AppliedOptions,
    report: Report = False,
    shown: Shown,
    pipeline: Pipeline = None,
) -> None:
    """Quantize one network as a plan says, without any search, and measure the result on held-out samples.

    The plan may name only some layers, if it says what the others get: "base": "float32", or the id of a job.
    Budget, rounding, ranges of activations, target, opset and seed are those of the job that made the plan, if the
    file has them; options override.
    Exit status: 0 the budget is met, 3 it is not (the file was written all the same), 1 an error, 2 wrong usage.
    """
    changed = with_changes(read_object(plan), change or [])
    _run(applied_body(changed, given), Files(model, data, given.metric_graph), out, report, shown, pipeline)


def applied_body(plan: Mapping[str, Any], options: AppliedOptions) -> dict[str, Any]:
    """The request that applies `plan` as the job that delivered it did, but for what the options say."""
    body = applied_request(plan)
    return {**merged(body, options.body()), "plan": body["plan"]}


def _run(body: Mapping[str, Any], files: Files, out: Path, report: bool, shown: Shown, pipeline: str | None) -> None:
    """One job through the service, with everything embedded."""
    if pipeline is None:  # another one reads other files
        refuse_mismatch(files.model, files.data, files.metric is not None)
    from app.cli.here import run_here  # loads the service, which takes longer than most commands

    def collect(client: Client, job_id: str) -> None:
        client.download(job_id, out)
        if report:
            client.download_one(job_id, "report.html", out / "report.html")

    job, _ = run_here(lambda client, key: submitted(client, body, files, key), collect, pipeline)
    if shown.as_json:
        show_json(job.document)
    elif job.succeeded:
        show_plan(read_object(out / "plan.json"))
        say(f"quantized network: {out / 'model.onnx'}")
        if report:
            say(f"report: {out / 'report.html'}")
    conclude(job)
