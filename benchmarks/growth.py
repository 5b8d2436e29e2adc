"""How time and memory of a job grow with the number of weights that are planned, and with their size.

    python -m benchmarks.growth [--sites 20 80] [--weights 1 10]

Residual networks of square matrices, untrained, each planned with nothing but a budget on a few samples, in a process
of its own, on one thread: 1 million weights in every number of sites, and every number of weights, in millions, in the
first number of sites. Of every stage is told

- its seconds, in float passes: the time that ONNX Runtime takes for the float network over all samples;
- the highest memory while it ran (VmHWM, which the kernel takes anew at every stage), less what the process held once
  everything was imported, in float files. The arrays of the samples and the arenas of allocators count as well.

`report` is what comes after the last stage: the documents of the job.

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

from pipeline.events import Event, StageBegan, StageEnded
from pipeline.process import settle

SITES, MILLIONS = (20, 80), (1, 10)
SAMPLES, CLASSES = 256, 10
REQUEST: dict[str, Any] = {"budget": {"max_drop": 0.05}}
ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth")
    parser.add_argument("--sites", type=int, nargs="+", default=SITES)
    parser.add_argument("--weights", type=int, nargs="+", default=MILLIONS, help="in millions")
    given = parser.parse_args()
    sizes = dict.fromkeys([(sites, given.weights[0]) for sites in given.sites])
    sizes |= dict.fromkeys([(given.sites[0], weights) for weights in given.weights])
    measured = [_in_a_process(*size) for size in sizes]
    for what, title in (("passes", "float passes"), ("files", "peak memory above the imports, float files")):
        table = Table(
            "stage", *(f"{row['sites']} sites, {row['weights'] / 1e6:.0f} M" for row in measured), title=title
        )
        for stage in measured[0]["stages"]:
            table.add_row(stage, *(f"{row['stages'][stage][what]:.1f}" for row in measured))
        table.add_row("job", *(f"{row[what]:.1f}" for row in measured))
        Console(stderr=True).print(table)
    print(json.dumps({"growth": measured}))


def _in_a_process(sites: int, millions: int) -> dict[str, Any]:
    command = [sys.executable, "-c", f"from benchmarks.growth import job; job({sites}, {millions})"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def network(sites: int, weights: int) -> bytes:
    """`x + Relu(W x)` over and over, `sites` matrices with about `weights` values together, and a small head."""
    rng = np.random.default_rng(0)
    width = round((weights / sites) ** 0.5)
    nodes, initializers, value = [], [], "x"
    for place in range(sites - 1):
        matrix = rng.normal(0, 0.5 / width**0.5, (width, width)).astype(np.float32)
        initializers.append(numpy_helper.from_array(matrix, f"w{place}"))
        nodes.append(helper.make_node("MatMul", [value, f"w{place}"], [f"m{place}"], name=f"matmul{place}"))
        nodes.append(helper.make_node("Relu", [f"m{place}"], [f"r{place}"], name=f"relu{place}"))
        nodes.append(helper.make_node("Add", [value, f"r{place}"], [f"s{place}"], name=f"add{place}"))
        value = f"s{place}"
    head = rng.normal(0, 1 / width**0.5, (width, CLASSES)).astype(np.float32)
    initializers.append(numpy_helper.from_array(head, "head"))
    nodes.append(helper.make_node("MatMul", [value, "head"], ["logits"], name="head"))
    graph = helper.make_graph(
        nodes,
        "growth",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", width])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", CLASSES])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return bytes(model.SerializeToString())


def job(sites: int, millions: int) -> None:
    """One network; its figures are the last line."""
    from pipeline.job import plan
    from pipeline.stage import Machine

    with tempfile.TemporaryDirectory(prefix="bench-growth-") as folder:
        path, data = Path(folder, "network.onnx"), Path(folder, "data.npz")
        path.write_bytes(network(sites, millions * 1_000_000))
        size = path.stat().st_size
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        width = session.get_inputs()[0].shape[1]
        samples = {"x": np.random.default_rng(1).normal(size=(SAMPLES, width)).astype(np.float32)}
        np.savez(data, **samples)  # type: ignore[arg-type]  # its parameters have no names of their own
        float_pass = _float_pass(session, samples)
        del session
        stages = Stages()
        began = time.perf_counter()
        result = plan(path, data, REQUEST, progress=stages, machine=Machine(threads=1))
        seconds = time.perf_counter() - began
        stages.end("report")
        peak = max(stages.peaks.values()) - stages.before
    figures = {
        "sites": sites,
        "weights": millions * 1_000_000,
        "float_bytes": size,
        "float_pass_seconds": float_pass,
        "before_bytes": stages.before,
        "seconds": round(seconds, 1),
        "passes": round(seconds / float_pass, 1),
        "files": round(peak / size, 2),
        "outcome": result.outcome,
        "stages": {
            stage: {
                "seconds": round(stages.seconds[stage], 2),
                "passes": round(stages.seconds[stage] / float_pass, 1),
                "files": round((stages.peaks[stage] - stages.before) / size, 2),
                "kept": round((stages.kept[stage] - stages.before) / size, 2),
            }
            for stage in stages.peaks
        },
    }
    print(json.dumps(figures))


def _float_pass(session: onnxruntime.InferenceSession, samples: dict[str, Any]) -> float:
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        session.run(None, samples)
        times.append(time.perf_counter() - began)
    return min(times)


@dataclass
class Stages:
    """What every stage of a job takes, in seconds and bytes: its peak, and what is held when it ends."""

    before: int = 0
    peaks: dict[str, int] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    _began: float = 0.0

    def __post_init__(self) -> None:
        import pipeline.workspace  # noqa: F401 - what all stages import is no memory of the job

        settle(threads=1)  # as the process of a worker does
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed of the network that was made here
        self.before = memory("VmRSS")

    def __call__(self, event: Event) -> None:
        if isinstance(event, StageBegan):
            self._begin()
        elif isinstance(event, StageEnded) and event.ran:
            self.end(event.stage)

    def end(self, stage: str) -> None:
        """Everything since the last stage began or ended was this one."""
        self.peaks[stage] = memory("VmHWM")
        self.kept[stage] = memory("VmRSS")
        self.seconds[stage] = time.perf_counter() - self._began
        self._begin()

    def _begin(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")
        self._began = time.perf_counter()


def memory(kind: str) -> int:
    """Bytes of this process: `VmRSS` those that it has now, `VmHWM` the most that it had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{kind}:"))


if __name__ == "__main__":
    main()
