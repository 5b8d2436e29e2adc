"""What a job takes by the size of the network: minutes, float passes, memory.

    python -m benchmarks.cost [WIDTH ...]

Residual networks of growing width, trained for a moment on handwritten digits, and planned with nothing but a budget on
600 images, each in a process of its own. A float pass is the time of ONNX Runtime for the float network over these
images, on as many threads, in the same run.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from rich.console import Console
from rich.table import Table

WIDTHS = (16, 48, 96)
SAMPLES = 600
REQUEST: dict[str, Any] = {"budget": {"metric": "top1", "max_drop": 0.02}}
ROUNDS = 5


def main() -> None:
    widths = tuple(map(int, sys.argv[1:])) or WIDTHS
    measured = [_in_a_process(width) for width in widths]
    table = Table(
        "weights", "float pass, s", "job, minutes", "float passes", "float file, MB", "peak memory, MB", "file"
    )
    for row in measured:
        table.add_row(
            f"{row['weights']:,}",
            f"{row['float_pass_seconds']:.2f}",
            f"{row['job_seconds'] / 60:.1f}",
            f"{row['float_passes']:.0f}",
            f"{row['float_bytes'] / 1e6:.1f}",
            f"{row['peak_bytes'] / 1e6:.0f}",
            f"{row['file_bytes']:,} {row['outcome']}",
        )
    Console(stderr=True).print(table)
    print(json.dumps({"cost": measured}))


def _in_a_process(width: int) -> dict[str, Any]:
    command = [sys.executable, "-c", f"from benchmarks.cost import job; job({width})"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def job(width: int) -> None:
    """One network; its figures are the last line."""
    from app.schemas.parsing import parse_request, with_uploads
    from examples.networks import DigitsResNet, save, train
    from pipeline.run import run
    from pipeline.stage import Machine, Upload
    from pipeline.store import FolderStore
    from pipeline.table import TABLE

    network = DigitsResNet(width)
    train(network, epochs=5, learning_rate=0.001)
    with tempfile.TemporaryDirectory(prefix="bench-cost-") as folder:
        model, data = save(network, Path(folder), "network")
        with np.load(data) as arrays:
            fewer = {name: arrays[name][:SAMPLES] for name in arrays.files}
        np.savez(data, **fewer)
        threads = os.cpu_count() or 1
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        (given,) = session.get_inputs()
        times = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            session.run(None, {given.name: fewer[given.name]})
            times.append(time.perf_counter() - began)
        uploads = {"model": Upload.of(model), "dataset": Upload.of(data)}
        request = parse_request(with_uploads(REQUEST, {kind: upload.sha256 for kind, upload in uploads.items()}))
        store = FolderStore(Path(folder) / "cache")
        began = time.perf_counter()
        result = run(TABLE, request, uploads, cache=store, machine=Machine(threads=threads), job_id="job")
        seconds = time.perf_counter() - began
        plan = json.loads(result.artifacts["plan"])
        figures = {
            "weights": sum(parameter.numel() for parameter in network.parameters()),
            "float_pass_seconds": min(times),
            "job_seconds": round(seconds, 1),
            "float_passes": round(seconds / min(times), 1),
            "float_bytes": model.stat().st_size,
            "file_bytes": len(result.artifacts["model"]),
            "outcome": plan["outcome"],
            "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
