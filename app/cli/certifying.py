"""`bitbudget certify`: what a quantized file of any tool loses against its float model, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli import options
from app.cli.certificate_view import show_certificate
from app.cli.exits import Exit, conclude
from app.cli.options import BudgetOptions, takes
from app.cli.output import Shown, complain, say, show_json
from app.cli.planning import Pipeline
from app.cli.prechecking import refuse_mismatch
from app.cli.submitting import uploaded
from app.schemas.parsing import merge
from bitbudget_client import Client, Job

FloatModel = Annotated[
    Path, typer.Argument(metavar="FLOAT", help="The float model, an ONNX file.", exists=True, dir_okay=False)
]
Quantized = Annotated[
    Path, typer.Argument(help="The quantized file, by whatever tool it was made.", exists=True, dir_okay=False)
]
Out = Annotated[Path | None, typer.Option(help="Folder for certificate.json.", file_okay=False)]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(certify)


@takes(given=BudgetOptions, shown=Shown)
def certify(
    model: FloatModel,
    quantized: Quantized,
    *,
    data: options.Data = None,
    given: BudgetOptions,
    out: Out = None,
    shown: Shown,
    pipeline: Pipeline = None,
) -> None:
    """Measure a quantized ONNX file of any tool against its float model, and look for what is wrong with it.

    Both files are run as they are, on all samples. Exit status: 0 the budget is kept and no defect was found, 3 not, 1
    an error.
    """
    body = given.body()
    if pipeline is None:  # another one reads other files
        refuse_mismatch(model, data, given.metric_graph is not None)
    from app.cli.here import run_here  # loads the service, which takes longer than most commands

    def make(client: Client, key: str) -> Job:
        files = {"model": model, "quantized": quantized, "dataset": data}
        return client.post_job("/v1/certificates", merge(body, uploaded(client, files, given.metric_graph)), key)

    def collect(client: Client, job_id: str) -> Mapping[str, Any]:
        if out is not None:
            client.download(job_id, out)
        return client.get(f"/v1/jobs/{job_id}/certificate")

    job, document = run_here(make, collect, pipeline)
    if document is None:
        conclude(job)
        return
    if shown.as_json:
        show_json(document)
    else:
        show_certificate(document)
        if out is not None:
            say(f"certificate: {out / 'certificate.json'}")
    if document["outcome"] != "met":
        complain("The file is not certified", str(document["reason"]), code="not_certified")
        raise typer.Exit(Exit.NOT_MET)
