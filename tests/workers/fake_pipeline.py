"""A pipeline of four tiny numeric stages, in which a test can choose what goes wrong, and where.

The "model" is a JSON object: `values`, the numbers to work on; `trace`, a file that gets a line `stage pid` when a step
begins; `hold`, steps at which the job waits, and listens, until there is a file `<trace>.go <step>`, which the fixture
`let_go` makes; `trouble`, a stage to what happens in it.
"""

from __future__ import annotations

import json
import os
import re
import socket
import stat
import struct
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from app.schemas.job_request import JobRequest
from pipeline.context import Context
from pipeline.events import PlanEvaluated
from pipeline.stage import JobResult, Machine, Stage, Table

CHUNKS = 4


_kept: list[bytes] = []


class ValuesInvalid(ValueError):
    code = "model_invalid"


def _model(context: Context) -> dict[str, Any]:
    return json.loads(context.model_path.read_bytes())


def _step(context: Context, stage: str, step: str = "") -> None:
    model = _model(context)
    with Path(model["trace"]).open("a") as trace:
        trace.write(f"{stage}{step} {os.getpid()}\n")
    _trouble(context, model.get("trouble", {}).get(stage))
    gate = Path(f"{model['trace']}.go {stage}{step}")
    while f"{stage}{step}" in model.get("hold", ()) and not gate.exists():
        context.check()
        time.sleep(0.01)


def _trouble(context: Context, trouble: str | None) -> None:
    if trouble == "refused":
        raise ValuesInvalid("values: got a word, expected numbers; send numbers")
    if trouble == "keeps":
        _kept.append(bytes([1]) * 600 * 1024**2)
        raise ValuesInvalid("values: got too many")
    if trouble == "memory":
        raise MemoryError
    if trouble == "torch memory":
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
    if trouble == "fault":
        raise KeyError("/secret/path")
    if trouble == "kill":
        os.kill(os.getpid(), 9)
    if trouble == "allocate":
        bytearray(8 * 1024**3)
    if trouble == "deaf":
        while not Path(_model(context)["trace"] + ".wake").exists():
            time.sleep(0.05)
    if trouble == "frozen":  # native code that holds the interpreter's lock, and never comes back
        re.fullmatch("(a|aa)+$", "a" * 60 + "b")
    if trouble in ("lies", "babbles", "floods"):
        _misbehave(trouble)
    if trouble == "slow":
        while True:
            context.progress(0.5)
            time.sleep(0.01)


def _misbehave(how: str) -> None:
    """Speak over the socket to the worker, which is the one that this process has."""
    descriptor = next(fd for fd in range(3, 64) if _is_socket(fd))
    with socket.socket(fileno=descriptor) as wire:
        wire.setblocking(True)
        header = {"lies": {"do": "failed", "code": "no such code", "detail": ""}, "floods": {"do": "store", "key": "x"}}
        text = json.dumps(header.get(how, {"do": "dance"})).encode()
        size = 2**50 if how == "floods" else 0
        wire.sendall(struct.pack(">IQ", len(text), size) + text)
        while True:
            time.sleep(1.0)


def _is_socket(descriptor: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except OSError:
        return False


def admit(context: Context, _config: object) -> bytes:
    _step(context, "admit")
    return json.dumps(_model(context)["values"]).encode()


def squares(context: Context, _config: object) -> bytes:
    values = json.loads(context.read("admit"))
    parts = []
    for i in range(CHUNKS):

        def compute(i: int = i) -> bytes:
            _step(context, "squares", f"[{i}]")
            return json.dumps([v * v for v in values[i::CHUNKS]]).encode()

        parts.append(json.loads(context.chunk(f"part {i}", compute)))
        context.progress((i + 1) / CHUNKS)
    return json.dumps(parts).encode()


def total(context: Context, factor: float) -> bytes:
    _step(context, "total")
    result = sum(sum(part) for part in json.loads(context.read("squares")))
    context.event(PlanEvaluated({"total": result}))
    return json.dumps(result * factor).encode()


def certify(context: Context, _config: object) -> bytes:
    _step(context, "certify")
    path = context.path_of("dataset")
    data = "" if path is None else path.read_text()
    return json.dumps({"total": json.loads(context.read("total")), "data": data}).encode()


def report(context: Context, _config: object) -> JobResult:
    certificate = json.loads(context.read("certify"))
    layers = [{"name": f"layer {i}", "bits": len(part)} for i, part in enumerate(json.loads(context.read("squares")))]
    artifacts = {
        "model": b"\x00\x01" + context.read("total"),
        "plan": json.dumps({"layers": layers}).encode(),
        "frontier": b"[]",
        "sensitivity": b"{}",
    }
    return JobResult(_model(context).get("outcome", "met"), certificate, artifacts)


@dataclass(frozen=True)
class Config:
    """The total is a share of the sum: the budget of the request, which means something else elsewhere."""

    total: float
    admit: str = ""
    squares: str = ""
    certify: str = ""
    report: str = ""


def configure(request: JobRequest, _machine: Machine, _job_id: str) -> Config:
    return Config(total=request.budget.max_drop)


TABLE = Table(
    (
        Stage("admit", ("model",), admit, 1.0, timedelta(seconds=60)),
        Stage("squares", ("admit",), squares, 4.0, timedelta(seconds=60)),
        Stage("total", ("squares",), total, 1.0, timedelta(seconds=1)),
        Stage("certify", ("total", "dataset"), certify, 2.0, timedelta(seconds=60)),
    ),
    configure,
    report,
)
