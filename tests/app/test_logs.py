from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from app.logs import about, configure_logging

JOB = "0123456789abcdef" * 2
TRACE = f"00-{'4b' * 16}-{'00f0' * 4}-01"


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, levels = list(root.handlers), {name: logger.level for name, logger in _loggers()}
    yield
    root.handlers[:] = handlers
    for name, logger in _loggers():
        logger.setLevel(levels.get(name, logging.NOTSET))


def _loggers() -> list[tuple[str, logging.Logger]]:
    known = logging.root.manager.loggerDict.items()
    return [("", logging.root), *((name, logger) for name, logger in known if isinstance(logger, logging.Logger))]


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[dict[str, Any]]]:
    """The JSON lines that were logged since the last call."""
    return lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_json_line_says_when_who_and_what_it_is_about(lines: Callable[[], list[dict[str, Any]]]) -> None:
    configure_logging(level="info", form="json")
    began = datetime.now(UTC)
    with about(job_id=JOB, project_id="team", trace=TRACE):
        logging.getLogger("workers.job").warning("attempt %d\nof many", 2, extra={"fields": {"status": 3}})
    (line,) = lines()
    assert abs((datetime.fromisoformat(line.pop("time")) - began).total_seconds()) < 60
    assert isinstance(line.pop("process"), int)
    assert line == {
        "level": "warning",
        "logger": "workers.job",
        "message": "attempt 2\nof many",
        "job_id": JOB,
        "project_id": "team",
        "trace_id": "4b" * 16,
        "status": 3,
    }


def test_the_job_of_a_line_is_the_one_that_it_names(lines: Callable[[], list[dict[str, Any]]]) -> None:
    configure_logging(level="info", form="json")
    other = JOB[::-1]
    with about(job_id=JOB):
        logging.getLogger("app.dispatcher").warning("job %s: its worker is silent", other)
    logging.getLogger("app.dispatcher").info("nothing to do")
    named, none = lines()
    assert named["job_id"] == other
    assert not {"job_id", "project_id", "trace_id"} & set(none)


def test_a_traceback_is_one_line_of_json(lines: Callable[[], list[dict[str, Any]]]) -> None:
    configure_logging(level="info", form="json")
    try:
        raise ValueError("wrong")
    except ValueError:
        logging.getLogger("app").exception("it failed")
    (line,) = lines()
    assert line["exception"].endswith("ValueError: wrong")


def test_debug_is_about_our_own_packages(lines: Callable[[], list[dict[str, Any]]]) -> None:
    configure_logging(level="debug", form="json")
    for name in ("app.api.metrics", "workers.job", "sqlalchemy.engine.Engine", "celery"):
        logging.getLogger(name).debug("a detail")
        logging.getLogger(name).warning("a warning")
    told = [(line["logger"], line["level"]) for line in lines()]
    assert [name for name, level in told if level == "debug"] == ["app.api.metrics", "workers.job"]
    assert len([name for name, level in told if level == "warning"]) == 4


def test_the_settings_say_form_and_level(
    lines: Callable[[], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BITBUDGET_LOG_FORMAT", "json")
    monkeypatch.setenv("BITBUDGET_LOG_LEVEL", "error")
    configure_logging()
    logging.getLogger("app").warning("not worth a line")
    logging.getLogger("app").error("worth one")
    assert [line["message"] for line in lines()] == ["worth one"]
    monkeypatch.delenv("BITBUDGET_LOG_FORMAT")
    configure_logging()
    logging.getLogger("app").error("worth one")
    assert capsys.readouterr().err.endswith(": worth one\n")
    monkeypatch.setenv("BITBUDGET_LOG_LEVEL", "loud")
    with pytest.raises(ValidationError, match="'debug', 'info', 'warning' or 'error'"):
        configure_logging()


def test_a_request_is_a_line_of_the_level_debug(server: Any, caplog: pytest.LogCaptureFixture) -> None:
    server.client.get("/v1/jobs?state=queued")
    assert not [record for record in caplog.records if hasattr(record, "fields")]
    caplog.set_level(logging.DEBUG, logger="app.api.metrics")
    server.client.get("/v1/jobs?state=queued")
    server.client.get("/healthz")  # on the same connection: the request before it is over
    record, *_ = [record for record in caplog.records if hasattr(record, "fields")]
    told = dict(record.fields)
    assert told.pop("milliseconds") > 0
    assert told == {"client": "127.0.0.1", "method": "GET", "path": "/v1/jobs", "status": 200}
    assert record.getMessage().startswith("127.0.0.1 GET '/v1/jobs': 200 in ")


def test_a_worker_without_a_collector_loads_nothing_for_traces() -> None:
    program = "import sys, app.logs; app.logs.configure_logging(); print([m for m in sys.modules if 'telemetry' in m])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
