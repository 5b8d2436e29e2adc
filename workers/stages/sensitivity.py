"""Sensitivity: the cross-layer matrix of all candidates, and what every other method says of each.

The matrix, and the measured damages that come with it, need nothing but ONNX Runtime. Methods that need gradients run
where torch has a rule for every operator; elsewhere the result says why they are missing. Work is stored in chunks: the
passes of one site, and each method.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from network.errors import UnsupportedOperators
from network.execution import TorchNetwork
from quantization.weights import QuantizedWeight
from sensitivity.cross_layer import CrossLayer, cross_layer
from sensitivity.estimate import Change, Estimate, Subject, Unit
from sensitivity.estimators import METHODS
from sensitivity.estimators.hawq_v2 import hawq_v2
from sensitivity.omega import omega
from sensitivity.traces import TraceRule, hessian_traces
from workers.stage import StageContext
from workers.stages.candidates import Candidates, unpack_candidates
from workers.stages.changes import changes_of
from workers.stages.differentiable import differentiable
from workers.stages.forecast import forecast
from workers.stages.inputs import Inputs
from workers.stages.methods import CHEAP, dear_method, float_passes
from workers.stages.payload import Arrays, pack, unpack

TRACE_RULE = TraceRule(rtol=0.1, min_probes=8, max_probes=64)

Document = dict[str, Any]


def run(context: StageContext) -> bytes:
    """Arrays with one entry for each candidate (sites in order, formats by bits), and what each method took."""
    inputs = Inputs.read(context)
    candidates = unpack_candidates(context.read("calibrate"))
    changes = changes_of(inputs.network, candidates)
    methods = [name for name in (*CHEAP, dear_method(context.request)) if name in METHODS]
    expected = forecast(inputs, len(changes), methods, context.threads)
    context.estimate(expected.seconds, expected.memory_bytes)
    share = expected.measured_share
    matrix, seconds = _cross_layer(context, inputs, changes, lambda fraction: context.progress(share * fraction))
    analysis = _Analysis(context, inputs, candidates, changes)
    analysis.add_measured(matrix, seconds)
    try:
        network = differentiable(inputs.network)
    except UnsupportedOperators as error:
        analysis.unavailable = {name: str(error) for name in methods}
    else:
        for number, name in enumerate(methods):
            begin, end = (share + (1 - share) * n / len(methods) for n in (number, number + 1))
            analysis.add_estimate(name, network, begin, end)
    return analysis.packed(matrix)


def _cross_layer(
    context: StageContext, inputs: Inputs, changes: tuple[Change, ...], check: Callable[[float], None]
) -> tuple[CrossLayer, float]:
    """The matrix, and the seconds that its chunks took, in whatever attempt."""
    seconds = 0.0

    def checkpoint(name: str, compute: Callable[[], NDArray[np.float32]]) -> NDArray[np.float32]:
        nonlocal seconds

        def timed() -> bytes:
            started = time.perf_counter()
            rows = compute()
            return pack({"seconds": time.perf_counter() - started}, {"rows": rows})

        document, arrays = unpack(context.chunk(f"cross_layer/{name}", timed))
        seconds += document["seconds"]
        return np.asarray(arrays["rows"], dtype=np.float32)

    matrix = cross_layer(
        inputs.network,
        changes,
        inputs.take(inputs.sensitivity_samples),
        inputs.loss,
        threads=context.threads,
        generator=np.random.default_rng(context.request["seed"]),
        batch=inputs.batch,
        group=inputs.group,
        checkpoint=checkpoint,
        check=check,
    )
    return matrix, seconds


class _Analysis:
    """What is known so far, and how to add what one more method says."""

    def __init__(
        self, context: StageContext, inputs: Inputs, candidates: Candidates, changes: tuple[Change, ...]
    ) -> None:
        self.unavailable: dict[str, str] = {}
        self._context = context
        self._inputs = inputs
        self._candidates = candidates
        self._changes = changes
        self._methods: dict[str, Document] = {}
        self._scores: Arrays = {}
        self._traces: Document | None = None
        sites = inputs.network.sites
        self._counts = [len(candidates[site.name]) for site in sites]
        self._trace_mean = np.full(len(sites), math.nan)
        self._trace_stderr = np.full(len(sites), math.nan)

    def add_measured(self, matrix: CrossLayer, seconds: float) -> None:
        """The two scores that come with the passes of the cross-layer matrix."""
        own = np.asarray(matrix.damage)
        for name, scores, stderr in (
            ("measured", matrix.measured, matrix.measured_stderr),
            ("cross_layer", own, matrix.damage_stderr),
        ):
            self._add(Estimate(name, Unit.DAMAGE, scores, stderr, matrix.samples, seconds))

    def add_estimate(self, name: str, network: TorchNetwork, begin: float, end: float) -> None:
        """The scores of one method of `sensitivity.estimators`, computed or found; `begin` and `end` for progress."""

        def check(fraction: float) -> None:
            self._context.progress(begin + (end - begin) * min(fraction, 1.0))

        compute = self._by_traces if name == "hawq_v2" else self._estimated
        document, arrays = unpack(self._context.chunk(f"method/{name}", lambda: compute(name, network, check)))
        if name == "hawq_v2":
            self._traces = document.pop("traces")
            self._trace_mean, self._trace_stderr = arrays["trace_mean"], arrays["trace_stderr"]
        unit = Unit(document.pop("unit"))
        self._add(Estimate(name, unit, arrays["scores"], arrays["stderr"], **document))

    def packed(self, matrix: CrossLayer) -> bytes:
        """The blob of the stage."""
        sites = self._inputs.network.sites
        return pack(
            {
                "loss": self._inputs.loss.value,
                "samples": matrix.samples,
                "sites": [site.name for site in sites],
                "formats": [[weight.format.name for weight in self._candidates[site.name]] for site in sites],
                "methods": self._methods,
                "unavailable": self.unavailable,
                "traces": self._traces,
            },
            {
                "matrix": matrix.matrix,
                "sketch_stderr": matrix.sketch_stderr,
                "squared_error": np.array([error for site in sites for error in self._squared_errors([site.name])]),
                "trace_mean": self._trace_mean,
                "trace_stderr": self._trace_stderr,
                **self._scores,
            },
        )

    def _add(self, estimate: Estimate) -> None:
        self._methods[estimate.method] = {
            "unit": estimate.unit.value,
            "samples": estimate.samples,
            "seconds": estimate.seconds,
            "float_passes": float_passes(estimate.method, self._inputs.network, max(self._counts)),
            "note": estimate.note,
        }
        self._scores[f"score/{estimate.method}"] = estimate.scores
        self._scores[f"stderr/{estimate.method}"] = estimate.stderr

    def _subject(self, network: TorchNetwork, check: Callable[[float], None]) -> Subject:
        return Subject(
            network=network,
            changes=self._changes,
            inputs=self._inputs.take(self._inputs.sensitivity_samples),
            loss=self._inputs.loss,
            seed=int(self._context.request["seed"]),
            batch=self._inputs.backward_batch,
            check=check,
        )

    def _estimated(self, name: str, network: TorchNetwork, check: Callable[[float], None]) -> bytes:
        return _packed_estimate(METHODS[name](self._subject(network, check)))

    def _by_traces(self, _name: str, network: TorchNetwork, check: Callable[[float], None]) -> bytes:
        """HAWQ-V2 with the traces themselves, which the plan shows."""
        started = time.perf_counter()
        subject = self._subject(network, check)
        sites = self._inputs.network.sites
        found = hessian_traces(
            network,
            {site.name: site.weight for site in sites},
            subject.inputs,
            subject.loss,
            torch.Generator().manual_seed(subject.seed),
            TRACE_RULE,
            subject.batch,
            check,
        )
        errors = np.array(list(self._squared_errors(site.name for site in sites)))
        scores, stderr = omega(
            np.repeat(found.trace_mean, self._counts), errors, np.repeat(found.trace_stderr, self._counts)
        )
        seconds = time.perf_counter() - started
        estimate = Estimate("hawq_v2", Unit.DAMAGE, 0.5 * scores, 0.5 * stderr, subject.samples, seconds)
        traces = {"probes": found.probes, "probe_batch": found.batch, "status": found.status.value}
        arrays = {"trace_mean": found.trace_mean, "trace_stderr": found.trace_stderr}
        return _packed_estimate(estimate, {"traces": traces}, arrays)

    def _squared_errors(self, names: Iterable[str]) -> Iterable[float]:
        weights = {site.name: site.weight for site in self._inputs.network.sites}
        for name in names:
            weight = self._inputs.network.weight(weights[name])
            yield from (_squared_error(weight, rounded) for rounded in self._candidates[name])


def _packed_estimate(estimate: Estimate, document: Document | None = None, arrays: Arrays | None = None) -> bytes:
    facts = {key: getattr(estimate, key) for key in ("samples", "seconds", "note")}
    return pack(
        {**facts, "unit": estimate.unit.value, **(document or {})},
        {"scores": estimate.scores, "stderr": estimate.stderr, **(arrays or {})},
    )


def _squared_error(weight: NDArray[np.float32], rounded: QuantizedWeight) -> float:
    return float(np.square(rounded.dequantize().astype(np.float64) - weight).sum())
