"""A pipeline of one stage that tries what a file that has taken over the process would try; it tells what it could."""

from __future__ import annotations

import json
import os
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

from app.schemas.job_request import JobRequest
from pipeline.context import Context
from pipeline.stage import JobResult, Machine, Stage, Table


def _could(action: Any, *arguments: Any) -> bool:
    try:
        action(*arguments)
    except OSError:
        return False
    return True


def _connect(port: int) -> None:
    socket.create_connection(("127.0.0.1", port), timeout=2.0).close()


def _status(name: str) -> str:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{name}:"))


def _spy(context: Context, _config: object) -> bytes:
    given = json.loads(context.model_path.read_bytes())
    outside = Path(given["outside"])
    found = {
        "connect": _could(_connect, given["port"]),
        "read": _could(outside.read_bytes),
        "write": _could(outside.with_name("written").write_text, "x"),
        "write to the programs": _could((Path(os.__file__).parent / "written").touch),
        "write to its folder": _could(Path("written").write_text, "x"),
        "processes": len([name for name in os.listdir("/proc") if name.isdigit()]),
        "variables": sorted(name for name in os.environ if name.startswith(("BITBUDGET_", "SECRET"))),
        "capabilities": _status("CapEff"),
        "terminal": _could(os.open, "/dev/tty", os.O_RDWR),
        "telemetry": os.environ.get("ORT_DISABLE_TELEMETRY"),
    }
    return json.dumps(found).encode()


def _report(context: Context, _config: object) -> JobResult:
    return JobResult("met", json.loads(context.read("spy")), {})


class Config:
    spy = ""
    report = ""


def _configure(_request: JobRequest, _machine: Machine, _job_id: str) -> Config:
    return Config()


TABLE = Table((Stage("spy", ("model",), _spy, 1.0, timedelta(seconds=60)),), _configure, _report)
