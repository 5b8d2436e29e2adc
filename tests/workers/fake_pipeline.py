"""A pipeline of four tiny numeric stages, in which a test can choose what goes wrong, and where.

The "model" is a JSON object: `values`, the numbers to work on; `pause`, seconds that each step takes; `trace`, a file
that gets a line `stage pid` when a step begins; `trouble`, a stage to what happens in it.
"""

from __future__ import annotations

import json
import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from pipeline.stage import Delivery, Stage, StageContext

CHUNKS = 4


class ValuesInvalid(ValueError):
    code = "model_invalid"


def _model(context: StageContext) -> dict[str, Any]:
    return json.loads(context.model_path.read_bytes())


def _step(context: StageContext, stage: str, step: str = "") -> None:
    model = _model(context)
    with Path(model["trace"]).open("a") as trace:
        trace.write(f"{stage}{step} {os.getpid()}\n")
    _trouble(context, model.get("trouble", {}).get(stage))
    end = time.monotonic() + model.get("pause", 0.0)
    while time.monotonic() < end:
        context.check()
        time.sleep(0.01)


def _trouble(context: StageContext, trouble: str | None) -> None:
    if trouble == "refused":
        raise ValuesInvalid("values: got a word, expected numbers; send numbers")
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
    if trouble == "slow":
        while True:
            context.progress(0.5)
            time.sleep(0.01)


def admit(context: StageContext) -> bytes:
    _step(context, "admit")
    return json.dumps(_model(context)["values"]).encode()


def squares(context: StageContext) -> bytes:
    values = json.loads(context.read("admit"))
    parts = []
    for i in range(CHUNKS):

        def compute(i: int = i) -> bytes:
            _step(context, "squares", f"[{i}]")
            return json.dumps([v * v for v in values[i::CHUNKS]]).encode()

        parts.append(json.loads(context.chunk(f"part {i}", compute)))
        context.progress((i + 1) / CHUNKS)
    return json.dumps(parts).encode()


def total(context: StageContext) -> bytes:
    _step(context, "total")
    result = sum(sum(part) for part in json.loads(context.read("squares")))
    context.event("plan", {"total": result})
    return json.dumps(result * context.request["budget"]["max_drop"]).encode()


def certify(context: StageContext) -> bytes:
    _step(context, "certify")
    data = context.dataset_path.read_text() if context.dataset_path is not None else ""
    return json.dumps({"total": json.loads(context.read("total")), "data": data}).encode()


def deliver(context: StageContext) -> Delivery:
    certificate = json.loads(context.read("certify"))
    layers = [{"name": f"layer {i}", "bits": len(part)} for i, part in enumerate(json.loads(context.read("squares")))]
    artifacts = {
        "model": b"\x00\x01" + context.read("total"),
        "plan": json.dumps({"layers": layers}).encode(),
        "frontier": b"[]",
        "sensitivity": b"{}",
    }
    return Delivery(_model(context).get("outcome", "met"), certificate, artifacts)


def _nothing(_: Any) -> None:
    return None


STAGES = (
    Stage("admit", ("model",), _nothing, admit, 1.0, timedelta(seconds=60)),
    Stage("squares", ("admit",), _nothing, squares, 4.0, timedelta(seconds=60)),
    Stage("total", ("squares",), lambda request: request["budget"]["max_drop"], total, 1.0, timedelta(seconds=1)),
    Stage("certify", ("total", "dataset"), _nothing, certify, 2.0, timedelta(seconds=60)),
)
