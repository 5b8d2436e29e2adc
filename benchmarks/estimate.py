"""What jobs were estimated to take before their long stages, beside what they took: seconds and memory.

    python -m benchmarks.estimate [--data DATA] [NAME ...]

Every network is trained for a moment in one process, and planned with nothing but a budget on one thread in another.
Nothing is fitted here: the coefficients stand in `pipeline.cost_model`, and were measured with the networks that
`FITTED` names. The seconds are those of the processor from the estimate to the end of the job: the estimate is that of
a machine with nothing else to do. DATA is a folder as for `benchmarks.job`, for the network `resnet20`. The last line
is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.certificates.entry import Array
from benchmarks.certificates.synthetic import digits
from benchmarks.certificates.training import Batch, exported, trained
from benchmarks.peers.networks import DigitsRecurrent, cases
from examples.networks import DigitsMobileNet, DigitsResNet, DigitsTransformer

SAMPLES = 2_000
REQUEST: dict[str, Any] = {"budget": {"metric": "top1", "max_drop": 0.02}}
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class Perceptron(nn.Module):
    """Four linear layers; 2.2 million weights."""

    def __init__(self, width: int = 1024) -> None:
        super().__init__()
        sizes = [64, width, width, width, 10]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes))

    def forward(self, image: Tensor) -> Tensor:
        x = image.flatten(1)
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        logits: Tensor = self.layers[-1](x)
        return logits


class Mixer(nn.Module):
    """An MLP-Mixer of four blocks over sixteen patches of 2 x 2."""

    def __init__(self, width: int = 128, patches: int = 16) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, width, 2, 2)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(8))
        self.tokens = nn.ModuleList(_two_layers(patches, 4 * patches) for _ in range(4))
        self.channels = nn.ModuleList(_two_layers(width, 4 * width) for _ in range(4))
        self.fc = nn.Linear(width, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = self.embed(image).flatten(2).mT
        for place, (tokens, channels) in enumerate(zip(self.tokens, self.channels, strict=True)):
            x = x + tokens(self.norms[2 * place](x).mT).mT
            x = x + channels(self.norms[2 * place + 1](x))
        logits: Tensor = self.fc(x.mean(1))
        return logits


def _two_layers(width: int, hidden: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


class Bottleneck(nn.Module):
    """ResNet50's block: narrow, 3 x 3, four times as wide."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        wide = 4 * channels
        sizes = ((channels_in, channels, 1, 1), (channels, channels, 3, stride), (channels, wide, 1, 1))
        self.convs = nn.ModuleList(nn.Conv2d(i, o, k, s, k // 2, bias=False) for i, o, k, s in sizes)
        self.norms = nn.ModuleList(nn.BatchNorm2d(o) for _, o, _, _ in sizes)
        same = stride == 1 and channels_in == wide
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels_in, wide, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norms[0](self.convs[0](x)))
        y = F.relu(self.norms[1](self.convs[1](y)))
        return F.relu(self.norms[2](self.convs[2](y)) + self.shortcut(x))


class DigitsResNet50(nn.Module):
    """ResNet50's layers and 23.5 million weights, for images of 8 x 8."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 64, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(64)
        blocks, channels_in = [], 64
        for channels, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
            for place in range(count):
                blocks.append(Bottleneck(channels_in, channels, stride if place == 0 else 1))
                channels_in = 4 * channels
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(2048, 10)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.blocks(F.relu(self.bn(self.stem(image)))).mean((2, 3)))
        return logits


@dataclass(frozen=True, slots=True)
class Trained:
    """A network for digits, and how it is trained."""

    make: Callable[[], nn.Module]
    steps: int = 300
    rate: float = 2e-3
    dynamo: bool = False


TRAINED = {
    "residual-16": Trained(lambda: DigitsResNet(16)),
    "residual-96": Trained(lambda: DigitsResNet(96)),
    "residual-160": Trained(lambda: DigitsResNet(160)),
    "transformer": Trained(DigitsTransformer, dynamo=True),
    "transformer-192": Trained(lambda: DigitsTransformer(width=192), rate=1e-3, dynamo=True),
    "depthwise": Trained(DigitsMobileNet),
    "recurrent": Trained(DigitsRecurrent),
    "perceptron": Trained(Perceptron, rate=1e-3),
    "mixer": Trained(Mixer, dynamo=True),
    "resnet50": Trained(DigitsResNet50, 60, 1e-3),
}
FITTED = frozenset({"depthwise", "residual-16", "residual-96", "transformer", "recurrent", "resnet20"})
"""Those with which coefficients were measured."""
READ = "resnet20"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="the folder of resnet20")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join((*TRAINED, READ)))
    arguments = parser.parse_args()
    names = arguments.names or [*([READ] if arguments.data else []), *TRAINED]
    if unknown := sorted(set(names) - {*TRAINED, READ}):
        parser.error(f"no network is called {', '.join(unknown)}; there are {', '.join((*TRAINED, READ))}")
    if READ in names and arguments.data is None:
        parser.error(f"{READ} is read from a folder; name it with --data")
    rows = []
    with tempfile.TemporaryDirectory(prefix="bench-estimate-") as work:
        for name in names:
            folder = Path(work) / name
            folder.mkdir()
            _in_a_process("prepare", name, folder, arguments.data)
            rows.append(_in_a_process("measure", name, folder, arguments.data))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
            shutil.rmtree(folder)
    _show(rows)
    errors = {key: [abs(row[f"{key}_error"]) for row in rows] for key in ("seconds", "memory")}
    figures = {
        "estimate_error": round(max(errors["seconds"]), 3),
        "estimate_error_median": round(statistics.median(errors["seconds"]), 3),
        "memory_error": round(max(errors["memory"]), 3),
    }
    print(json.dumps(figures))


def _show(rows: list[dict[str, Any]]) -> None:
    passes = ("float passes", "plans", "looks")
    table = Table("network", "weights", "estimated, s", "took, s", "error", *passes, "MB", "error")
    for row in rows:
        table.add_row(
            row["name"] + ("" if row["fitted"] else " (new)"),
            f"{row['weights']:,}",
            f"{row['estimated_seconds']:.1f}",
            f"{row['seconds']:.1f}",
            f"{row['seconds_error']:+.0%}",
            f"{row['float_passes']:.0f}",
            str(row["plans"]),
            str(row["looks"]),
            f"{row['estimated_bytes'] / 1e6:.0f} / {row['peak_bytes'] / 1e6:.0f}",
            f"{row['memory_error']:+.0%}",
        )
    Console(stderr=True, width=120).print(table)


def _in_a_process(what: str, name: str, folder: Path, data: Path | None) -> dict[str, Any]:
    arguments = ", ".join(map(repr, (name, str(folder), None if data is None else str(data))))
    command = [sys.executable, "-c", f"from benchmarks.estimate import {what}; {what}({arguments})"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **ONE_THREAD})
    return dict(json.loads(done.stdout.splitlines()[-1]))


def prepare(name: str, folder: str, data: str | None) -> None:
    """The network's files, `network.onnx` and `network.npz`."""
    work = Path(folder)
    if name == READ and data is not None:
        made = work / "made"
        made.mkdir()
        (case,) = cases(Path(data), made, (READ,))
        shutil.copy(case.model, work / "network.onnx")
        shutil.copy(case.samples, work / "network.npz")
    else:
        own = TRAINED[name]
        network = trained(own.make, _draw, _loss, steps=own.steps, rate=own.rate)
        example = {"image": _draw(np.random.default_rng(0), 2)["image"]}
        (work / "network.onnx").write_bytes(exported(network, example, ["logits"], dynamo=own.dynamo))
        images, labels = digits(np.random.default_rng(101), SAMPLES)
        np.savez(work / "network.npz", image=images, labels=labels)
    print("{}")


def _draw(rng: np.random.Generator, samples: int) -> dict[str, Array]:
    return dict(zip(("image", "labels"), digits(rng, samples), strict=True))


def _loss(network: nn.Module, batch: Batch) -> Tensor:
    logits: Tensor = network(batch["image"])
    return F.cross_entropy(logits, batch["labels"].to(torch.int64))


def measure(name: str, folder: str, _data: str | None) -> None:
    """One job; its figures are the last line."""
    import onnx

    import pipeline.workspace  # noqa: F401 - what stages import; a worker has it before its first job, too
    from app.schemas.parsing import parse_request, with_uploads
    from pipeline.events import WHOLE_JOB, Estimate, Event, PlanEvaluated
    from pipeline.process import settle
    from pipeline.run import run
    from pipeline.stage import Machine, Upload
    from pipeline.table import TABLE

    settle(1)
    work = Path(folder)
    model = work / "network.onnx"
    estimates: list[tuple[Estimate, float]] = []
    evaluated: list[PlanEvaluated] = []

    def report(event: Event) -> None:
        if isinstance(event, Estimate) and event.stage == WHOLE_JOB:
            estimates.append((event, time.process_time()))
        elif isinstance(event, PlanEvaluated):
            evaluated.append(event)

    uploads = {"model": Upload.of(model), "dataset": Upload.of(work / "network.npz")}
    request = parse_request(with_uploads(REQUEST, {kind: upload.sha256 for kind, upload in uploads.items()}))
    machine = Machine(threads=1)
    result = run(TABLE, request, uploads, cache=work / "cache", progress=report, machine=machine, job_id="job")
    ((estimate, told),) = estimates
    seconds = time.process_time() - told
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    weights = sum(int(np.prod(tensor.dims)) for tensor in onnx.load(model).graph.initializer)
    figures = {
        "name": name,
        "fitted": name in FITTED,
        "weights": weights,
        "estimated_seconds": round(estimate.seconds, 2),
        "seconds": round(seconds, 2),
        "seconds_error": round(estimate.seconds / seconds - 1, 3),
        "float_passes": round(estimate.float_passes or 0.0, 1),
        "plans": len(evaluated),
        "looks": (result.certificate or {})["looks"],
        "estimated_bytes": estimate.memory_bytes,
        "peak_bytes": peak,
        "memory_error": round(estimate.memory_bytes / peak - 1, 3),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
