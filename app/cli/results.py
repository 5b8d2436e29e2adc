"""`bitbudget download`, `frontier`, `export` and `report`: what a job gave."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from app.cli.certificate_view import show_certificate
from app.cli.connection import JobsOptions
from app.cli.frontier_view import show_frontier
from app.cli.jobs import JobId
from app.cli.options import read_object, takes
from app.cli.output import Shown, WrongUsage, say, show_json
from app.cli.plan_view import show_plan
from app.schemas.plan_tables import plan_csv, plan_table

Out = Annotated[Path, typer.Option(help="Folder for model.onnx, plan.json, plan.csv and the rest.", file_okay=False)]
OutFile = Annotated[
    Path | None, typer.Option("--out", help="The file to write.", dir_okay=False, show_default="standard output")
]


class Form(StrEnum):
    """What a plan is exported to."""

    ORT = "ort"
    AIMET = "aimet"
    CSV = "csv"
    TABLE = "table"


_OF_LAYERS = {Form.CSV: plan_csv, Form.TABLE: plan_table}
"""What the layers of plan.json are enough for."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (download, frontier, export, report):
        app.command()(command)


@takes(at=JobsOptions, shown=Shown)
def download(job_id: JobId, *, out: Out, at: JobsOptions, shown: Shown) -> None:
    """Write the results of a job to a folder. A download that broke off goes on where it stopped."""
    with at.client() as client:
        paths = client.download(job_id, out)
    if shown.as_json:
        show_json([str(path) for path in paths])
        return
    if [path.name for path in paths] == ["certificate.json"]:
        show_certificate(read_object(paths[0]))
    else:
        show_plan(read_object(out / "plan.json"))
    for path in paths:
        say(path)


@takes(at=JobsOptions, shown=Shown)
def frontier(job_id: JobId, *, at: JobsOptions, shown: Shown) -> None:
    """Show what other budgets would cost: the frontier of a job's search."""
    with at.client() as client:
        document = client.get(f"/v1/jobs/{job_id}/frontier")
    if shown.as_json:
        show_json(document)
    else:
        show_frontier(document)


@takes(at=JobsOptions, shown=Shown)
def export(
    plan: Annotated[str, typer.Argument(metavar="JOB|PLAN", help="The id of a job, or a plan.json.")],
    *,
    to: Annotated[
        Form, typer.Option(help="csv: the layers; table: their widths; ort: ONNX Runtime; aimet: encodings of AIMET.")
    ],
    out: OutFile = None,
    at: JobsOptions,
    shown: Shown,  # noqa: ARG001 - the errors of every command can be JSON
) -> None:
    """Write a plan in the form of another tool (docs/plan.md)."""
    if Path(plan).is_file():
        text = _exported(Path(plan), to)
    else:
        with at.client() as client:
            text = client.text(f"/v1/jobs/{plan}/plan", format=to.value)
    if out is None:
        typer.echo(text, nl=False)
    else:
        out.write_text(text)


def _exported(path: Path, to: Form) -> str:
    if to not in _OF_LAYERS:
        raise WrongUsage(
            f"--to {to.value} needs scales that are not in plan.json; name the job that made it, in place of {path}"
        )
    layers = read_object(path).get("layers")
    if not isinstance(layers, list):
        raise WrongUsage(f"{path} has no list of layers; expected a plan.json as a job delivers it")
    return _OF_LAYERS[to](layers)


@takes(at=JobsOptions, shown=Shown)
def report(
    job_id: JobId,
    *,
    out: Annotated[Path, typer.Option(help="The file to write.", dir_okay=False)] = Path("report.html"),
    at: JobsOptions,
    shown: Shown,
) -> None:
    """Write the report of a job: one HTML file with its charts, which needs no server to be read."""
    with at.client() as client:
        path = client.download_one(job_id, "report.html", out)
    if shown.as_json:
        show_json([str(path)])
    else:
        say(path)
