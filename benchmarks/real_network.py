"""A real network for benchmarks: all its weights rounded once in every format, and plans of it measured."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from evaluation.runner import OnnxRunner
from network.graph import Network
from network.normalise import dump, normalise
from network.taps import Taps
from planner.problem import Plan
from quantization.export.cost import file_bytes
from quantization.export.export import simulate
from quantization.formats import IntegerFormat
from quantization.rounding.gptq import gptq, prepare
from quantization.rounding.statistics import InputStatistics, input_statistics
from quantization.storage.weights import QuantizedWeight

FORMATS = tuple(IntegerFormat(bits) for bits in range(2, 9))
# images for rounding and for all scores; others measure every plan
SCORING_IMAGES = 256
MEASURED_IMAGES = 1000
BATCH = 128
THREADS = os.cpu_count() or 1


@dataclass(frozen=True)
class RealNetwork:
    """A network whose weights are all rounded once, and the images that score candidates and measure plans."""

    network: Network
    rounded: dict[str, tuple[QuantizedWeight, ...]]
    scoring: NDArray[np.float32]
    images: NDArray[np.float32]
    labels: NDArray[np.int64]

    @classmethod
    def read(cls, data: Path) -> RealNetwork:
        scoring = prepared_images(data, "calibration")[0][:SCORING_IMAGES]
        network = normalise(onnx.load(str(data / "resnet20.onnx")), {"input": scoring.shape[1:]})
        images, labels = (part[:MEASURED_IMAGES] for part in prepared_images(data, "evaluation"))
        return cls(network, rounded_weights(network, scoring), scoring, images, labels)

    @cached_property
    def float_accuracy(self) -> float:
        return self.accuracy(self.outputs({}, self.images))

    def plan_weights(self, plan: Plan) -> dict[str, QuantizedWeight]:
        sites = zip(self.network.sites, plan.choices, strict=True)
        return {site.weight: self.rounded[site.name][choice] for site, choice in sites}

    def outputs(self, weights: dict[str, QuantizedWeight], images: NDArray[np.float32]) -> NDArray[Any]:
        model = simulate(self.network, weights) if weights else dump(self.network)
        return OnnxRunner(model, THREADS).first_output({"input": images}, BATCH)

    def accuracy(self, outputs: NDArray[Any]) -> float:
        return float((outputs.argmax(axis=1) == self.labels[: len(outputs)]).mean())

    def file_bytes(self, plan: Plan) -> int:
        return file_bytes(self.network, {name: weight.format for name, weight in self.plan_weights(plan).items()})

    @cached_property
    def drop(self) -> Callable[[Plan], float]:
        """Points of accuracy that a plan loses, measured once for each plan."""
        known: dict[Plan, float] = {}

        def measured(plan: Plan) -> float:
            if plan not in known:
                accuracy = self.accuracy(self.outputs(self.plan_weights(plan), self.images))
                known[plan] = 100 * (self.float_accuracy - accuracy)
            return known[plan]

        return measured


def prepared_images(data: Path, name: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The images called `name` ("calibration" or "evaluation") as the network takes them, and their labels."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / f"{name}.npz"
        script = [sys.executable, str(data / "prepare.py"), str(data / f"{name}_images.npz"), str(target)]
        subprocess.run(script, check=True)
        with np.load(target) as archive:
            return archive["input"], archive["labels"]


def rounded_weights(network: Network, images: NDArray[np.float32]) -> dict[str, tuple[QuantizedWeight, ...]]:
    """Every weight by GPTQ in every format, by site."""
    statistics = site_statistics(network, images)
    return {
        site.name: gptq(prepare(network.weight(site.weight), statistics[site.name]), FORMATS, site.channel_axis)
        for site in network.sites
    }


def site_statistics(network: Network, images: NDArray[np.float32]) -> dict[str, InputStatistics]:
    """What GPTQ knows of the inputs of every weight, by site."""
    statistics_of: dict[str, InputStatistics] = {}
    readers: dict[str, list[tuple[Any, InputStatistics]]] = {}
    nodes = {node.name: node for node in network.proto.graph.node}
    for site in network.sites:
        found = input_statistics(network, site)
        if not isinstance(found, InputStatistics):
            raise RuntimeError(f"{site.name}: {found.reason}")
        statistics_of[site.name] = found
        for layer in site.layers:
            readers.setdefault(nodes[layer.name].input[0], []).append((layer, found))

    def visit(name: str, values: NDArray[np.generic]) -> None:
        for layer, found in readers[name]:
            found.add(layer, np.asarray(values, dtype=np.float32))

    taps = Taps(network, list(readers), THREADS)
    for start in range(0, len(images), BATCH):
        taps.run({network.inputs[0].name: images[start : start + BATCH]}, visit)
    return statistics_of
