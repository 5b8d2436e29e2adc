"""How a job goes on, shown while one waits: a bar in a notebook, a line in a terminal, else nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from html import escape
from typing import Any, TextIO

from bitbudget_client.documents import Job

Progress = bool | Callable[[Job], None]
"""True: shown where somebody sees it; False: not; a function: called with the job whenever it was asked for."""

_WIDTH = 30


def unseen(_what: str, _count: int, _total: int) -> None:
    """Nobody looks at what was sent, or has arrived."""


class Display:
    """Shows uploads and jobs; this one shows nothing."""

    def job(self, job: Job) -> None:
        """The job as it is now."""

    def moved(self, what: str, count: int, total: int) -> None:
        """Bytes of `what` that were sent or have arrived, of `total`."""

    def close(self) -> None:
        """There is no more to show."""


class _Calling(Display):
    def __init__(self, function: Callable[[Job], None]) -> None:
        self._function = function

    def job(self, job: Job) -> None:
        self._function(job)


class TerminalLine(Display):
    """One line that is written over."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._length = 0

    def job(self, job: Job) -> None:
        self._show(job_text(job), job.progress)

    def moved(self, what: str, count: int, total: int) -> None:
        self._show(f"{_printable(what)} {count / 1e6:,.1f} of {total / 1e6:,.1f} MB", count / total if total else 0.0)

    def close(self) -> None:
        if self._length:
            self._stream.write("\n")

    def _show(self, text: str, share: float) -> None:
        done = round(_WIDTH * share)
        line = f"{'#' * done}{'.' * (_WIDTH - done)} {share:4.0%} {text}"
        self._stream.write(f"\r{line.ljust(self._length)}")
        self._stream.flush()
        self._length = len(line)


class NotebookBar(Display):
    """A bar of HTML in the output of a cell.

    Args:
        display: `IPython.display.display`.
        html: `IPython.display.HTML`.
    """

    def __init__(self, display: Callable[..., Any], html: Callable[[str], Any]) -> None:
        self._html = html
        self._handle = display(html(""), display_id=True)

    def job(self, job: Job) -> None:
        self._show(job_text(job), job.progress)

    def moved(self, what: str, count: int, total: int) -> None:
        self._show(f"{what} {count / 1e6:,.1f} of {total / 1e6:,.1f} MB", count / total if total else 0.0)

    def _show(self, text: str, share: float) -> None:
        self._handle.update(self._html(f'<progress max="1" value="{share:.3f}"></progress> {escape(text)}'))


def display_of(progress: Progress) -> Display:
    """What shows progress in this surrounding."""
    if callable(progress):
        return _Calling(progress)
    if not progress:
        return Display()
    if "ipykernel" in sys.modules:
        from IPython.display import HTML, display

        return NotebookBar(display, HTML)
    return TerminalLine(sys.stderr) if sys.stderr.isatty() else Display()


def job_text(job: Job) -> str:
    """The job in a line: its id, which takes it up again, what it does, and how long that will take."""
    doing = job.stage or job.state if job.state == "running" else job.outcome or job.state
    left = "" if job.eta_seconds is None or job.ended else f", about {job.eta_seconds:.0f} s left"
    return _printable(f"job {job.id}: {doing}{left}")


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)
