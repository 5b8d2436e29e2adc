"""The null test: a metric by which a network that knows nothing keeps the budget is blind, and certifies nothing.

Null networks are made from the float network's own outputs: those of other samples, the mean output of all samples, and
the outputs with one of them, or one channel group of one, replaced by its mean (`evaluation.metrics.null_outputs`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.channels import Channels
from evaluation.metrics.claim import Claim, measure
from evaluation.metrics.measurement import DropKind, Output, Outputs
from evaluation.metrics.null_outputs import mean_output, mean_outputs, other_samples
from evaluation.metrics.truth import Truth
from evaluation.outputs import Meaning, OutputFacts

OTHER_SAMPLES, MEAN = "the outputs of other samples", "the mean outputs"
MOST_GROUPS_TRIED = 32


@dataclass(frozen=True)
class Blind:
    """What the claims cannot see: a network with this `null` in place of its outputs keeps the budget."""

    null: str
    drop: float


def null_drops(claim: Claim, outputs: Outputs, truth: Truth, kind: DropKind, max_drop: float) -> dict[str, float]:
    """The drop of the null networks by one claim, in the unit of the job's budget, by the null's name."""
    return {
        name: measure([claim], outputs, null, truth, kind).drop(kind, max_drop)
        for name, null in ((OTHER_SAMPLES, other_samples(outputs)), (MEAN, mean_outputs(outputs)))
    }


def is_blind(drops: dict[str, float], max_drop: float) -> bool:
    """Whether a network that knows nothing keeps the budget."""
    return min(drops.values()) <= max_drop


def blind_to(
    claims: Sequence[Claim],
    facts: Sequence[OutputFacts],
    outputs: Outputs,
    truth: Truth,
    kind: DropKind,
    max_drop: float,
) -> list[Blind]:
    """Everything that these claims together cannot see, worst first; empty where they see all."""
    found = []
    together = [null_drops(claim, outputs, truth, kind, max_drop) for claim in claims]
    for name in (OTHER_SAMPLES, MEAN):
        drop = max(drops[name] for drops in together)
        if drop <= max_drop:
            found.append(Blind(name, drop))
    for fact in facts:
        found += unseen(claims, fact, outputs, truth, kind, max_drop)
    return found


def unseen(
    claims: Sequence[Claim], fact: OutputFacts, outputs: Outputs, truth: Truth, kind: DropKind, max_drop: float
) -> list[Blind]:
    """What the claims cannot see of one output: all of it, or channel groups of it."""
    readers = [claim for claim in claims if fact.name in claim.outputs]
    if not readers:
        return [Blind(f"output {fact.name}", 0.0)]
    if any(claim.metric == "explained" for claim in readers):
        return []  # it measures every channel group against its mean
    found = []
    for label, null in _replaced(fact, outputs[fact.name]):
        drop = measure(readers, outputs, {**outputs, fact.name: null}, truth, kind).drop(kind, max_drop)
        if drop <= max_drop:
            found.append(Blind(f"output {fact.name}{label}", drop))
            if not label:
                break
    return found


def _replaced(fact: OutputFacts, output: Output) -> list[tuple[str, Output]]:
    """The output replaced by its mean, and, of values, each channel group alone."""
    every = [("", mean_output(output))]
    if fact.meaning is not Meaning.VALUES or fact.axis is None or fact.padded:
        return every
    channels = Channels.of(output, fact.axis)
    if not 1 < channels.channels <= MOST_GROUPS_TRIED:
        return every
    mean = every[0][1]
    for place in np.flatnonzero(~channels.constant):
        index = tuple(place if axis == fact.axis else slice(None) for axis in range(output.ndim))
        alone = output.copy()
        alone[index] = mean[index]
        every.append((f"[{place}]", alone))
    return every


def sees(claim: Claim, outputs: Outputs, truth: Truth, kind: DropKind, max_drop: float) -> bool:
    """Whether the claim can tell the network from one that knows nothing."""
    return not is_blind(null_drops(claim, outputs, truth, kind, max_drop), max_drop)
