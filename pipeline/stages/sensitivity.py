"""Sensitivity: what the methods that take gradients say of every candidate, each method a chunk.

A method that takes as long as all passes together is a chunk for each site. All run where torch has a rule for every
operator of the network; elsewhere the result says why they are missing, and
the plan rests on the passes of the stage `cross_layer`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from network.errors import UnsupportedOperators
from network.execution import TorchNetwork, differentiable
from pipeline.candidates import Candidates
from pipeline.config import SensitivityConfig
from pipeline.context import Context
from pipeline.events import MethodTimed
from pipeline.forecast import forecast_gradients
from pipeline.methods import DEAR, float_passes, methods_to_run
from pipeline.results import Arrays, pack, unpack
from pipeline.workspace import Inputs
from quantization.storage.weights import QuantizedWeight
from sensitivity.estimate import Estimate, Subject
from sensitivity.estimators import AT_OUTPUTS, METHODS
from sensitivity.estimators.fisher_outputs import from_products
from sensitivity.estimators.hawq_v2 import hawq_v2_with_traces
from sensitivity.loss import Loss

Document = dict[str, Any]


def run(context: Context, config: SensitivityConfig) -> bytes:
    """Scores and standard errors by method, one entry for each candidate; traces and squared errors."""
    inputs, candidates = context.workspace.inputs(config.samples), context.workspace.candidates()
    errors = _squared_errors(inputs, candidates)
    methods = methods_to_run(config.dear)
    try:
        network = differentiable(inputs.network)
    except UnsupportedOperators as error:
        nothing = np.full(len(inputs.network.sites), math.nan)
        document = {"methods": {}, "unavailable": {name: str(error) for name in methods}, "traces": None}
        return pack(document, {"squared_error": errors, "trace_mean": nothing, "trace_stderr": nothing})
    with_another = list(AT_OUTPUTS)[1:]  # they take the passes of the first
    costly = [name for name in methods if name not in with_another]
    passes = sum(float_passes(name, inputs.network, candidates.counts) for name in costly)
    expected = forecast_gradients(inputs, passes, context.machine.threads)
    context.estimate(expected.seconds, expected.memory_bytes)
    estimates = _Estimates(context, inputs, candidates, network, inputs.loss(config.squared_error))
    unavailable = {}
    for index, name in enumerate(methods):
        report = partial(_part, context.progress, index, len(methods))
        try:
            estimates.add(name, report)
        except UnsupportedOperators as error:  # some rules see only from the values that they do not hold
            unavailable[name] = str(error)
        report(1.0)
    return pack(
        {"methods": estimates.methods, "unavailable": unavailable, "traces": estimates.traces},
        {"squared_error": errors, **estimates.arrays},
    )


def _part(report: Callable[[float], None], number: int, parts: int, fraction: float) -> None:
    """Report that `fraction` of one of several equal parts is done."""
    report((number + fraction) / parts)


class _Estimates:
    """The methods' answers so far."""

    def __init__(
        self,
        context: Context,
        inputs: Inputs,
        candidates: Candidates,
        network: TorchNetwork,
        loss: Loss,
    ) -> None:
        self.methods: dict[str, Document] = {}
        self.arrays: Arrays = {}
        nothing = np.full(len(inputs.network.sites), math.nan)
        self.traces: Document | None = None
        self.arrays |= {"trace_mean": nothing, "trace_stderr": nothing}  # until the traces are known
        self._context = context
        self._inputs = inputs
        self._network = network
        self._loss = loss
        self._changes = candidates.changes(inputs.network)
        self._counts = candidates.counts
        self._at_outputs_all: tuple[Document, Arrays] | None = None  # what the methods say that run together

    def add(self, name: str, check: Callable[[float], None]) -> None:
        """What the method `name` says, computed or found."""
        if name in DEAR:
            document, arrays = self._site_by_site(name, check)
        elif name in AT_OUTPUTS:
            document, arrays = self._at_outputs(name, check)
        else:
            compute = self._with_traces if name == "hawq_v2" else partial(_estimated, name)
            document, arrays = self._chunk(name, [name], lambda: compute(self._subject(check)))
        if name == "hawq_v2":
            self.traces = document.pop("traces")
            self.arrays |= {key: arrays[key] for key in ("trace_mean", "trace_stderr")}
        self.methods[name] = {**document, "float_passes": float_passes(name, self._inputs.network, self._counts)}
        self.arrays |= {f"{key}/{name}": arrays[key] for key in ("score", "stderr")}

    def _subject(self, check: Callable[[float], None]) -> Subject:
        return Subject(
            network=self._network,
            changes=self._changes,
            inputs=self._inputs.take(self._inputs.sensitivity_samples),
            loss=self._loss,
            seed=self._inputs.config.seed,
            batch=self._inputs.backward_batch,
            check=check,
        )

    def _site_by_site(self, name: str, check: Callable[[float], None]) -> tuple[Document, Arrays]:
        """A method that takes as long as all passes or longer: each site is a chunk."""
        sites = [list(group) for _, group in groupby(self._changes, key=lambda change: change.site)]
        parts = []
        for index, changes in enumerate(sites):
            report = partial(_part, check, index, len(sites))
            subject = replace(self._subject(report), changes=tuple(changes))
            parts.append(self._chunk(f"{name}/{index}", [name], partial(_estimated, name, subject)))
            report(1.0)
        documents = [document for document, _ in parts]
        notes = dict.fromkeys(document["note"] for document in documents if document["note"])
        document = {**documents[0], "note": "; ".join(notes)}
        return document, {key: np.concatenate([arrays[key] for _, arrays in parts]) for key in ("score", "stderr")}

    def _at_outputs(self, name: str, check: Callable[[float], None]) -> tuple[Document, Arrays]:
        """One of the methods that run together, as one chunk."""
        if self._at_outputs_all is None:

            def compute() -> bytes:
                estimates = from_products(self._subject(check), AT_OUTPUTS)
                parts = {method: _parts(estimate) for method, estimate in estimates.items()}
                arrays = {f"{key}/{method}": array for method, (_, own) in parts.items() for key, array in own.items()}
                return pack({method: document for method, (document, _) in parts.items()}, arrays)

            self._at_outputs_all = self._chunk("-".join(AT_OUTPUTS), AT_OUTPUTS, compute)
        documents, arrays = self._at_outputs_all
        return documents[name], {key: arrays[f"{key}/{name}"] for key in ("score", "stderr")}

    def _chunk(self, name: str, methods: Iterable[str], compute: Callable[[], bytes]) -> tuple[Document, Arrays]:
        """A chunk that says what `methods` say; its seconds are reported, and stand in no result."""

        def timed() -> bytes:
            started = time.perf_counter()
            blob = compute()
            for method in methods:
                self._context.event(MethodTimed(method, time.perf_counter() - started))
            return blob

        return unpack(self._context.chunk(name, timed))

    def _with_traces(self, subject: Subject) -> bytes:
        """HAWQ-V2, and the traces of all weights, which the plan shows."""
        estimate, traces = hawq_v2_with_traces(subject, [site.weight for site in self._inputs.network.sites])
        document, arrays = _parts(estimate)
        document["traces"] = {"probes": traces.probes, "probe_batch": traces.batch, "status": traces.status.value}
        return pack(document, {**arrays, "trace_mean": traces.trace_mean, "trace_stderr": traces.trace_stderr})


def _estimated(method: str, subject: Subject) -> bytes:
    return pack(*_parts(METHODS[method](subject)))


def _parts(estimate: Estimate) -> tuple[Document, Arrays]:
    document = {"unit": estimate.unit.value, "samples": estimate.samples, "note": estimate.note}
    return document, {"score": estimate.scores, "stderr": estimate.stderr}


def _squared_errors(inputs: Inputs, candidates: Candidates) -> NDArray[np.float64]:
    """`||Q(W) - W||^2` of every candidate; NaN for activations, whose errors differ from sample to sample."""
    errors = []
    for site in inputs.network.sites:
        weight = inputs.network.weight(site.weight)
        errors += [_squared_error(weight, candidate) for candidate in candidates.weights[site.name]]
    return np.array(errors + [math.nan for site in candidates.activations.values() for _ in site.formats])


def _squared_error(weight: NDArray[np.float32], rounded: QuantizedWeight) -> float:
    return float(np.square(rounded.dequantize().astype(np.float64) - weight).sum())
