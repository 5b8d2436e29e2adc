"""Logging to standard error, one form for server, worker and dispatcher: text for people, or JSON for a collector."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from app import tracing
from app.settings import Settings

_FORMAT = "%(asctime)sZ %(levelname)s %(name)s[%(process)d]: %(message)s"

# Libraries that log too much at INFO, each with the lowest level that is worth a line.
_QUIETER = {
    "alembic": logging.WARNING,
    "httpx": logging.WARNING,
    "onnx_ir": logging.WARNING,
    "onnxscript": logging.WARNING,
    # one INFO line for each message: a message is only a hint, the job's own lines say what happened
    "celery": logging.WARNING,
    # a traceback of Celery's own for each process that died; `workers.presence` says what is done about it
    "celery.worker.request": logging.CRITICAL,
    # a line for each request, and for each mistake of a client, whose answer says the same
    "resumable_upload": logging.CRITICAL,
    # "No hostname was supplied": a broker of files has none
    "kombu": logging.ERROR,
}
_OUR_PACKAGES = ("app", "workers", "pipeline", "network", "quantization", "sensitivity", "planner", "evaluation")

# What a line about a job begins with, or says; the JSON form takes the id from there.
_JOB = re.compile(r"\bjob ([0-9a-f]{32})\b")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")

_subject: ContextVar[dict[str, str]] = ContextVar("subject of the log", default={})  # noqa: B039 - never changed in place


def configure_logging(*, level: str | None = None, form: str | None = None) -> None:
    """Log to standard error, times in UTC. Replaces what was configured before.

    Args:
        level: `debug`, `info`, `warning` or `error`; None: that of the settings. `debug` is about our own packages
            alone: those of the database would log every statement, with what it carries.
        form: `text` or `json`, one object a line; None: that of the settings.

    Raises:
        pydantic.ValidationError: the settings are asked and not valid.
    """
    if level is None or form is None:
        settings = Settings()
        level, form = level or settings.log_level, form or settings.log_format
    lowest = logging.getLevelNamesMapping()[level.upper()]
    handler = logging.StreamHandler()
    handler.setFormatter(_json_lines() if form == "json" else _text_lines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(lowest, logging.INFO))
    for name in _OUR_PACKAGES:
        logging.getLogger(name).setLevel(lowest)
    for name, quieter in _QUIETER.items():
        logging.getLogger(name).setLevel(max(lowest, quieter))


@contextmanager
def about(**subject: str | None) -> Iterator[None]:
    """What the lines logged within the block, in this thread or task, are about.

    Args:
        subject: `job_id`, `project_id`, and `trace`, a `traceparent`; None: not known.
    """
    known = {name: value for name, value in subject.items() if value is not None}
    token = _subject.set({**_subject.get(), **known})
    try:
        yield
    finally:
        _subject.reset(token)


def subject_of(record: logging.LogRecord) -> dict[str, str]:
    """`job_id`, `project_id` and `trace_id`, as far as the record and the place that it comes from say them."""
    known = dict(_subject.get())
    trace = known.pop("trace", None) or tracing.traceparent()
    traced = None if trace is None else _TRACEPARENT.fullmatch(trace)
    if traced is not None:
        known["trace_id"] = traced[1]
    named = _JOB.search(record.getMessage())
    if named is not None:
        known["job_id"] = named[1]
    return known


class _JsonFormatter(logging.Formatter):
    """One JSON object a line: `time` (RFC 3339), `level`, `logger`, `process`, `message`, what the line is about, the
    members of `fields` that the record carries, and `exception`, a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        members: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
            **subject_of(record),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            members["exception"] = self.formatException(record.exc_info)
        return json.dumps(members, default=str)


def _json_lines() -> logging.Formatter:
    return _JsonFormatter()


def _text_lines() -> logging.Formatter:
    formatter = logging.Formatter(_FORMAT, datefmt="%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    return formatter
