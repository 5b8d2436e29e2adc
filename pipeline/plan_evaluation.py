"""Plans made real: exported, run in ONNX Runtime, compared with the float network on the same samples."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.metrics import Measurement, Metric, measure
from evaluation.runner import OnnxRunner
from network.graph import Network
from network.normalise import dump
from network.runtime import SideBySide
from pipeline.activations import planned_activations
from pipeline.allowed_formats import halves_of
from pipeline.candidates import Rounded
from pipeline.latency_table import products_of
from pipeline.plan_rounding import refined
from pipeline.results import pack, unpack
from pipeline.stage import StageContext
from pipeline.workspace import Inputs
from planner.problem import Plan, Problem
from quantization.activations.quantized import QuantizedActivation
from quantization.export.cost import file_bytes
from quantization.export.export import export
from quantization.export.leftovers import LARGEST
from quantization.formats import FloatFormat, UnsignedFormat
from quantization.plans.bias_correction import with_biases
from quantization.storage.weights import QuantizedWeight

_ALL = slice(None)


def quantized_weights(network: Network, rounded: Rounded, problem: Problem, plan: Plan) -> dict[str, QuantizedWeight]:
    """The rounded weights of `plan` by initializer name; what stays float is not among them."""
    formats = problem.formats(plan)
    return {
        site.weight: next(weight for weight in rounded.weights[site.name] if weight.format == formats[site.name])
        for site in network.sites
        if not isinstance(formats[site.name], FloatFormat)
    }


def quantized_activations(rounded: Rounded, problem: Problem, plan: Plan) -> dict[str, QuantizedActivation]:
    """The activations of `plan` by tensor name; what stays float is not among them."""
    tensors: dict[str, QuantizedActivation] = {}
    for name, format_ in problem.formats(plan).items():
        if isinstance(format_, UnsignedFormat):
            tensors |= rounded.activations[name].quantized(format_)
    return tensors


class Comparison:
    """The float network and its quantized versions on one part of the samples."""

    def __init__(self, context: StageContext, inputs: Inputs, samples: NDArray[np.int64], metric: Metric) -> None:
        self._context = context
        self._inputs = inputs
        self._part = inputs.dataset.take(samples)
        self._metric = metric

        def compute() -> bytes:
            runner = self._runner(dump(inputs.network))
            return pack({}, {"output": self._output(runner, _ALL)})

        _, arrays = unpack(context.chunk("float_output", compute))
        self._float_output = arrays["output"]

    @property
    def float_output(self) -> NDArray[np.generic]:
        """The float network's first output, `[samples, ...]`."""
        return self._float_output

    @property
    def labels(self) -> NDArray[np.int64] | None:
        return self._part.labels

    def __call__(self, model: bytes) -> Measurement:
        """`model` measured against the float network on all samples."""
        return self._measured(self._output(self._runner(model), _ALL), _ALL)

    def of_float(self) -> Measurement:
        """The float network against itself: what there is to lose, sample by sample."""
        return self._measured(self._float_output, _ALL)

    def in_order(
        self, model: bytes, order: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.generic], Measurement]]:
        """The samples in `order`, a batch at a time: their indices, `model`'s outputs, the measurement."""
        runner = self._runner(model)
        for start in range(0, len(order), self._inputs.batch):
            read = order[start : start + self._inputs.batch]
            output = self._output(runner, read)
            yield read, output, self._measured(output, read)

    def _runner(self, model: bytes) -> OnnxRunner:
        cores = SideBySide.of(self._inputs.batch, self._context.threads, self._inputs.static_batch)
        return OnnxRunner(model, cores.threads, cores.runs)

    def _output(self, runner: OnnxRunner, samples: NDArray[np.int64] | slice) -> NDArray[np.generic]:
        self._context.check()
        output = runner.first_output({name: a[samples] for name, a in self._part.inputs.items()}, self._inputs.batch)
        self._context.check()
        return output

    def _measured(self, output: NDArray[np.generic], samples: NDArray[np.int64] | slice) -> Measurement:
        labels = None if self._part.labels is None else self._part.labels[samples]
        return measure(self._metric, self._float_output[samples], output, labels)


@dataclass(frozen=True, slots=True, eq=False)
class Exported:
    """The file of a plan and what it was made from.

    `notes` says of each weight that was rounded anew how, `kept` of the others why they were not; both are empty where
    no weights were to be rounded anew.
    """

    file: bytes
    network: Network
    weights: Mapping[str, QuantizedWeight]
    activations: Mapping[str, QuantizedActivation]
    notes: Mapping[str, str]
    kept: Mapping[str, str]


def exported(context: StageContext, inputs: Inputs, rounded: Rounded, problem: Problem, plan: Plan) -> Exported:
    """The quantized ONNX file of `plan`."""
    activations = quantized_activations(rounded, problem, plan)
    found = refined(context, inputs, quantized_weights(inputs.network, rounded, problem, plan), activations)
    halves = halves_of(context.request, inputs.network)
    biases = {name: _within(values) if name in halves else values for name, values in found.biases.items()}
    network = with_biases(inputs.network, biases) if biases else inputs.network
    file = export(
        network,
        found.weights,
        provenance(context.request, problem, plan),
        activations,
        products=products_of(context.request),
        halves=halves,
    )
    return Exported(file, network, found.weights, activations, found.notes, found.kept)


def _within(bias: NDArray[np.float32]) -> NDArray[np.float32]:
    """What float16 holds: the file of a plan has one size, whatever its biases are corrected to."""
    return np.clip(bias, -LARGEST, LARGEST)


def file_sizes(
    request: Mapping[str, Any], network: Network, problem: Problem, plans: Iterable[Plan]
) -> NDArray[np.float64]:
    """Bytes of the file of each plan. The problem's own sizes leave out the unpacking functions, which sites share."""
    weights = {site.name: site.weight for site in network.sites}
    quantized = any(name not in weights for name in (site.name for site in problem.sites))
    tensors = {site.name: site.tensors for site in planned_activations(network)} if quantized else {}
    products, halves = products_of(request), halves_of(request, network)

    def size(plan: Plan) -> int:
        formats = problem.formats(plan)
        activations = {
            tensor: format_
            for name, format_ in formats.items()
            if isinstance(format_, UnsignedFormat)
            for tensor in tensors[name]
        }
        of_weights = {weights[name]: format_ for name, format_ in formats.items() if name in weights}
        metadata = provenance(request, problem, plan)
        return file_bytes(network, of_weights, metadata, activations, products=products, halves=halves)

    return np.array([size(plan) for plan in plans], dtype=np.float64)


def provenance(request: Mapping[str, Any], problem: Problem, plan: Plan) -> dict[str, str]:
    """What the file says of where it comes from: this version, the model's digest, and the plan's."""
    formats = {name: format_.name for name, format_ in problem.formats(plan).items()}
    return {
        "bitbudget.version": version("bitbudget"),
        "bitbudget.model_sha256": str(request["model_id"]),
        "bitbudget.plan_sha256": hashlib.sha256(json.dumps(formats).encode()).hexdigest(),
    }
