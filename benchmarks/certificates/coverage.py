"""Whether the intervals of certificates hold the true drop.

    python -m benchmarks.certificates.coverage [--jobs N] [--only NAME ...]

Two questions, and two figures:

- **Jobs**: whole jobs on cheap networks, each on samples of its own (280, of which 84 are held out). The search has
  chosen the plan by other samples, up to five plans have looked at the held-out ones, and the interval of the
  delivered certificate must hold the true drop of the delivered file.
- **Certificates**: for each metric, one delivered file and many disjoint sets of held-out samples, each of which
  gets a certificate. This asks after the intervals alone, of every metric.

The true drop is that of the claims of the certificate, measured on 20,000 other samples of the same distribution. Of a
metric that depends on the number of samples (a nearest neighbour among more is another one) it is the mean over sets
as large as the held-out ones. A metric that the product does not have (yet) is named in the last line, and not counted.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import cache
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

import pipeline
from benchmarks.certificates.entry import Array, Arrays, Entry, is_truth
from benchmarks.certificates.networks import build
from benchmarks.certificates.running import outputs_of, some
from evaluation.certifying import Terms, certify
from evaluation.metrics.claim import Claim, measure
from evaluation.metrics.registry import METRICS
from evaluation.metrics.truth import Truth

LEVEL = 0.95
POPULATION = 20_000
HELD_OUT, SETS = 150, 25
JOB_SAMPLES = 280
PROCESSES = 2


@dataclass(frozen=True)
class JobKind:
    """Jobs on one network: the budget, and whether the job gets labels or targets."""

    network: str
    budget: dict[str, Any]
    truth: bool = True


@dataclass(frozen=True)
class MetricKind:
    """Certificates by one metric of outputs of one network; `truth` False: against the float network."""

    metric: str
    network: str
    outputs: tuple[str, ...]
    truth: bool = True
    options: dict[str, Any] = field(default_factory=dict)


JOBS = (
    JobKind("unequal_classes", {"metric": "top1", "max_drop": 0.02}),
    JobKind("digits_agreement", {"metric": "agreement", "max_drop": 0.08}, truth=False),
    JobKind("regressor_targets", {"max_drop": 0.03}),
    JobKind("cell_by_hand", {"max_drop": 0.05}),
    JobKind("wake_word", {"max_drop": 0.03}),
)
METRIC_KINDS = (
    MetricKind("top1", "digits_agreement", ("logits",)),
    MetricKind("agreement", "digits_agreement", ("logits",), truth=False),
    MetricKind("top5", "digits_agreement", ("logits",), truth=False),
    MetricKind("kl", "digits_agreement", ("logits",), truth=False),
    MetricKind("accuracy", "tagger_unlabelled", ("tags",)),
    MetricKind("agreement", "tagger_unlabelled", ("tags",), truth=False),
    MetricKind("next_token", "next_token", ("logits",)),
    MetricKind("perplexity", "next_token", ("logits",)),
    MetricKind("cosine", "embedding", ("embedding",), truth=False),
    MetricKind("recall_at_k", "embedding", ("embedding",), truth=False),
    MetricKind("rank_correlation", "embedding", ("embedding",), truth=False),
    MetricKind("explained", "regressor_targets", ("values",), truth=False),
    MetricKind("r2", "regressor_targets", ("values",)),
    MetricKind("mse", "single_number_flat", ("value",)),
    MetricKind("mae", "single_number_flat", ("value",), truth=False),
    MetricKind("sqnr_db", "autoencoder", ("again",), truth=False),
    MetricKind("explained", "autoencoder", ("again",), truth=False),
    MetricKind("flips", "wake_word", ("probability",), truth=False),
    MetricKind("auc", "wake_word", ("probability",)),
    MetricKind("miou", "segmenter", ("logits",), options={"axis": 1}),
    MetricKind("ctc", "ctc", ("scores",)),
    MetricKind("same", "argmax", ("class",), truth=False),
    MetricKind("detection_f1", "yolo_truth", ("output0",), options={"objectness": False}),
    MetricKind("detection_map", "yolo_truth", ("output0",), options={"objectness": False}),
)
HEAVY = frozenset({"segmenter", "yolo_truth", "ctc"})
"""Networks whose true drop is measured on a quarter of the samples: each takes long."""


BY_SET_SIZE = frozenset({"recall_at_k"})
"""Metrics whose value depends on how many samples there are."""


@dataclass(frozen=True)
class Coverage:
    """How many intervals of a kind hold the true drop; `missing`: why there are none."""

    kind: str
    held: int = 0
    of: int = 0
    above: int = 0
    width: float = float("nan")
    missing: str = ""
    whole_jobs: bool = False

    def line(self) -> str:
        """One line for a person; `above`: how often the truth was above the interval, which is the side that hurts."""
        if self.missing:
            return f"{self.kind}: {self.missing}"
        return f"{self.kind}: {self.held}/{self.of} hold the truth, {self.above} too low, median width {self.width:.3g}"


def of_jobs(kind: JobKind, first: int, count: int) -> Coverage:
    """Whole jobs, numbers `first` to `first + count`; each has samples and a seed of its own."""
    entry = _built(kind.network)
    population = _draw(entry, 31, POPULATION)
    before = outputs_of(entry.model, population, entry.batch_axes)
    name = f"job {kind.network} {json.dumps(kind.budget)}"
    held = above = 0
    widths = []
    for number in range(first, first + count):
        samples = _draw(entry, 5_000 + number, JOB_SAMPLES)
        if not kind.truth:
            samples = {key: array for key, array in samples.items() if not is_truth(key)}
        request = {"budget": kind.budget, "seed": number}
        try:
            result = pipeline.plan(entry.model, samples, request, machine=pipeline.Machine(threads=1))
        except ValueError as error:
            return Coverage(name, missing=f"{getattr(error, 'code', type(error).__name__)}: {error}")
        certificate = dict(result.certificate)
        after = outputs_of(result.model, population, entry.batch_axes)
        truth = _truth(population) if kind.truth else Truth()
        drop = measure(_claims(certificate), before, after, truth).drop(Terms(0.0).kind, certificate["max_drop"])
        low, high = certificate["low"], certificate["high"]
        held += low <= drop <= high
        above += drop > high
        widths.append(high - low)
    return Coverage(name, held, count, above, float(np.median(widths)), whole_jobs=True)


def of_metric(kind: MetricKind, sets: int = SETS) -> Coverage:
    """Certificates of `sets` disjoint held-out sets of one delivered file."""
    name = f"{kind.metric} of {kind.network}" + ("" if kind.truth else ", against float")
    if kind.metric not in METRICS:
        return Coverage(name, missing="the product has no such metric")
    entry = _built(kind.network)
    population, before, after = _delivered(kind.network)
    truth = _truth(population) if kind.truth else Truth()
    claim = Claim(kind.metric, kind.outputs, None, kind.options, "coverage")
    terms = Terms(max_drop=1.0)
    held_out = sets * HELD_OUT
    everything = np.arange(len(next(iter(before.values()))))
    held = above = 0
    widths = []
    try:
        rest = everything[held_out:]
        parts = len(rest) // HELD_OUT if kind.metric in BY_SET_SIZE else 1
        drops = [
            measure([claim], some(before, part), some(after, part), truth.take(part)).drop(terms.kind, 1.0)
            for part in np.split(rest[: len(rest) // parts * parts], parts)
        ]
        drop = float(np.mean(drops))
        for chosen in np.split(everything[:held_out], sets):
            measured = measure([claim], some(before, chosen), some(after, chosen), truth.take(chosen))
            certificate = certify(measured, terms)
            held += certificate.low <= drop <= certificate.high
            above += drop > certificate.high
            widths.append(certificate.high - certificate.low)
    except ValueError as error:
        return Coverage(name, missing=f"{getattr(error, 'code', type(error).__name__)}: {error} ({entry.name})")
    return Coverage(name, held, sets, above, float(np.median(widths)))


def _claims(certificate: dict[str, Any]) -> list[Claim]:
    return [
        Claim(claim["metric"], tuple(claim["outputs"]), claim["max_drop"], claim["options"])
        for claim in certificate["claims"]
    ]


@cache
def _built(network: str) -> Entry:
    return build(network)


@cache
def _delivered(network: str) -> tuple[Arrays, Arrays, Arrays]:
    """The population, and outputs of the float network and of one that is rounded roughly, so that it loses something.

    Every weight matrix is rounded to 15 levels for the whole tensor: no product's code, and a visible loss.
    """
    entry = _built(network)
    count = (POPULATION // 4 if network in HEAVY else POPULATION) + SETS * HELD_OUT
    population = _draw(entry, 77, count)
    before = outputs_of(entry.model, population, entry.batch_axes)
    after = outputs_of(rounded(entry.model), population, entry.batch_axes)
    return population, before, after


def rounded(model: bytes, levels: int = 15) -> bytes:
    """The network with every weight matrix rounded to so many levels, one scale for the tensor."""
    import onnx
    from onnx import numpy_helper

    proto = onnx.load_from_string(model)
    for tensor in proto.graph.initializer:
        weight = numpy_helper.to_array(tensor)
        if weight.dtype == np.float32 and weight.ndim >= 2 and weight.size >= 64:
            scale = np.abs(weight).max() / (levels // 2)
            tensor.CopyFrom(numpy_helper.from_array(np.round(weight / scale) * scale, tensor.name))
    contents: bytes = proto.SerializeToString()
    return contents


def _draw(entry: Entry, seed: int, count: int) -> dict[str, Array]:
    return entry.draw(np.random.default_rng(seed), count)


def _truth(samples: Arrays) -> Truth:
    return Truth({name: array for name, array in samples.items() if is_truth(name)})


def run(jobs: int = 200, sets: int = SETS, processes: int = PROCESSES) -> Iterator[Coverage]:
    """Jobs in equal numbers of each kind, and certificates of every metric, as they come."""
    each = math.ceil(jobs / len(JOBS))
    chunk = max(1, math.ceil(each / 4))
    calls: list[tuple[Any, ...]] = [
        (of_jobs, kind, first, min(chunk, each - first)) for first in range(0, each, chunk) for kind in JOBS
    ]
    by_network = sorted(METRIC_KINDS, key=lambda kind: kind.network)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        futures = [pool.submit(*call) for call in calls]
        futures += [pool.submit(of_metric, kind, sets) for kind in by_network]
        yield from (future.result() for future in as_completed(futures))


def summary(parts: Sequence[Coverage]) -> dict[str, Any]:
    """The members of the last line that come from here."""

    def share(wanted: list[Coverage]) -> float | None:
        total = sum(part.of for part in wanted)
        return round(sum(part.held for part in wanted) / total, 4) if total else None

    jobs = [part for part in parts if part.whole_jobs]
    certificates = [part for part in parts if not part.whole_jobs]
    return {
        "interval_coverage": share(jobs),
        "jobs": sum(part.of for part in jobs),
        "certificate_coverage": share(certificates),
        "certificates": sum(part.of for part in certificates),
        "least_covered": [part.line() for part in sorted(certificates, key=_share) if part.of][:3],
        "not_covered": sorted({part.kind for part in parts if part.missing}),
    }


def _share(part: Coverage) -> float:
    return part.held / part.of if part.of else 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--sets", type=int, default=SETS)
    arguments = parser.parse_args()
    start = time.perf_counter()
    parts = []
    for part in run(arguments.jobs, arguments.sets):
        parts.append(part)
        print(f"{time.perf_counter() - start:.0f} s  {part.line()}", flush=True)
    print(json.dumps(summary(parts)))


if __name__ == "__main__":
    main()
