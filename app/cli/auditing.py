"""`bitbudget audit`: what a quantized file holds, read from the file alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.audit_view import show_audit
from app.cli.output import Refused, show_json

File = Annotated[Path, typer.Argument(help="A quantized model.onnx.", exists=True, dir_okay=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print everything as JSON.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(audit)


def audit(file: File, *, as_json: AsJson = False) -> None:
    """Show how a quantized file stores each weight and rounds each activation. No name in it is believed."""
    # in a process of its own: these commands load no library that reads networks
    done = subprocess.run(  # noqa: S603 - our own command line
        [sys.executable, "-m", "pipeline", str(file)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Refused(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"{file} cannot be read")
    result: Mapping[str, Any] = json.loads(done.stdout)
    if as_json:
        show_json(result)
    else:
        show_audit(result)
