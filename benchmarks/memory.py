"""The estimated peak of activations against that of a plain run, and how long the run takes that shows all shapes.

`python -m benchmarks.memory` prints the table. Every peak is that of a process of its own, without the arena of ONNX
Runtime and with an allocator that gives every freed value back: what the values themselves take.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.certificates.training import exported
from network.admission import AdmissionLimits, admit
from network.faithful import faithful
from network.memory import normalised_memory
from network.observed import observe

LIMITS = AdmissionLimits(max_model_bytes=1 << 30, max_memory_bytes=1 << 34, max_nodes=100_000)

_RUN = """
import resource, sys
import numpy as np
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.enable_cpu_mem_arena = False
options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
with np.load(sys.argv[2]) as arrays:
    feed = {name: arrays[name] for name in arrays}
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
with open("/proc/self/clear_refs", "w") as peaks:
    peaks.write("5")
before = peak()
session.run(None, feed)
print(peak() - before)
"""


@dataclass(frozen=True)
class Figures:
    """`activation_bytes` as estimated, `peak_bytes` of a plain run, seconds of loading, of observing all values."""

    name: str
    activation_bytes: int
    peak_bytes: int
    observe_seconds: float


class _Residual(nn.Module):
    """Bottlenecks in four stages, as in ResNet50."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.blocks, self.paths, width = nn.ModuleList(), nn.ModuleList(), 64
        for middle, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
            for step in [stride, *[1] * (count - 1)]:
                self.blocks.append(_bottleneck(width, middle, step))
                moves = width == 4 * middle
                self.paths.append(nn.Identity() if moves else nn.Conv2d(width, 4 * middle, 1, step))
                width = 4 * middle
        self.head = nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block, path in zip(self.blocks, self.paths, strict=True):
            x = torch.relu(block(x) + path(x))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def _bottleneck(width: int, middle: int, stride: int) -> nn.Module:
    parts: list[nn.Module] = []
    for before, after, kernel, step in ((width, middle, 1, 1), (middle, middle, 3, stride), (middle, 4 * middle, 1, 1)):
        parts += [nn.Conv2d(before, after, kernel, step, kernel // 2), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


class _Transformer(nn.Module):
    """Four layers of attention, over tokens of any number."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(1000, 256)
        layer = nn.TransformerEncoderLayer(256, 8, 1024, batch_first=True)
        self.layers, self.head = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False), nn.Linear(256, 10)

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layers(self.words(ids)).mean(1))
        return logits


class _Recurrent(nn.Module):
    """Two LSTM over steps of any number."""

    def __init__(self) -> None:
        super().__init__()
        self.cells, self.head = nn.LSTM(256, 512, 2, batch_first=True), nn.Linear(512, 2000)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = torch.softmax(self.head(self.cells(x)[0]), -1)
        return scores


def networks() -> Iterator[tuple[str, bytes, dict[str, NDArray[Any]]]]:
    """Name, file and one sample."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    free = {"x": {2: "height", 3: "width"}}
    image = {"x": rng.normal(size=(2, 3, 640, 640)).astype(np.float32)}
    yield "ResNet50 at 640 x 640", exported(_Residual(), image, ["y"], free=free), image
    ids = {"ids": rng.integers(0, 1000, (2, 1024))}
    yield "transformer, 1,024 tokens", exported(_Transformer(), ids, ["y"], free={"ids": {1: "n"}}, dynamo=True), ids
    steps = {"x": rng.normal(size=(2, 4000, 256)).astype(np.float32)}
    yield "LSTM, 4,000 steps", exported(_Recurrent(), steps, ["y"], free={"x": {1: "n"}}), steps


def figures(name: str, file: bytes, samples: dict[str, NDArray[Any]]) -> Figures:
    network = faithful(file, admit(file, LIMITS), samples, {name: array.shape[1:] for name, array in samples.items()})
    feed = {name: array[:1] for name, array in samples.items()}
    started = time.perf_counter()
    observe(network.proto, feed)
    seconds = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        model, data = Path(folder, "model.onnx"), Path(folder, "data.npz")
        model.write_bytes(network.proto.SerializeToString())
        np.savez(data, **feed)  # type: ignore[arg-type]  # its parameters have no names of their own
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "100000", "MALLOC_TRIM_THRESHOLD_": "100000"}
        command = [sys.executable, "-c", _RUN, str(model), str(data)]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return Figures(name, normalised_memory(network, 1).activation_bytes, int(run.stdout), seconds)


def main() -> None:
    print(f"{'network':28}{'estimate, MB':>14}{'peak, MB':>10}{'observed in, s':>16}")
    for network in networks():
        own = figures(*network)
        print(f"{own.name:28}{own.activation_bytes / 1e6:14.1f}{own.peak_bytes / 1e6:10.1f}{own.observe_seconds:16.1f}")


if __name__ == "__main__":
    main()
