"""A pipeline with a stage of sixteen chunks, each of which waits until two processes have had one."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from app.schemas.job_request import JobRequest
from pipeline.context import Context
from pipeline.stage import JobResult, Machine, Stage, Table

CHUNKS = 16


def _given(context: Context) -> dict[str, Any]:
    return json.loads(context.model_path.read_bytes())


def _admit(context: Context, _config: object) -> bytes:
    return json.dumps(_given(context)["values"]).encode()


def _squares(context: Context, _config: object) -> bytes:
    values = json.loads(context.read("admit"))
    trace = Path(_given(context)["trace"])

    def compute(place: int) -> bytes:
        with trace.open("a") as file:
            file.write(f"chunk{place} {os.getpid()}\n")
        # Whoever is first holds its chunk until another process has come.
        while len({line.split()[1] for line in trace.read_text().splitlines()}) < 2:
            context.check()
            time.sleep(0.01)
        return json.dumps(sum(value * value for value in values[place::CHUNKS])).encode()

    return json.dumps([json.loads(part) for part in context.spread([f"{i}" for i in range(CHUNKS)], compute)]).encode()


def _report(context: Context, _config: object) -> JobResult:
    return JobResult("met", {"total": sum(json.loads(context.read("squares")))}, {})


@dataclass(frozen=True)
class Config:
    admit: str = ""
    squares: str = ""
    report: str = ""


def _configure(_request: JobRequest, _machine: Machine, _job_id: str) -> Config:
    return Config()


TABLE = Table(
    (
        Stage("admit", ("model",), _admit, 1.0, timedelta(seconds=60)),
        Stage("squares", ("admit",), _squares, 4.0, timedelta(seconds=600), spreads=True),
    ),
    _configure,
    _report,
)
