"""Quantizers and the files that come out: sizes, accuracy, time and memory, beside what a user would pick instead.

    python -m benchmarks.quantization DATA

DATA is what `benchmarks.job` takes. The last line is one JSON object. Accuracy is in percentage points lost on the
evaluation images, which no step here sees; times are ratios of two things measured in turns.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from rich.console import Console
from rich.table import Table

from benchmarks.big import big_load_time_vs_float, big_time_vs_onnxruntime
from benchmarks.gptq import gptq_float_passes, gptq_gemm_time_ratio
from benchmarks.job import Case, accuracy, prepare
from benchmarks.service.running import running_service
from evaluation.latency import Timed, measure_alternatives
from evaluation.runner import OnnxRunner
from examples.networks import DigitsTransformer, save, train
from network.activations import find_activations
from network.graph import Network
from network.normalise import dump, normalise
from network.taps import Taps
from quantization.activations.quantized import QuantizedActivation
from quantization.activations.ranges import Histogram, calibrated
from quantization.export.export import export
from quantization.export.leftovers import leftovers
from quantization.formats import IntegerFormat, UnsignedFormat
from quantization.plans.bias_correction import with_biases
from quantization.plans.sequential import Effort, RoundedPlan, round_plan
from quantization.rounding.nearest import round_nearest

ROUNDING_IMAGES = 750  # as a job with 3,000 samples takes them
RANGE_IMAGES = 512
TIMED_IMAGES = 32
SECONDS = 20.0
BATCH = 128

Images = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Data:
    """A network, and its images: those that it is quantized with, and those that measure it."""

    name: str
    path: Path
    network: Network
    calibration: Images
    images: Images
    labels: NDArray[np.int64]

    @property
    def input(self) -> str:
        return self.network.inputs[0].name

    def points(self, model: bytes) -> float:
        """Top-1 accuracy in percentage points."""
        logits = OnnxRunner(model, 1).first_output({self.input: self.images}, BATCH)
        return 100 * float((logits.argmax(axis=1) == self.labels).mean())

    def drop(self, model: bytes) -> float:
        return self.points(dump(self.network)) - self.points(model)

    def time_ratio(self, model: bytes, other: bytes) -> float:
        """Time of one run of `model` over that of `other`, in turns, on one thread."""
        sample = {self.input: self.images[:TIMED_IMAGES]}
        first, second = measure_alternatives([Timed(model, sample), Timed(other, sample)], 1, most_seconds=SECONDS)
        return first.median_ms / second.median_ms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-quantization-") as folder:
        work = Path(folder)
        case = prepare(arguments.data, work)
        figures = jobs(case, work)
        resnet = _resnet20(case)
        figures |= uniform(resnet)
        figures["gptq_float_passes"] = gptq_float_passes(arguments.data)
        figures["gptq_gemm_time_ratio"] = gptq_gemm_time_ratio()
        figures["big_time_vs_onnxruntime"] = big_time_vs_onnxruntime()
        figures |= beside_static([resnet, _transformer(work)], work)
        figures["weights_only_time_vs_float"] = weights_only_time(resnet)
        figures["big_load_time_vs_float"] = big_load_time_vs_float()
    figures = {name: value if isinstance(value, int) else round(value, 3) for name, value in figures.items()}
    table = Table("figure", "measured")
    for name, value in figures.items():
        table.add_row(name, f"{value:,}")
    Console().print(table)
    print(json.dumps(figures))


def jobs(case: Case, work: Path) -> dict[str, Any]:
    """The whole job with a budget of one point, with float and with 8-bit activations."""
    figures: dict[str, Any] = {}
    before = accuracy(case.model, case.evaluation)
    for name, more in (("weights", {}), ("weights_activations", {"activations": {"bits": [8]}})):
        with running_service(work / name) as service:
            job = service.submit(case.model, case.calibration, {"budget": {"metric": "top1", "max_drop": 0.01}, **more})
            outcome = service.finished(job)["outcome"]
            file = work / f"{name}.onnx"
            file.write_bytes(service.content(job, "model.onnx"))
        figures[f"{name}_file_bytes"] = file.stat().st_size
        figures[f"{name}_drop_points"] = 100 * (before - accuracy(file, case.evaluation))
        print(
            f"{name}: {outcome}, {figures[f'{name}_file_bytes']:,} bytes, {figures[f'{name}_drop_points']:.2f} points "
            "lost on the evaluation images"
        )
    return figures


def uniform(data: Data) -> dict[str, float]:
    """One width for all weights, all rounded for each other; 2 bits are printed only."""
    figures = {}
    for bits in (4, 3, 2):
        drop = data.drop(_quantized(data, bits))
        print(f"uniform {bits} bits: {drop:.2f} points lost")
        if bits > 2:
            figures[f"uniform{bits}_drop_points"] = drop
    return figures


def beside_static(networks: list[Data], work: Path) -> dict[str, float]:
    """8-bit weights and activations beside `onnxruntime.quantization.quantize_static`: the worse of the networks."""
    times, accuracies = [], []
    for data in networks:
        ours, theirs = _quantized(data, 8, activations=8), _static(data, work)
        times.append(data.time_ratio(ours, theirs))
        accuracies.append(data.points(ours) - data.points(theirs))
        print(
            f"{data.name}, W8 A8: {data.points(ours):.2f} % in {times[-1]:.3f} of the time of quantize_static, which "
            f"has {data.points(theirs):.2f} %; float {data.points(dump(data.network)):.2f} %; {len(ours):,} and "
            f"{len(theirs):,} bytes"
        )
    return {"w8a8_time_vs_onnxruntime": max(times), "w8a8_accuracy_minus_onnxruntime_points": min(accuracies)}


def weights_only_time(data: Data) -> float:
    """Time of one run of a file with weights of 3 bits, which are unpacked at load, over that of the float file."""
    ratio = data.time_ratio(_quantized(data, 3), dump(data.network))
    print(f"3-bit weights: one run in {ratio:.3f} of the float network's time")
    return ratio


def _resnet20(case: Case) -> Data:
    with np.load(case.calibration) as archive:
        calibration = archive["input"][:ROUNDING_IMAGES]
    with np.load(case.evaluation) as archive:
        images, labels = archive["input"], archive["labels"]
    network = normalise(onnx.load(str(case.model)), {"input": images.shape[1:]})
    return Data("ResNet20", case.model, network, calibration, images, labels)


def _transformer(work: Path) -> Data:
    trained = DigitsTransformer()
    train(trained, epochs=60, learning_rate=2e-3)
    path, archive = save(trained, work, "transformer")
    with np.load(archive) as arrays:
        images, labels = arrays["image"], arrays["labels"]
    network = normalise(onnx.load(str(path)), {"image": images.shape[1:]})
    return Data("transformer", path, network, images[:RANGE_IMAGES], images[RANGE_IMAGES:], labels[RANGE_IMAGES:])


def _quantized(data: Data, bits: int, activations: int | None = None) -> bytes:
    """All weights in `bits`, rounded for each other; activations float, or all in so many bits."""
    network = data.network
    tensors = {} if activations is None else _activations(data, UnsignedFormat(activations))
    weights = {
        site.weight: round_nearest(network.weight(site.weight), IntegerFormat(bits), site.channel_axis)
        for site in network.sites
    }
    found: RoundedPlan = round_plan(network, weights, {data.input: data.calibration}, tensors, Effort(threads=1))
    return export(with_biases(network, found.biases), found.weights, {}, tensors, halves=leftovers(network))


def _activations(data: Data, format_: UnsignedFormat) -> dict[str, QuantizedActivation]:
    sites = find_activations(data.network)
    histograms = {site.tensors[0]: Histogram(site.tensors[0]) for site in sites}

    def visit(name: str, values: NDArray[np.generic]) -> None:
        histograms[name].add(np.asarray(values, dtype=np.float32))

    taps = Taps(data.network, list(histograms), 1)
    for start in range(0, RANGE_IMAGES, BATCH):
        taps.run({data.input: data.calibration[start : start + BATCH]}, visit)
    found = {}
    for site in sites:
        found |= dict.fromkeys(site.tensors, calibrated(histograms[site.tensors[0]], format_))
    return found


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    def __init__(self, data: Data) -> None:
        parts = (data.calibration[start : start + BATCH] for start in range(0, RANGE_IMAGES, BATCH))
        self._batches: Iterator[dict[str, Images]] = iter({data.input: part} for part in parts)

    def get_next(self) -> dict[str, Images] | None:
        return next(self._batches, None)


def _static(data: Data, work: Path) -> bytes:
    """What `quantize_static` makes, per channel, as its documentation says: after its own pre-processing."""
    prepared, quantized = work / f"{data.name}-prepared.onnx", work / f"{data.name}-static.onnx"
    quant_pre_process(str(data.path), str(prepared))
    quantize_static(
        str(prepared),
        str(quantized),
        _Reader(data),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return quantized.read_bytes()


if __name__ == "__main__":
    main()
