"""Every metric that fits an output, beside those that a certificate is about: what else these samples say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from evaluation.certificate import ClaimResult
from evaluation.certifying import Terms, certify
from evaluation.choice import MetricChoice, Question, requested
from evaluation.errors import DatasetError, MetricNotApplicable
from evaluation.metrics.claim import Claim, measure
from evaluation.metrics.measurement import DropKind, Outputs
from evaluation.metrics.registry import METRICS
from evaluation.nulls import null_drops
from evaluation.outputs import OutputFacts


@dataclass(frozen=True, slots=True)
class MetricResult:
    """A metric on its outputs, with an absolute drop; `sees` says whether both networks that know nothing lose more
    than `max_drop` by it."""

    claim: ClaimResult
    sees: bool


def every_metric(
    question: Question, after: Outputs, facts: Sequence[OutputFacts], terms: Terms, check: Callable[[float], None]
) -> list[MetricResult]:
    """The drop by each metric that can be measured of each output of `facts`, with its interval and null test.

    Args:
        question: the float network's outputs and the truth.
        after: the quantized file's outputs of the same samples, by the float network's names.
        terms: looks, level and seed; drops are absolute.
        check: called with the share that is done.
    """
    terms = replace(terms, kind=DropKind.ABSOLUTE)
    results: list[MetricResult] = []
    seen: set[tuple[str, tuple[str, ...]]] = set()
    for place, fact in enumerate(facts):
        for claim in _fitting(question, fact):
            check(place / len(facts))
            if (key := (claim.metric, claim.outputs)) not in seen:
                seen.add(key)
                results.append(_result(question, after, claim, terms))
    return results


def _fitting(question: Question, fact: OutputFacts) -> Iterator[Claim]:
    for name in sorted(METRICS):
        try:
            yield requested(question, fact, MetricChoice(name), None)
        except (MetricNotApplicable, DatasetError):
            continue


def _result(question: Question, after: Outputs, claim: Claim, terms: Terms) -> MetricResult:
    measured = measure([claim], question.outputs, after, question.truth)
    nulls = null_drops(claim, question.outputs, question.truth, terms.kind, terms.max_drop)
    [result] = certify(measured, terms, nulls=[nulls]).claims
    return MetricResult(replace(result, reason="it fits"), min(nulls.values()) > terms.max_drop)
