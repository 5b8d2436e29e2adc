"""`bitbudget dataset describe`: what is recognised in a file of samples, on this machine and without a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from app.cli.options import takes
from app.cli.output import CONSOLE, Shown, complain, plain, printable, show_json
from app.cli.sample_options import SampleOptions
from app.cli.samples import in_a_process
from app.services.sample_match import match, roles

SHOWN_CLASSES = 12

Data = Annotated[Path, typer.Argument(metavar="FILE", help="Samples: a file or a folder.", exists=True)]
ForModel = Annotated[
    Path | None,
    typer.Option("--model", help="Say which input each array goes to, and what does not fit.", exists=True),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Look at samples.", no_args_is_help=True)
    group.callback()(lambda: None)
    group.command("describe")(describe)
    app.add_typer(group, name="dataset")


@takes(given=SampleOptions, shown=Shown)
def describe(
    data: Data,
    *,
    model: ForModel = None,
    given: SampleOptions,  # noqa: ARG001 - `data` was made as it says
    shown: Shown,
) -> None:
    """Show what is understood of samples: arrays, shapes, ranges, labels. Exit status: 1 where they do not fit."""
    description = in_a_process("pipeline.describing", "dataset", str(data))
    network = None if model is None else in_a_process("pipeline.describing", "model", str(model))
    problems = [] if network is None else match(network, description)
    if shown.as_json:
        show_json({"dataset": description, "problems": problems})
    else:
        _show(description, {} if network is None else roles(network, description))
    for problem in problems:
        if not shown.as_json:
            complain("Does not fit", problem)
    if problems:
        raise typer.Exit(1)


def _show(description: Mapping[str, Any], fed: Mapping[str, str | None]) -> None:
    CONSOLE.print(f"{description['samples']:,} samples, {description['form']}", highlight=False)
    table = Table("array", "type", "shape", "from", "to", "mean", "is", box=None, pad_edge=False)
    for array in description["arrays"]:
        role = fed.get(array["name"], array["role"]) if fed else array["role"]
        numbers = [_number(array[name]) for name in ("minimum", "maximum", "mean")]
        shape = "x".join(map(str, array["shape"])) or "one number"
        row = [array["name"], array["dtype"], shape, *numbers, role or "-"]
        table.add_row(*(Text(printable(cell)) for cell in row))
    CONSOLE.print(table)
    if description["labels"] is not None:
        CONSOLE.print(plain(_labels(description["labels"])), highlight=False, soft_wrap=True)
    for note in description["notes"]:
        CONSOLE.print(plain(note), style="dim", highlight=False, soft_wrap=True)


def _labels(labels: Mapping[str, Any]) -> str:
    counts: Sequence[tuple[str, int]] = sorted(labels["counts"].items(), key=lambda item: int(item[0]))
    shown = ", ".join(f"{name}: {count:,}" for name, count in counts[:SHOWN_CLASSES])
    more = f" and {labels['classes'] - SHOWN_CLASSES:,} more" if labels["classes"] > SHOWN_CLASSES else ""
    return f"labels: {labels['classes']:,} classes; {shown}{more}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
