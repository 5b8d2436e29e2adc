"""`python -m workers.child`: runs the jobs that come over a socket, one after the other, until it is closed."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

from pipeline.process import settle
from workers.child.limits import Limits, apply_limits, die_with_parent
from workers.wire import Message, Wire, WireClosed

FAULT_TEXT_CHARACTERS = 20_000


def main(arguments: list[str]) -> None:
    """Set the limits, load the pipeline, and work."""
    given = _parse(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # whoever stops a whole group of processes means the worker
    if given.parent is not None:
        die_with_parent(given.parent)
    apply_limits(Limits(given.memory_bytes, given.file_bytes, given.cpu_seconds, given.tasks))
    wire = Wire(socket.socket(fileno=given.fd))
    pipeline = importlib.import_module(given.pipeline)
    settle(int(os.environ["OMP_NUM_THREADS"]))
    wire.send({"do": "ready"})
    try:
        while True:
            job = wire.receive()
            if job is not None and job.header["do"] == "describe":
                _describe(wire, pipeline, job)
            elif job is not None:
                _run(wire, pipeline.TABLE, job)
    except WireClosed:
        return


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m workers.child", description="Run the jobs of a worker.")
    parser.add_argument("--fd", type=int, required=True, help="socket to the worker")
    parser.add_argument("--parent", type=int, help="process of the worker; with it this process ends")
    parser.add_argument("--pipeline", required=True, help="module with a TABLE of stages, or with `describe`")
    parser.add_argument("--memory-bytes", type=int)
    parser.add_argument("--file-bytes", type=int, required=True)
    parser.add_argument("--cpu-seconds", type=int, required=True)
    parser.add_argument("--tasks", type=int, required=True)
    return parser.parse_args(arguments)


def _run(wire: Wire, table: Any, job: Message) -> None:
    """Run one job, and send what it gives or why it gives nothing."""
    from app.schemas.parsing import parse_stored
    from pipeline.run import run
    from pipeline.stage import Machine, Upload
    from workers.child.reporting import Reporter
    from workers.child.store import AskingStore

    header = job.header
    machine = Machine(**header["machine"])
    reporter = Reporter(wire)
    try:
        result = run(
            table,
            parse_stored(header["request"]),
            {kind: Upload(Path(path), sha256) for kind, (path, sha256) in header["uploads"].items()},
            cache=AskingStore(wire),
            progress=reporter,
            machine=machine,
            job_id=header["job_id"],
            elapsed_seconds=header["elapsed_seconds"],
            helping=header["do"] == "help",
        )
    except WireClosed:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a stage raises ends its job, not this process
        _fail(wire, error, reporter.stage, machine.memory_limit_bytes)
        return
    if result is None:
        wire.send({"do": "helped"})
        return
    for kind, data in result.artifacts.items():
        wire.send({"do": "artifact", "key": kind}, (data,), len(data))
    wire.send({"do": "result", "outcome": result.outcome, "summary": dict(result.summary)})


def _describe(wire: Wire, pipeline: Any, job: Message) -> None:
    """Look into one upload, and send what it is or why nobody can tell."""
    kind, path, max_bytes = (job.header[name] for name in ("kind", "path", "max_bytes"))
    try:
        document = pipeline.describe(kind, Path(path), max_bytes)
    except Exception as error:  # noqa: BLE001 - as above
        _fail(wire, error, f"describe {kind}", None)
        return
    wire.send({"do": "described", "document": document})


def _fail(wire: Wire, error: Exception, stage: str, memory_limit_bytes: int | None) -> None:
    from workers.failures import failure

    over = failure(error, stage, memory_limit_bytes)
    text = "".join(traceback.format_exception(error))[-FAULT_TEXT_CHARACTERS:] if over.fault else ""
    wire.send({"do": "failed", "code": over.code, "detail": over.detail, "fault": over.fault, "text": text})


if __name__ == "__main__":
    main(sys.argv[1:])
