"""Transformers planned for latency: how fast the delivered files are, and how well that was predicted.

    python -m benchmarks.speed [FOLDER]

A transformer encoder of 4 layers and a width of 384 that reads a digit as 8 rows, trained here; FOLDER keeps it for the
next run. It is planned for the latency of one sample and of a batch of 64, with the defaults and with 8-bit
activations; of the two plans the faster by its own prediction counts. Beside it stand the uniform files of ONNX
Runtime's own tools: static int8 (QDQ), dynamic int8, and MatMulNBits of 4 bits. All files of one batch take turns in
one process, on one thread, and ratios are those of medians. Last comes one JSON object:

    transformer_speedup_one_row, transformer_speedup_batch64     float over the delivered file
    latency_prediction_error    the largest |predicted - measured| / measured of the chosen plans, as their jobs tell it
    speed_vs_ort_best           the fastest of ONNX Runtime's files that loses no more than the budget, over ours; the
                                smaller of both batches
    slowest_vs_float            float over the slowest of all four delivered files
"""

from __future__ import annotations

import io
import json
import logging
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from onnxruntime.quantization.shape_inference import quant_pre_process
from rich.console import Console
from rich.table import Table

import pipeline
from evaluation.latency import Timed, measure_alternatives
from evaluation.runner import OnnxRunner
from examples.networks import DigitsTransformer, save, train

LAYERS, WIDTH, HEADS, EPOCHS, RATE = 4, 384, 6, 26, 8e-4
BATCHES = {"one_row": 1, "batch64": 64}
MAX_DROP = 0.02
REQUEST: dict[str, Any] = {
    "budget": {"metric": "top1", "max_drop": MAX_DROP},
    "objective": "latency",
    "weights": {"rounding": "nearest"},
}
REQUESTS: dict[str, dict[str, Any]] = {"defaults": {}, "8-bit activations": {"activations": {"bits": [8]}}}
PLANNED, CALIBRATION = 256, 256
TIMED_SECONDS = 6.0


@dataclass(frozen=True)
class Candidate:
    """A file of one batch, what it gets right of the images that no tool saw, and its own prediction if it is ours."""

    model: bytes
    accuracy: float
    latency: Mapping[str, Any] | None = None


def main() -> None:
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="bench-speed-") as scratch:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(scratch)
        model, data = trained(folder)
        with np.load(data) as arrays:
            images, labels = arrays["image"], arrays["labels"]
        figures: dict[str, float] = {}
        errors, beside, slowest = [], [], []
        for name, batch in BATCHES.items():
            ours, others = candidates(fixed(model, batch), images, labels, batch, Path(scratch))
            times = in_turns({**ours, **others}, images[:batch])
            show(name, {**ours, **others}, times)
            chosen = min(ours, key=lambda one: predicted_ms(ours[one]))
            figures[f"transformer_speedup_{name}"] = times["float"] / times[chosen]
            least = others["float"].accuracy - MAX_DROP
            kept = [one for one in others if one != "float" and others[one].accuracy >= least]
            beside.append(min(times[one] for one in kept) / times[chosen])
            slowest.append(min(times["float"] / times[one] for one in ours))
            errors.append(prediction_error(ours[chosen]))
    figures["latency_prediction_error"] = max(errors)
    figures["speed_vs_ort_best"] = min(beside)
    figures["slowest_vs_float"] = min(slowest)
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


def trained(folder: Path) -> tuple[Path, Path]:
    """The network's file and the images that training did not see."""
    model, data = folder / "transformer.onnx", folder / "transformer.npz"
    if not (model.exists() and data.exists()):
        torch.manual_seed(0)
        network = DigitsTransformer(LAYERS, WIDTH, HEADS)
        train(network, EPOCHS, RATE)
        save(network, folder, "transformer")
    return model, data


def fixed(path: Path, batch: int) -> bytes:
    """The network for calls of so many samples: what a latency is measured of."""
    model = onnx.load(path)
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    return bytes(model.SerializeToString())


def candidates(
    model: bytes, images: NDArray[np.float32], labels: NDArray[np.int64], batch: int, scratch: Path
) -> tuple[dict[str, Candidate], dict[str, Candidate]]:
    """The files of the plans, and the float network with those of ONNX Runtime's tools."""

    def accuracy(file: bytes) -> float:
        logits = OnnxRunner(file, 1).first_output({"image": images[PLANNED:]}, batch)
        return float((logits.argmax(axis=1) == labels[PLANNED:]).mean())

    ours = {}
    for name, change in REQUESTS.items():
        samples = {"image": images[:PLANNED], "labels": labels[:PLANNED]}
        request, machine = {**REQUEST, **change}, pipeline.Machine(threads=1)
        result = pipeline.plan(model, samples, request, cache=scratch / "cache", machine=machine)
        latency = json.loads(result.artifacts["plan"])["latency"]
        ours[name] = Candidate(result.model, accuracy(result.model), latency)
    files = {"float": model, **dict(ort_files(model, images, batch, scratch))}
    return ours, {name: Candidate(file, accuracy(file)) for name, file in files.items()}


def ort_files(model: bytes, images: NDArray[np.float32], batch: int, scratch: Path) -> Iterator[tuple[str, bytes]]:
    """One format for all layers each, by the tools that come with ONNX Runtime."""
    source, prepared, made = (scratch / f"{name}.onnx" for name in ("source", "prepared", "made"))
    source.write_bytes(model)
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    ready = onnx.load(prepared)
    del ready.graph.value_info[:]  # torch's shapes contradict what the tools infer
    onnx.save(ready, prepared)

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._places = iter(range(0, CALIBRATION, batch))

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            place = next(self._places, None)
            return None if place is None else {"image": images[place : place + batch]}

    eight = {"per_channel": True, "weight_type": QuantType.QInt8}
    quantize_static(str(prepared), str(made), Reader(), activation_type=QuantType.QUInt8, **eight)
    yield "static int8", made.read_bytes()
    quantize_dynamic(str(prepared), str(made), **eight)
    yield "dynamic int8", made.read_bytes()
    for block in (32, 128):
        quantizer = MatMulNBitsQuantizer(
            onnx.load(prepared), bits=4, block_size=block, is_symmetric=True, accuracy_level=4
        )
        quantizer.process()
        written = io.BytesIO()
        onnx.save(quantizer.model.model, written)
        yield f"MatMulNBits 4 bits, block {block}", written.getvalue()


def in_turns(files: Mapping[str, Candidate], images: NDArray[np.float32]) -> dict[str, float]:
    """Milliseconds of one run of each file: the median over rounds in which all take turns."""
    timed = [Timed(file.model, {"image": images}) for file in files.values()]
    latencies = measure_alternatives(timed, 1, relative_spread=0.0, most_seconds=TIMED_SECONDS)
    return {name: latency.median_ms for name, latency in zip(files, latencies, strict=True)}


def predicted_ms(file: Candidate) -> float:
    if file.latency is None:
        raise TypeError("only files of plans have a prediction")
    return float(file.latency["predicted_ms"])


def prediction_error(file: Candidate) -> float:
    if file.latency is None:
        raise TypeError("only files of plans have a prediction")
    measured = float(file.latency["measured"]["quantized"]["median_ms"])
    return abs(predicted_ms(file) - measured) / measured


def show(name: str, files: Mapping[str, Candidate], times: Mapping[str, float]) -> None:
    table = Table("file", "bytes", "top-1", "ms", "float over it", "predicted, and measured by the job, ms", title=name)
    for own, file in files.items():
        told = ""
        if file.latency is not None:
            measured = file.latency["measured"]
            told = f"{predicted_ms(file):.3f}, {measured['quantized']['median_ms']:.3f}"
        ratio = times["float"] / times[own]
        table.add_row(own, f"{len(file.model):,}", f"{file.accuracy:.4f}", f"{times[own]:.3f}", f"{ratio:.2f}", told)
    Console(file=sys.stderr, width=140).print(table)


if __name__ == "__main__":
    main()
