"""How uploads and jobs go on, on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from app.cli.client import Job
from app.cli.output import ERRORS, plain


@contextmanager
def job_progress() -> Iterator[Callable[[Job], None]]:
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
                left=time_left(job["eta_seconds"]),
            )

        yield show


@contextmanager
def upload_bar(path: Path) -> Iterator[Any]:
    """A bar for one upload; yields what to call with the bytes sent so far."""
    columns = (TextColumn(_literal(plain(path.name))), BarColumn(), DownloadColumn())
    with Progress(*columns, console=ERRORS, transient=True) as progress:
        task = progress.add_task("upload", total=path.stat().st_size)
        yield lambda sent: progress.update(task, completed=sent)


def _literal(text: str) -> str:
    # TextColumn formats its text: braces in a file's name are not its fields.
    return text.replace("{", "{{").replace("}", "}}")


def time_left(seconds: float | None) -> str:
    """In words; nothing where it is not known."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"about {minutes} min {rest} s left" if minutes else f"about {rest} s left"
