"""Sensitivity: what the methods that take gradients say of every candidate, each method a chunk.

A method that takes as long as all passes together is a chunk for each site. All run where torch has a rule for every
operator of the network; elsewhere the result says why they are missing, and
the plan rests on the passes of the stage `cross_layer`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
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
from sensitivity.estimate import Change, Estimate, Subject
from sensitivity.estimators import AT_OUTPUTS, METHODS
from sensitivity.estimators.fisher_outputs import from_products
from sensitivity.estimators.hawq_v2 import hawq_v2_with_traces
from sensitivity.loss import Loss

Document = dict[str, Any]


def run(context: Context, config: SensitivityConfig) -> bytes:
    """Scores and standard errors by method, one entry for each candidate; traces and squared errors."""
    (inputs, loss), candidates = context.workspace.analysed(config), context.workspace.candidates()
    methods = methods_to_run(config.dear)
    nothing = np.full(len(inputs.network.sites), math.nan)
    arrays = {"squared_error": _squared_errors(inputs, candidates), "trace_mean": nothing, "trace_stderr": nothing}
    document: Document = {"methods": {}, "unavailable": {}, "traces": None}
    try:
        network = differentiable(inputs.network)
    except UnsupportedOperators as error:
        return pack({**document, "unavailable": dict.fromkeys(methods, str(error))}, arrays)
    passes = {name: float_passes(name, inputs.network, candidates.count) for name in methods}
    with_another = list(AT_OUTPUTS)[1:]  # they take the passes of the first
    expected = sum(own for name, own in passes.items() if name not in with_another)
    context.event(forecast_gradients(inputs, expected, context.machine.threads))
    changes = candidates.changes(inputs.network)
    estimation = _Estimation(context, inputs, network, changes, loss)
    for index, name in enumerate(methods):
        report = partial(_part, context.progress, index, len(methods))
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
        """What the method says, computed or from an earlier attempt."""
        if name in DEAR:
            return self._site_by_site(name, check)
        subject = self._subject(self.changes, check)
        if name in AT_OUTPUTS:
            documents, arrays = self._chunk("-".join(AT_OUTPUTS), AT_OUTPUTS, partial(_at_outputs, subject))
            return documents[name], {key: arrays[f"{key}/{name}"] for key in ("score", "stderr")}
        compute = partial(_estimated, name, subject)
        if name == "hawq_v2":
            compute = partial(_with_traces, subject, [site.weight for site in self.inputs.network.sites])
        return self._chunk(name, [name], compute)

    def _subject(self, changes: Sequence[Change], check: Callable[[float], None]) -> Subject:
        return Subject(
            network=self.network,
            changes=tuple(changes),
            inputs=self.inputs.take(self.inputs.sensitivity_samples),
            loss=self.loss,
            seed=self.inputs.config.seed,
            batch=self.inputs.backward_batch,
            check=check,
        )

    def _site_by_site(self, name: str, check: Callable[[float], None]) -> tuple[Document, Arrays]:
        """A method that takes as long as all passes or longer: each site is a chunk."""
        sites = [list(group) for _, group in groupby(self.changes, key=lambda change: change.site)]
        parts = []
        for index, changes in enumerate(sites):
            report = partial(_part, check, index, len(sites))
            compute = partial(_estimated, name, self._subject(changes, report))
            parts.append(self._chunk(f"{name}/{index}", [name], compute))
            report(1.0)
        documents = [document for document, _ in parts]
        notes = dict.fromkeys(document["note"] for document in documents if document["note"])
        document = {**documents[0], "note": "; ".join(notes)}
        return document, {key: np.concatenate([arrays[key] for _, arrays in parts]) for key in ("score", "stderr")}

    def _chunk(self, name: str, methods: Iterable[str], compute: Callable[[], bytes]) -> tuple[Document, Arrays]:
        """A chunk that says what `methods` say; its seconds are reported, and stand in no result."""

        def timed() -> bytes:
            started = time.perf_counter()
            blob = compute()
            for method in methods:
                self.context.event(MethodTimed(method, time.perf_counter() - started))
            return blob

        return unpack(self.context.chunk(name, timed))


def _at_outputs(subject: Subject) -> bytes:
    """The methods that run together, all of them."""
    parts = {method: _parts(estimate) for method, estimate in from_products(subject, AT_OUTPUTS).items()}
    arrays = {f"{key}/{method}": array for method, (_, own) in parts.items() for key, array in own.items()}
    return pack({method: document for method, (document, _) in parts.items()}, arrays)


def _with_traces(subject: Subject, weights: Sequence[str]) -> bytes:
    """HAWQ-V2, and the traces of all weights, which the plan shows."""
    estimate, traces = hawq_v2_with_traces(subject, weights)
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
