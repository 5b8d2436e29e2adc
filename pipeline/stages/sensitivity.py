"""Sensitivity: what methods that the request names say of every candidate, most of them from gradients.

Every backward pass of a method is a chunk, or, of a method that takes as long as all passes of the stage `cross_layer`
together, every site. All run where torch has a rule for every operator of the network; elsewhere the result says why
they are missing, and the plan rests on those passes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
from pipeline.methods import DEAR, float_passes
from pipeline.part_chunks import part_chunks
from pipeline.results import Arrays, pack, unpack
from pipeline.workspace import Inputs
from quantization.storage.weights import QuantizedWeight
from sensitivity.estimate import Change, Estimate, Subject
from sensitivity.estimators import AT_OUTPUTS, METHODS
from sensitivity.estimators.fisher_outputs import from_products
from sensitivity.estimators.hawq_v2 import hawq_v2_with_traces
from sensitivity.loss import Loss
from sensitivity.parts import Spread, in_order

Document = dict[str, Any]


def run(context: Context, config: SensitivityConfig) -> bytes:
    """Scores and standard errors by method, one entry for each candidate; traces and squared errors."""
    (inputs, loss), candidates = context.workspace.analysed(config), context.workspace.candidates()
    nothing = np.full(len(inputs.network.sites), math.nan)
    arrays = {"squared_error": _squared_errors(inputs, candidates), "trace_mean": nothing, "trace_stderr": nothing}
    document: Document = {"methods": {}, "unavailable": {}, "traces": None}
    if not config.methods:
        return pack(document, arrays)
    try:
        network = differentiable(inputs.network)
    except UnsupportedOperators as error:
        return pack({**document, "unavailable": dict.fromkeys(config.methods, str(error))}, arrays)
    passes = {name: float_passes(name, inputs.network, candidates.count) for name in config.methods}
    with_another = [name for name in passes if name in AT_OUTPUTS][1:]  # they take the passes of the first
    expected = sum(own for name, own in passes.items() if name not in with_another)
    context.event(forecast_gradients(inputs, expected, context.machine.threads))
    changes = candidates.changes(inputs.network)
    estimation = _Estimation(context, inputs, network, changes, loss)
    # a helper begins with what its leader comes to last
    for index, name in enumerate(config.methods[::-1] if context.helping else config.methods):
        report = partial(_part, context.progress, index, len(config.methods))
        try:
            facts, own = estimation.of_method(name, report)
        except UnsupportedOperators as error:  # some rules see only from the values that they do not hold
            document["unavailable"][name] = str(error)
        else:
            if name == "hawq_v2":
                document["traces"] = facts.pop("traces")
                arrays |= {key: own[key] for key in ("trace_mean", "trace_stderr")}
            document["methods"][name] = {**facts, "float_passes": passes[name]}
            arrays |= {f"{key}/{name}": own[key] for key in ("score", "stderr")}
        report(1.0)
    return pack(document, arrays)


def _part(report: Callable[[float], None], number: int, parts: int, fraction: float) -> None:
    """Report that `fraction` of one of several equal parts is done."""
    report((number + fraction) / parts)


@dataclass(frozen=True)
class _Estimation:
    """Runs the methods on one network; what a method says of the candidates is a document, scores and their errors."""

    context: Context
    inputs: Inputs
    network: TorchNetwork
    changes: tuple[Change, ...]
    loss: Loss

    def of_method(self, name: str, check: Callable[[float], None]) -> tuple[Document, Arrays]:
        """What the method says, from its chunks; its seconds here are reported once, and stand in no result."""
        started = time.perf_counter()
        said = self._said(name, check)
        if not self.context.helping:

            def report() -> bytes:
                self.context.event(MethodTimed(name, time.perf_counter() - started))
                return b""

            self.context.chunk(f"timed/{name}", report)
        return said

    def _subject(self, changes: Sequence[Change], check: Callable[[float], None], spread: Spread = in_order) -> Subject:
        return Subject(
            network=self.network,
            changes=tuple(changes),
            inputs=self.inputs.take(self.inputs.sensitivity_samples),
            loss=self.loss,
            seed=self.inputs.config.seed,
            batch=self.inputs.backward_batch,
            check=check,
            spread=spread,
        )

    def _said(self, name: str, check: Callable[[float], None]) -> tuple[Document, Arrays]:
        if name in DEAR:
            return self._site_by_site(name, check)
        if name == "quantization_error":  # no gradients, and at most one pass
            return unpack(
                self.context.chunk(name, lambda: pack(*_parts(METHODS[name](self._subject(self.changes, check)))))
            )
        subject = self._subject(self.changes, check, part_chunks(self.context, f"{name}/"))
        if name == "hawq_v2":
            return _with_traces(subject, [site.weight for site in self.inputs.network.sites])
        if name in AT_OUTPUTS:  # they share their passes
            subject = replace(subject, spread=part_chunks(self.context))
            return _parts(from_products(subject, AT_OUTPUTS)[name])
        return _parts(METHODS[name](subject))

    def _site_by_site(self, name: str, check: Callable[[float], None]) -> tuple[Document, Arrays]:
        """A method that takes as long as all passes or longer: each site is a chunk."""
        sites = [list(group) for _, group in groupby(self.changes, key=lambda change: change.site)]

        def compute(index: int) -> bytes:
            report = partial(_part, check, index, len(sites))
            return pack(*_parts(METHODS[name](self._subject(sites[index], report))))

        parts = []
        for blob in self.context.spread([f"{name}/{index}" for index in range(len(sites))], compute):
            parts.append(unpack(blob))
            check(len(parts) / len(sites))
        documents = [document for document, _ in parts]
        notes = dict.fromkeys(document["note"] for document in documents if document["note"])
        document = {**documents[0], "note": "; ".join(notes)}
        return document, {key: np.concatenate([arrays[key] for _, arrays in parts]) for key in ("score", "stderr")}


def _with_traces(subject: Subject, weights: Sequence[str]) -> tuple[Document, Arrays]:
    """HAWQ-V2, and the traces of all weights, which the plan shows."""
    estimate, traces = hawq_v2_with_traces(subject, weights)
    document, arrays = _parts(estimate)
    document["traces"] = {"probes": traces.probes, "probe_batch": traces.batch, "status": traces.status.value}
    return document, {**arrays, "trace_mean": traces.trace_mean, "trace_stderr": traces.trace_stderr}


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
