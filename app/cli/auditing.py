"""`bitbudget audit`: what a quantized file holds, read from the file alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.audit_view import show_audit
from app.cli.options import takes
from app.cli.output import Shown, show_json
from app.cli.samples import in_a_process

File = Annotated[Path, typer.Argument(help="A quantized model.onnx.", exists=True, dir_okay=False)]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(audit)


@takes(shown=Shown)
def audit(file: File, *, shown: Shown) -> None:
    """Show how a quantized file stores each weight and rounds each activation. No name in it is believed."""
    result: Mapping[str, Any] = in_a_process("pipeline", str(file))
    if shown.as_json:
        show_json(result)
    else:
        show_audit(result)
