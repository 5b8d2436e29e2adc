"""How small files become, what they lose, and what finding them takes: the figures of the job's main promise.

    python -m benchmarks.smaller DATA [--only weights activations coded uniform] [--networks NAME ...] [--seeds N]

DATA as for `benchmarks.job`. Points are lost on evaluation images that no job saw, each with its paired standard error;
`expected` is what would be lost without the luck of these labels (`evaluation.expected_drop`). With `--seeds` the part
`activations` is run with so many seeds, each of which divides the samples in another way. Its figures are those of the
first, and `weights_activations_seeds` has all. The last line is one JSON object.

| part | what it asks |
|---|---|
| weights | the main job and another budget for it, through a service: bytes, points, float passes |
| activations | the same with 8-bit activations and coded weights, as a library call |
| coded | what a coded weight takes over its entropy, and to load |
| uniform | whether any file with one format for all weights is smaller than ours and keeps the same budget |
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import pipeline
from benchmarks import coded
from benchmarks.job import REQUEST, float_pass_seconds, prepare
from benchmarks.peers.networks import NAMES, PeerCase, cases
from benchmarks.real_network import THREADS
from benchmarks.replanning import SECOND_BUDGET
from benchmarks.service.running import running_service
from evaluation.expected_drop import ExpectedDrop
from evaluation.runner import OnnxRunner
from pipeline.configure import CODED_BY_DEFAULT
from quantization.formats import CodedFormat

BATCH = 250
UNIFORM = (*NAMES, "residual")
BUDGETS = (0.003, 0.005, 0.01, 0.02, 0.03, 0.05)
CODED = tuple(CodedFormat(tenths).name for tenths in CODED_BY_DEFAULT)
WITH_ACTIVATIONS = {
    **REQUEST,
    "activations": {"bits": [8]},
    "weights": {
        "formats": [*(CodedFormat(tenths).name for tenths in CODED_BY_DEFAULT), "int5/channel", "int8/channel"]
    },
}


class Unseen:
    """The float network on images that no job saw."""

    def __init__(self, model: bytes, name: str, images: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        self._inputs = {name: images}
        self._labels = labels
        self._outputs = self._run(model)
        expected = ExpectedDrop.of(self._outputs, labels)
        if expected is None:
            raise ValueError("the network gives no finite logits")
        self._expected = expected

    def lost(self, model: bytes) -> dict[str, float]:
        """Points of accuracy that a file loses, by the labels and expected, with standard errors."""
        outputs = self._run(model)
        by_labels = self._right(self._outputs).astype(float) - self._right(outputs)
        expected = self._expected.losses(outputs, np.arange(len(self._labels)))
        points = {"drop_points": by_labels, "expected_drop_points": expected}
        figures = {}
        for name, losses in points.items():
            figures[name] = round(100 * float(losses.mean()), 3)
            figures[f"{name}_stderr"] = round(100 * float(losses.std() / math.sqrt(len(losses))), 3)
        return figures

    def _run(self, model: bytes) -> NDArray[Any]:
        return OnnxRunner(model, THREADS).first_output(self._inputs, BATCH)

    def _right(self, outputs: NDArray[Any]) -> NDArray[np.bool_]:
        return outputs.argmax(axis=1) == self._labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parts: dict[str, Callable[[Path], dict[str, Any]]] = {
        "weights": weights,
        "activations": lambda data: activations(data, arguments.seeds),
        "coded": lambda _data: coded.figures(),
        "uniform": lambda data: uniform(data, tuple(arguments.networks)),
    }
    parser.add_argument("--only", nargs="*", choices=parts, default=list(parts), metavar="PART")
    parser.add_argument("--networks", nargs="*", choices=UNIFORM, default=UNIFORM, metavar="NAME", help="of `uniform`")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="of `activations`")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {}
    for part in arguments.only:
        own = parts[part](arguments.data)
        print(json.dumps({part: own}), file=sys.stderr, flush=True)
        figures |= own
    print(json.dumps(figures))


def weights(data: Path) -> dict[str, Any]:
    """The main job, and another budget for it; from POST to `succeeded`."""
    with tempfile.TemporaryDirectory(prefix="bench-smaller-") as folder:
        work = Path(folder)
        case = prepare(data, work)
        unseen = _unseen(data, work)
        float_pass = float_pass_seconds(case)
        with running_service(work / "home") as service:
            took, files = [], []
            job = None
            for request in (REQUEST, SECOND_BUDGET):
                started = time.perf_counter()
                if job is None:
                    job = service.submit(case.model, case.calibration, request)
                else:
                    job = service.replan(job, request)
                service.finished(job)
                took.append((time.perf_counter() - started) / float_pass)
                files.append(service.content(job, "model.onnx"))
        return {
            "weights_file_bytes": len(files[0]),
            **unseen.lost(files[0]),
            "float_passes": round(took[0], 1),
            "replan_float_passes": round(took[1], 1),
        }


def activations(data: Path, seeds: int) -> dict[str, Any]:
    """With 8-bit activations: the figures of the first of so many seeds, and the bytes and expected drop of each."""
    with tempfile.TemporaryDirectory(prefix="bench-smaller-") as folder:
        work = Path(folder)
        case = prepare(data, work)
        unseen = _unseen(data, work)
        runs = []
        for seed in range(seeds):
            result = pipeline.plan(case.model, case.calibration, {**WITH_ACTIVATIONS, "seed": seed})
            runs.append({"file_bytes": len(result.model), **unseen.lost(result.model)})
            print(json.dumps({"seed": seed, **runs[-1]}), file=sys.stderr, flush=True)
    figures: dict[str, Any] = {f"weights_activations_{name}": value for name, value in runs[0].items()}
    if seeds > 1:
        every = {name: [run[name] for run in runs] for name in ("file_bytes", "expected_drop_points")}
        means = {f"{name}_mean": round(statistics.fmean(values), 3) for name, values in every.items()}
        figures["weights_activations_seeds"] = {**every, **means}
    return figures


def _unseen(data: Path, work: Path) -> Unseen:
    with np.load(work / "evaluation.npz") as archive:
        return Unseen((data / "resnet20.onnx").read_bytes(), "input", archive["input"], archive["labels"])


def uniform(data: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """Ours against every file with one format for all weights: networks times budgets.

    One is better than ours if it takes fewer bytes, its own certificate on the same held-out samples says `met`, and it
    is expected to lose no more than the budget on samples that neither saw.
    """
    table = Table("network", "budget", "ours, bytes", "outcome", "uniform that are smaller", "of these keep the budget")
    compared, worse = 0, []
    with tempfile.TemporaryDirectory(prefix="bench-smaller-") as folder:
        for case in cases(data, Path(folder), names):
            rivals = _Rivals(case, Path(folder) / case.name / "cache")
            for budget in BUDGETS:
                result = rivals.plan(budget)
                if result.outcome != "met":
                    table.add_row(case.name, str(budget), f"{len(result.model):,}", str(result.outcome), "", "")
                    continue
                smaller = rivals.smaller(result)
                better = [name for name in smaller if rivals.keeps(name, budget)]
                compared += 1
                worse += [f"{case.name}, {budget}: {name}" for name in better]
                shown = (f"{len(result.model):,}", "met", ", ".join(smaller), ", ".join(better))
                table.add_row(case.name, str(budget), *shown)
    Console(file=sys.stderr).print(table)
    return {"uniform_compared": compared, "worse_than_uniform": len(worse), "uniform_better": worse}


class _Rivals:
    """The uniform files of a network, each made and measured once, when it is first asked for."""

    def __init__(self, case: PeerCase, cache: Path) -> None:
        self._case = case
        self._cache = cache
        self._unseen = Unseen(case.model.read_bytes(), case.input, case.fresh, case.labels)
        self._measured: dict[str, tuple[float, float]] = {}
        self._applied: dict[str, Callable[[], tuple[float, float]]] = {}

    def plan(self, budget: float) -> pipeline.JobResult:
        request = {"budget": {"metric": "top1", "max_drop": budget}}
        return pipeline.plan(self._case.model, self._case.samples, request, cache=self._cache)

    def smaller(self, result: pipeline.JobResult) -> list[str]:
        """The names of those that take fewer bytes than the file of `result`."""
        names = []
        for row in (result.frontier or {})["uniform"]:
            formats = row["formats"]
            name = "+".join(sorted(set(formats.values())))
            plan = copy.deepcopy(dict(result.plan or {}))
            for layer in plan["layers"]:
                layer["format"] = formats[layer["name"]]
            self._applied.setdefault(name, partial(self._measure, plan))
            if row["cost"] < len(result.model):
                names.append(name)
        return names

    def keeps(self, name: str, budget: float) -> bool:
        """Whether it loses no more than `budget`, on the held-out samples and on those that nobody saw."""
        if name not in self._measured:
            self._measured[name] = self._applied[name]()
        return max(self._measured[name]) <= budget

    def _measure(self, plan: dict[str, Any]) -> tuple[float, float]:
        """What is lost on the held-out samples, and on those that nobody saw."""
        applied = pipeline.apply(self._case.model, plan, self._case.samples, cache=self._cache)
        lost = self._unseen.lost(applied.model)["expected_drop_points"] / 100
        return float((applied.certificate or {})["drop"]), lost


if __name__ == "__main__":
    main()
