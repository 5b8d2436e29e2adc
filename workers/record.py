"""What one attempt at a job leaves to be seen: lines in the job's log, the seconds of its stages, and spans."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from app.lifecycle.states import Claim
from app.logs import about, subject_of
from app.store.engine import Sessions
from app.store.job_logs import LINE_CHARACTERS, LogLine, add_lines
from app.store.stage_seconds import add_stage_seconds
from pipeline import events
from workers.spans import JobSpans

logger = logging.getLogger(__name__)

WRITE_SECONDS = 1.0
MOST_PENDING = 500
"""Lines that wait to be written; what a job says beyond that within a second is dropped, and counted."""

_OURS = "workers."
# What these say of a stage is said here by the event itself; and this module must not log about its own failures.
_NOT_SHOWN = ("workers.observer", __name__)
_CREDENTIALS = re.compile(r"(\w[\w+.-]*://)[^\s/@]+@")


class AttemptRecord:
    """Records the attempt `claim`, from `with` to the end of the block.

    The log of a job is for its user. It has what the events say, what our own loggers say about the job at `info` and
    above, and the lines that are given: no tracebacks, no texts of exceptions that are not our own, no folder of this
    machine and no credentials. The worker's own log has everything.

    Args:
        hidden: folders of this machine, which users are not told.
        write_seconds: between two writes; a database that is away is tried again, and nothing waits for it.
    """

    def __init__(
        self, sessions: Sessions, claim: Claim, hidden: Iterable[Path] = (), write_seconds: float = WRITE_SECONDS
    ) -> None:
        self.spans = JobSpans(
            "attempt", claim.trace, job_id=claim.job_id, project_id=claim.project_id, attempt=claim.attempt
        )
        self._sessions = sessions.of(claim.project_id)
        self._claim = claim
        self._hidden = _any_path_below(hidden)
        self._write_seconds = write_seconds
        self._error: str | None = None
        self._began: tuple[str, float] | None = None
        self._guard = threading.Lock()
        self._lines: list[LogLine] = []
        self._stages: list[tuple[str, float]] = []
        self._dropped = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="record", daemon=True)
        self._stack = ExitStack()

    def __enter__(self) -> AttemptRecord:
        claim = self._claim
        trace = self.spans.traceparent or claim.trace
        self._stack.enter_context(about(job_id=claim.job_id, project_id=claim.project_id, trace=trace))
        handler = _Handler(self, claim.job_id)
        logging.getLogger().addHandler(handler)
        self._stack.callback(logging.getLogger().removeHandler, handler)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stack.close()
        self._closing.set()
        self._thread.join()
        self.spans.end(self._error if kind is None else kind.__name__)
        self.write()
        if self._lines:
            logger.warning("job %s: %d lines of its log are lost", self._claim.job_id, len(self._lines))

    def failed(self, reason: str) -> None:
        """The attempt fails; the first reason counts."""
        self._error = self._error or reason

    def event(self, event: events.Event) -> None:
        """Record what the job reports; the values come from the process that runs models."""
        self.spans.event(event)
        match event:
            case events.StageBegan():
                self._began = str(event.stage), time.monotonic()
                self.line("info", f"stage {event.stage} begins; it may take {event.time_limit}")
            case events.StageEnded():
                self._stage_ended(event)
            case events.Estimate():
                gib = event.memory_bytes / 1024**3
                self.line("info", f"{event.subject} is expected to take {event.seconds:.0f} s and {gib:.1f} GiB")
            case events.MethodTimed() if _is_number(event.seconds):
                self.line("info", f"the method {event.method} took {event.seconds:.1f} s")
            case events.PlanEvaluated() if isinstance(event.measured, Mapping):
                told = {name: event.measured.get(name) for name in ("drop", "stderr", "size_bytes", "samples")}
                values = ", ".join(f"{name} {value:g}" for name, value in told.items() if _is_number(value))
                self.line("info", f"a plan was evaluated: {values}")

    def line(self, level: str, text: str) -> None:
        """Add a line to the job's log, from whichever process.

        Args:
            level: `debug`, `info`, `warning` or `error`.
        """
        shown = _CREDENTIALS.sub(r"\1…@", text[: 2 * LINE_CHARACTERS])
        shown = shown if self._hidden is None else self._hidden.sub("…", shown)
        line = LogLine(datetime.now(UTC), level, shown)
        with self._guard:
            if len(self._lines) < MOST_PENDING:
                self._lines.append(line)
            else:
                self._dropped += 1

    def write(self) -> None:
        """Write what waits. What cannot be written waits on."""
        with self._guard:
            lines, stages, dropped = self._lines, self._stages, self._dropped
            self._lines, self._stages, self._dropped = [], [], 0
        if not (lines or stages):
            return
        notice = f"{dropped} lines came too fast and are lost"
        told = [*lines, LogLine(datetime.now(UTC), "warning", notice)] if dropped else lines
        try:
            with self._sessions.begin() as session:
                add_lines(session, self._claim.job_id, told)
                for stage, seconds in stages:
                    add_stage_seconds(session, stage, seconds)
        except SQLAlchemyError:
            # The heartbeat says that the database is away.
            with self._guard:
                together = [*lines, *self._lines]
                self._lines, self._stages = together[:MOST_PENDING], [*stages, *self._stages]
                self._dropped += dropped + len(together) - len(self._lines)

    def _stage_ended(self, event: events.StageEnded) -> None:
        began, self._began = self._began, None
        if not event.ran or began is None or began[0] != str(event.stage):
            self.line("info", f"the result of stage {event.stage} was there already")
            return
        seconds = time.monotonic() - began[1]
        self.line("info", f"stage {event.stage} is done after {seconds:.1f} s")
        with self._guard:
            if len(self._stages) < MOST_PENDING:
                self._stages.append((str(event.stage), seconds))

    def _run(self) -> None:
        while not self._closing.wait(self._write_seconds):
            self.write()


class _Handler(logging.Handler):
    """Gives the record what our own loggers say about its job."""

    def __init__(self, record: AttemptRecord, job_id: str) -> None:
        super().__init__(logging.INFO)
        self._record = record
        self._job_id = job_id

    def emit(self, record: logging.LogRecord) -> None:
        if not record.name.startswith(_OURS) or record.name in _NOT_SHOWN:
            return
        if subject_of(record).get("job_id") == self._job_id:
            self._record.line(_level(record), _for_users(record, self._job_id))


def _level(record: logging.LogRecord) -> str:
    if record.levelno >= logging.ERROR:
        return "error"
    return "warning" if record.levelno >= logging.WARNING else "info"


def _for_users(record: logging.LogRecord, job_id: str) -> str:
    """The first line of the message, without the texts of foreign exceptions, which may quote addresses and
    statements, and without the id. What follows the first line is a traceback."""
    arguments = record.args
    if isinstance(arguments, tuple) and arguments:
        text = str(record.msg) % tuple(type(value).__name__ if _is_foreign(value) else value for value in arguments)
    else:
        text = record.getMessage()
    return text.partition("\n")[0].removeprefix(f"job {job_id}").removeprefix(":").strip()


def _is_foreign(value: object) -> bool:
    return isinstance(value, BaseException) and not type(value).__module__.startswith(("app.", _OURS))


def _any_path_below(folders: Iterable[Path]) -> re.Pattern[str] | None:
    """Matches the path of anything in these folders, up to a space or a quote."""
    names = sorted({str(folder) for folder in folders if len(folder.parts) > 1}, key=len, reverse=True)
    if not names:
        return None
    return re.compile(rf"(?:{'|'.join(re.escape(name) for name in names)})(?=[/\s'\":,]|$)[^\s'\"]*")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
