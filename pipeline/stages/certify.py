"""Certify: the chosen plan exported, and compared with the float network on samples that took no part in choosing it.

A plan that misses the budget there gives way to a safer one, the last of at most `MOST_LOOKS` being the safest, and one
that keeps it to a cheaper one that may keep it, too (`pipeline.fallbacks`). Every look at the held-out samples is
counted, and the interval of the certificate is widened for all of them. A plan that the request brings is the only one
to look at. The file that is delivered is read back (`pipeline.file_check`).
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import asdict, dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from evaluation.certificate import Certificate
from evaluation.certifying import Terms, certify
from evaluation.latency import Timed, measure_loading
from evaluation.latency import machine as processor
from evaluation.metrics.claim import Measured
from evaluation.nulls import Blind
from network.normalise import dump
from pipeline.candidates import pack_candidates
from pipeline.config import CertifyConfig, TimingConfig
from pipeline.context import Context
from pipeline.fallbacks import MOST_LOOKS, Look, next_look
from pipeline.file_check import check_file
from pipeline.plan_evaluation import Comparison
from pipeline.plan_export import ExportedPlan, export_plan
from pipeline.process import release
from pipeline.reference import runner_of, samples_that_fit
from pipeline.results import pack_into, unpack
from pipeline.search_space import SearchSpace
from pipeline.timing import Timing
from pipeline.workspace import Inputs
from pipeline.worst_samples import samples_document, worst_places
from planner.problem import Plan
from quantization.export.export import stored_weights

# of each file: whole networks are timed longer than layers
TIMED_SECONDS = 2.0


@dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """A plan that was measured, and its document of samples; of two the one of the lesser `order` is delivered."""

    order: tuple[bool, float]
    plan: Plan
    measured: Measured
    model: ExportedPlan
    samples: bytes


def run(context: Context, config: CertifyConfig) -> IO[bytes]:
    """The certificate, the exported file of the plan that it is about, why weights were not rounded anew for it, and
    the samples that lose most."""
    inputs = context.workspace.inputs(config.samples, config.space.export.opset)
    space = context.workspace.space(config.space)
    held_out = inputs.splits.held_out[: samples_that_fit(context, inputs, inputs.splits.held_out)]
    claims, budget = context.workspace.claims(), config.budget
    kind = budget.kind
    compare = Comparison(context, inputs, held_out, claims, kind)
    chain, first = _to_certify(context, space)
    places, met = [first], list[bool]()
    best: _Look | None = None
    while True:
        plan = chain[places[-1]].plan
        model = export_plan(context, inputs, space, plan, rounds_whole_plans=config.rounds_whole_plans)
        measured, samples = _measured(context, config, inputs, held_out, compare, model.file)
        certificate = _certificate(context, config, inputs, measured, len(places))
        met.append(certificate.met)
        # of those that keep the budget the cheapest; without one, the least drop is the best effort
        order = (False, float(places[-1])) if certificate.met else (True, measured.drop(kind, budget.max_drop))
        if best is None or order < best.order:  # the files of the others go
            best = _Look(order, plan, measured, model, samples)
        if certificate.met and budget.confidence is not None:
            break  # a further look would widen the interval
        following = next_look(chain, places, met, _excess(certificate))
        if following is None:
            break
        context.progress(len(places) / MOST_LOOKS)
        places.append(following)
    plan, model = best.plan, best.model
    certificate = _certificate(context, config, inputs, best.measured, len(places))
    kept = model.rounded.kept
    document = {
        "choices": list(plan.choices),
        "audit": check_file(context, inputs, model, space.formats_of_weights(plan), space.halves),
        "certificate": asdict(certificate),
        "latency": None if config.timing is None else _timed(context, inputs, model.file, config.timing),
        "load": None if config.loading is None else _loaded(context, inputs, model.file, config.loading),
        "processor": processor(),
        "kept": {site.name: kept[site.weight] for site in inputs.network.sites if site.weight in kept},
    }
    release()  # sessions
    file = tempfile.TemporaryFile()  # noqa: SIM115 - whoever stores it closes it
    blobs = {"model": model.file, "weights": _packed_weights(space, model), "samples": best.samples}
    pack_into(file, document, ((name, np.frombuffer(blob, dtype=np.uint8)) for name, blob in blobs.items()))
    return file


def _to_certify(context: Context, space: SearchSpace) -> tuple[list[Look], int]:
    """The plans to look at by their cost, and the place of the chosen one."""
    if not context.has("plan"):  # the request brings one, which allows one format to each site
        return [Look(Plan((0,) * len(space.problem.sites)), 1.0)], 0
    document, _ = unpack(context.read("plan"))
    looks = document["to_certify"]
    return [Look(Plan(tuple(choices)), loses) for choices, loses in looks["plans"]], looks["first"]


def _excess(certificate: Certificate) -> float:
    """What was lost, in budgets."""
    lost = certificate.drop if certificate.confidence is None else certificate.high
    return lost / certificate.max_drop if certificate.max_drop > 0 else math.inf


def _certificate(
    context: Context, config: CertifyConfig, inputs: Inputs, measured: Measured, looks: int
) -> Certificate:
    budget, chosen = config.budget, context.workspace.chosen()
    terms = Terms(
        budget.max_drop,
        budget.kind,
        budget.confidence,
        looks=looks,
        seed=config.samples.seed,
        synthetic=inputs.synthetic,
    )
    unseen = [Blind(**blind) for blind in chosen["blind_to"]]
    return certify(measured, terms, nulls=chosen["nulls"], blind_to=unseen)


def _measured(
    context: Context,
    config: CertifyConfig,
    inputs: Inputs,
    held_out: NDArray[np.int64],
    compare: Comparison,
    file: bytes,
) -> tuple[Measured, bytes]:
    """A file measured, and what it makes of the samples that lose most: it is loaded once for both."""
    release()  # what was rounded and exported: the session takes as much
    runner = runner_of(context, inputs, file)
    measured = compare(runner)
    worst = measured.worst(config.budget.kind, config.budget.max_drop)
    claim, part = measured.every[worst]
    places = worst_places(measured, worst)
    outputs = compare.outputs_of(runner, places) if len(places) else ({}, {})
    facts, labels = context.workspace.reference().facts, compare.truth.labels(claim.outputs[0])
    right = None if labels is None else labels[places]
    lost = part.contributions[places].tolist()
    return measured, samples_document(inputs, held_out[places], lost, outputs, claim, facts, right)


def _timed(context: Context, inputs: Inputs, model: bytes, config: TimingConfig) -> dict[str, dict[str, float]]:
    """The float network and the exported file in turns, on the sample that the layers were timed with."""
    sample = inputs.network.batching.call(inputs.latency_sample)
    timed = [Timed(dump(inputs.network), sample), Timed(model, sample)]
    floats, quantized = Timing(context, config).measured(timed, TIMED_SECONDS)
    return {"float": asdict(floats), "quantized": asdict(quantized)}


def _loaded(context: Context, inputs: Inputs, model: bytes, config: TimingConfig) -> dict[str, Any]:
    """The float network and the exported file, loaded in turns."""
    floats, quantized = measure_loading([dump(inputs.network), model], config.threads, check=context.check)
    measured = {"float": asdict(floats), "quantized": asdict(quantized)}
    return {"machine": config.processor, "threads": config.threads, "measured": measured}


def _packed_weights(space: SearchSpace, model: ExportedPlan) -> bytes:
    """The weights as they are stored, by site name, and of those that were rounded anew how."""
    rounded = model.rounded
    weights = stored_weights(
        model.network, rounded.weights, model.activations, products=model.products, unpacked=model.unpacked
    )
    sites = [site for site in space.network.sites if site.weight in weights]
    methods = {site.name: rounded.notes[site.weight] for site in sites if site.weight in rounded.notes}
    return pack_candidates({site.name: [weights[site.weight]] for site in sites}, methods)
