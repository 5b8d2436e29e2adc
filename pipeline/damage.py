"""Damage: which loss of which values predicts what a plan spoils. Every output counts, and each channel by itself.

Classes are compared by their divergence, scores past a sigmoid as so many yes or no, all other channels in units of
their own spread, so that pixels do not drown probabilities. Where an output is picked from others (TopK, ArgMax,
NonMaxSuppression) the loss looks at what it is picked from: small changes show there alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import onnx

from evaluation.outputs import Meaning, OutputFacts
from network.graph import Network
from network.normalise import from_proto
from network.selections import picked_from
from network.value_types import value_types
from pipeline.config import DamageConfig
from sensitivity.loss import Kind, Loss, Term

_KINDS = {
    Meaning.CLASSES: Kind.KL,
    Meaning.PROBABILITIES: Kind.KL_PROBABILITIES,
    Meaning.SCORES: Kind.BERNOULLI_PROBABILITIES,
    Meaning.VALUES: Kind.SQUARED_ERROR,
}


def looked_at(network: Network) -> dict[str, tuple[str, ...]]:
    """For each output the values that its damage is measured at: itself, or what it is picked from."""
    return {output.name: picked_from(network, output.name) or (output.name,) for output in network.outputs}


def damage_loss(network: Network, facts: Iterable[OutputFacts], config: DamageConfig) -> Loss | None:
    """The loss over all outputs that count, by the facts of the values that `looked_at` names; None where none of them
    holds floats.

    A value that several outputs are picked from counts once, with the largest of their weights.
    """
    weights = dict(config.weights)
    of_value: dict[str, float] = {}
    squared: set[str] = set()
    for output, values in looked_at(network).items():
        if config.all_values or output in config.values:
            squared.update(values)
        for value in values:
            of_value[value] = max(of_value.get(value, 0.0), weights.get(output, 1.0))
    known = {fact.name: fact for fact in facts}
    terms = [
        _term(known[name], weight, squared_error=name in squared)
        for name, weight in of_value.items()
        if weight > 0 and name in known and _measurable(known[name])
    ]
    return Loss(tuple(terms)) if terms else None


def with_values(
    network: Network, names: Iterable[str], axes: Mapping[str, int | None] = MappingProxyType({})
) -> Network:
    """The network with these values as further outputs, so that a loss can look at them.

    Args:
        axes: of the samples in these values, where that is not the first.
    """
    there = {output.name for output in network.outputs}
    added = [name for name in names if name not in there]
    if not added:
        return network
    proto = onnx.ModelProto()
    proto.CopyFrom(network.proto)
    types = value_types(proto)
    proto.graph.output.extend(onnx.ValueInfoProto(name=name, type=types[name]) for name in added)
    batching = dataclasses.replace(network.batching, outputs={**network.batching.outputs, **axes})
    return from_proto(proto, network.sample_shapes, batching, network.observed)


def _measurable(fact: OutputFacts) -> bool:
    """Whether a loss of each sample can be told: floats, and as many for every sample."""
    return fact.meaning is not Meaning.CODES and fact.has_samples and not fact.padded


def _term(fact: OutputFacts, weight: float, *, squared_error: bool) -> Term:
    kind = Kind.SQUARED_ERROR if squared_error else _KINDS[fact.meaning]
    scales = fact.spread if kind is Kind.SQUARED_ERROR else ()
    return Term(fact.name, kind, weight, -1 if fact.axis is None else fact.axis, scales=scales)
