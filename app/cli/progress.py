"""How uploads and jobs go on, on standard error: a bar in a terminal, else a line for each stage and each plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from app.cli.output import PROGRESS, plain
from bitbudget_client import Client, Event, Job

Show = Callable[[Event], None]


def follow(client: Client, job_id: str) -> Job:
    """The job once it has ended; how it goes is shown meanwhile."""
    with _bar() if PROGRESS.is_terminal else _lines() as show:
        for event in client.events(job_id):
            show(event)
    return client.job(job_id)


@contextmanager
def upload_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Yields what to call with what is sent, the bytes sent so far, and how many there are; a bar in a terminal."""
    columns = (TextColumn("{task.fields[file]}"), BarColumn(), DownloadColumn())
    if not PROGRESS.is_terminal:
        yield lambda _what, _sent, _total: None
        return
    with Progress(*columns, console=PROGRESS, transient=True) as progress:
        tasks: dict[str, Any] = {}

        def show(what: str, sent: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task("upload", total=total, file=plain(what))
            progress.update(tasks[what], completed=sent)

        yield show


def time_left(seconds: float | None) -> str:
    """In words; nothing where it is not known."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"about {minutes} min {rest} s left" if minutes else f"about {rest} s left"


def event_line(event: Event) -> str | None:
    """An event of a job as a line; None for one that says no more than others."""
    data = event.data
    match event.kind:
        case "state":
            again = f" (attempt {data['attempt']})" if data.get("attempt", 1) > 1 else ""
            why = f": {data['reason']}" if data.get("reason") else ""
            return f"{data['state']}{again}{why}"
        case "stage":
            return str(data["stage"])
        case "evaluated":
            return _evaluated(data)
        case "estimate":
            what = "the whole job" if data["stage"] == "job" else data["stage"]
            return f"{what} is expected to take {data['seconds']:,.0f} s"
        case "cancel_requested":
            return "cancelling"
        case _:
            return None


def _evaluated(data: Any) -> str:
    if "drop" not in data:
        return "a plan was evaluated"
    return f"evaluated a plan of {data['size_bytes']:,} bytes: drop {data['drop']:+.4g} +- {data['stderr']:.2g}"


@contextmanager
def _lines() -> Iterator[Show]:
    left: dict[str, float | None] = {"seconds": None}

    def show(event: Event) -> None:
        if event.kind == "progress":
            left["seconds"] = event.data["eta_seconds"]
            return
        line = event_line(event)
        if line is not None:
            remaining = time_left(left["seconds"]) if event.kind in ("stage", "evaluated") else ""
            PROGRESS.print(plain(line + (f", {remaining}" if remaining else "")), soft_wrap=True, highlight=False)

    yield show


@contextmanager
def _bar() -> Iterator[Show]:
    columns = (
        TextColumn("{task.fields[doing]:<14}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=PROGRESS) as progress:
        task = progress.add_task("job", total=1.0, doing="queued", left="")

        def show(event: Event) -> None:
            data = event.data
            if event.kind == "progress":
                left = time_left(data["eta_seconds"])
                progress.update(task, doing=plain(data["stage"]), completed=data["progress"], left=left)
            elif event.kind == "evaluated":
                progress.console.print(plain(_evaluated(data)), highlight=False)
            elif event.kind == "state":
                progress.update(task, doing=plain(data["state"]), left="")

        yield show
