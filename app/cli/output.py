"""What the commands show: a progress bar, a job, a plan, an error.

Names of layers and files come from whoever made the network. Nothing of them reaches the terminal as a command: neither
control characters nor rich's markup (`plain`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.table import Column, Table
from rich.text import Text

from app.cli.client import Job

_WORTH_A_LINE = 0.05  # share of the weight bytes
_NAMED = 5

CONSOLE = Console()
ERRORS = Console(stderr=True)


class Refused(Exception):
    """The command cannot do this; the text says why and what to do."""


def printable(value: object) -> str:
    """The text of `value`, with control and other invisible characters as escapes."""
    shown = (c if c.isprintable() or c == "\n" else c.encode("unicode_escape", "replace").decode() for c in str(value))
    return "".join(shown)


def plain(value: object) -> str:
    """The printable text of `value` for a line of markup, its own markup as it is written. No tag may follow it."""
    return escape(printable(value) + " ")[:-1]  # `escape` would double a backslash at the end


def complain(title: str, detail: str = "") -> None:
    """Say on standard error what went wrong."""
    text = Text.assemble((printable(title), "bold red"), f": {printable(detail)}" if detail else "")
    ERRORS.print(text, soft_wrap=True)


def show_json(value: Any) -> None:
    """One JSON value on standard output."""
    CONSOLE.print_json(json.dumps(value), ensure_ascii=True)


@contextmanager
def job_bar() -> Iterator[Callable[[Job], None]]:
    """A bar on standard error, as long as the block runs; yields what to call with the job as it is now."""
    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=ERRORS) as progress:
        task = progress.add_task("queued", total=1.0, left="")

        def show(job: Job) -> None:
            retry = f" (attempt {job['attempt']})" if job["attempt"] > 1 else ""
            running = f"{job['stage'] or job['state']}{retry}"
            progress.update(
                task,
                description=plain(running if job["state"] == "running" else job["state"]),
                completed=job["progress"],
                left=_seconds(job["eta_seconds"]),
            )

        yield show


@contextmanager
def upload_bar(path: Path) -> Iterator[Any]:
    """A bar for one upload; yields what to call with the bytes sent so far."""
    columns = (TextColumn(_literal(plain(path.name))), BarColumn(), DownloadColumn())
    with Progress(*columns, console=ERRORS, transient=True) as progress:
        task = progress.add_task("upload", total=path.stat().st_size)
        yield lambda sent: progress.update(task, completed=sent)


def show_job(job: Job) -> None:
    """One job in a few lines."""
    state = job["state"] if job["outcome"] is None else f"{job['state']} ({job['outcome']})"
    CONSOLE.print(Text.assemble(f"job {printable(job['id'])}: ", (printable(state), "bold")), highlight=False)
    if job["state"] == "running":
        left = _seconds(job["eta_seconds"])
        CONSOLE.print(f"  {plain(job['stage'])}, {job['progress']:.0%}{', ' + left if left else ''}", highlight=False)
    if job["estimate"] is not None:
        CONSOLE.print(f"  {_expected(job['estimate'])}", highlight=False)
    if job["error"] is not None:
        CONSOLE.print(f"  {plain(job['error']['title'])}: {plain(job['error']['detail'])}", soft_wrap=True)


def show_jobs(jobs: list[Job]) -> None:
    """A table of jobs."""
    # The id is there to be copied: in a narrow window the other columns give way.
    labels = [label for label in ("name", "tags") if any(job.get(label) for job in jobs)]
    first = Column("job", no_wrap=True, min_width=32)
    table = Table(first, *labels, "state", "outcome", "stage", "progress", "created")
    for job in jobs:
        cells = (
            job["id"],
            *(job.get(label) if label == "name" else ", ".join(job.get(label, ())) for label in labels),
            job["state"],
            job["outcome"],
            job["stage"],
            f"{job['progress']:.0%}",
            job["created_at"][:19],
        )
        table.add_row(*(plain(cell or "") for cell in cells))
    CONSOLE.print(table)


def show_plan(plan: Mapping[str, Any]) -> None:
    """The layers of a plan, and what was measured."""
    columns = {"name": "layer", "weights": "weights", "bits": "bits", "bytes": "bytes", "damage": "damage [nats]"}
    shown = [name for name in columns if any(layer.get(name) is not None for layer in plan.get("layers", ()))]
    table = Table()
    for name in shown:
        table.add_column(columns[name], justify="left" if name == "name" else "right")
    for layer in plan.get("layers", ()):
        table.add_row(*(_cell(name, layer.get(name)) for name in shown))
    if shown:
        CONSOLE.print(table)
    certificate = plan.get("certificate")
    if isinstance(certificate, Mapping):
        for line in (_certificate(certificate), *_claims(certificate), *_not_seen(plan, certificate)):
            CONSOLE.print(plain(line), soft_wrap=True, highlight=False)


def show_audit(audit: Mapping[str, Any]) -> None:
    """The weights and activations that a file holds."""
    table = Table("weight", "shape", "format", *(Column(name, justify="right") for name in ("codes", "scales", "bits")))
    for weight in audit["weights"]:
        elements = math.prod(weight["shape"])
        stored = weight["codes_bytes"] + weight["scales_bytes"]
        each = f"{8 * stored / elements:.2f}" if elements else ""
        shape = " x ".join(map(str, weight["shape"]))
        cells = (weight["name"], shape, weight["format"], weight["codes_bytes"], weight["scales_bytes"])
        table.add_row(*(plain(f"{cell:,}" if isinstance(cell, int) else cell) for cell in cells), each)
    CONSOLE.print(table)
    if audit["activations"]:
        table = Table("activation", *(Column(name, justify="right") for name in ("bits", "scale", "zero point")))
        for activation in audit["activations"]:
            scale = f"{activation['scale']:.6g}"
            table.add_row(plain(activation["name"]), str(activation["bits"]), scale, str(activation["zero_point"]))
        CONSOLE.print(table)
    of_weights = sum(weight["codes_bytes"] + weight["scales_bytes"] for weight in audit["weights"])
    CONSOLE.print(f"{audit['total_bytes']:,} bytes, {of_weights:,} of them weights", highlight=False)


def _certificate(certificate: Mapping[str, Any]) -> str:
    def figure(name: str, form: str) -> str:
        value = certificate.get(name)
        return format(value, form) if isinstance(value, (int, float)) else "?"

    return (
        f"{certificate.get('metric', 'metric')} on {certificate.get('samples', '?')} held-out samples: "
        f"{figure('float_value', '.4f')} -> {figure('quantized_value', '.4f')}, drop {figure('drop', '+.4f')} "
        f"({figure('level', '.0%')} interval {figure('low', '+.4f')} to {figure('high', '+.4f')})"
    )


def _claims(certificate: Mapping[str, Any]) -> Iterator[str]:
    """A line for each claim, where there are several, and why its metric was taken."""
    claims = certificate.get("claims", ())
    for claim in claims if len(claims) > 1 or any(claim["parts"] > 1 for claim in claims) else ():
        worst = f" (worst of {claim['parts']}: {claim['part']})" if claim["parts"] > 1 else ""
        yield (
            f"  {' and '.join(claim['outputs'])}: {claim['metric']} drop {claim['drop']:+.4g}{worst}, "
            f"allowed {claim['max_drop']:g}: {claim['reason']}"
        )


def _not_seen(plan: Mapping[str, Any], certificate: Mapping[str, Any]) -> Iterator[str]:
    """What the certificate cannot see, what no plan touches, and what was not rewritten."""
    for blind in certificate.get("blind_to", ()):
        yield f"blind to: {blind['null']} (a network that knows nothing there keeps the budget, too)"
    left = plan.get("stays_float")
    if left and left["share"] >= _WORTH_A_LINE:
        names = ", ".join(_with_reason(tensor) for tensor in left["tensors"][:_NAMED])
        yield f"{left['share']:.0%} of the weight bytes stay float{': ' + names if names else ''}"
    codes = plan.get("stays_quantized")
    if codes and codes["bytes"]:
        yield f"{codes['bytes']:,} bytes of weights came quantized and are kept (--requantize plans them anew)"
    if plan.get("unreached"):
        yield f"no sample reached {', '.join(plan['unreached'][:_NAMED])}: nothing is measured of them"
    if plan.get("undone"):
        yield f"analysed at opset {plan['undone']['opset']}: {plan['undone']['why']}"


def _with_reason(tensor: Mapping[str, Any]) -> str:
    reason = tensor.get("reason")
    return f"{tensor['name']} ({reason})" if reason else str(tensor["name"])


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name == "damage" and isinstance(value, (int, float)):
        return f"{value:.2e}"
    return plain(f"{value:,}" if isinstance(value, int) else value)


def _literal(text: str) -> str:
    # TextColumn formats its text: braces in a file's name are not its fields.
    return text.replace("{", "{{").replace("}", "}}")


def _expected(estimate: Mapping[str, Any]) -> str:
    return (
        f"{plain(estimate['stage'])} was estimated at {estimate['seconds']:,.0f} s and "
        f"{estimate['memory_bytes'] / 1e6:,.0f} MB"
    )


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"about {minutes} min {rest} s left" if minutes else f"about {rest} s left"
