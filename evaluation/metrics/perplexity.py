"""Perplexity of language models: how many tokens they hesitate between (Jelinek et al. 1977)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from evaluation.errors import MetricNotApplicable
from evaluation.metrics.classes import UNUSABLE_KL, kl, require_classes_finite
from evaluation.metrics.labels import counted, fitted
from evaluation.metrics.measurement import Measurement, Output, Scores, Unit, Weighted
from evaluation.metrics.pair import Metric, Pair, are_probabilities, chunks, classes_last, logits_of, require_floats
from evaluation.metrics.predictions import class_axis, classes_of, require_class, require_samples, wrong_labels
from evaluation.metrics.ratios import ratio

MOST_NATS = 30.0
"""A mean above counts as this: a perplexity of 1e13, above any vocabulary, that still leaves digits to the others."""


def perplexity(pair: Pair) -> list[Measurement]:
    """`exp(mean -log q(next token))` over all counted positions, q the softmax of outputs `[samples, ..., tokens]`.

    Labels `[samples, ...]` are the next token at each position; below 0 they do not count. A position costs at most
    `UNUSABLE_KL` nats. Without labels it is `exp(mean KL(p || q))`, p that of the float network: the factor by which q
    hesitates more than p does on what p expects, 1 for the float network.
    """
    output = pair.single[0]
    require_samples("perplexity", pair.name, output)
    require_floats("perplexity", pair.name, output)
    labels = pair.truth.labels(pair.name)
    axis = class_axis("perplexity", pair, labels, last=True)
    if axis is None:
        raise MetricNotApplicable(
            f"perplexity needs an output [samples, positions, tokens] with at least 2 tokens, got {list(output.shape)} "
            f"in {pair.name!r}; name the axis of the tokens, or use flips"
        )
    if labels is None:
        require_classes_finite("perplexity", pair.name, classes_last(output, axis))
        divergences = kl(replace(pair, options={"axis": axis}))[0].contributions
        nats, positions = [np.zeros(pair.samples), divergences], np.ones(pair.samples)
    else:
        before, after = (classes_last(each, axis) for each in pair.single)
        fitting = fitted(labels, before.shape[:-1])
        if fitting is None:
            raise wrong_labels("perplexity", pair.name, labels, before.shape[:-1])
        known = counted("perplexity", pair.name, fitting, before.shape[-1])
        require_class("perplexity", pair.name, (classes_of(before) >= 0) | ~known)
        probabilities = are_probabilities(before)
        nats = [_nats(each, fitting, known, probabilities) for each in (before, after)]
        positions = known.reshape(len(known), -1).sum(1).astype(np.float64)
    mean = nats[0].sum() / positions.sum()
    if mean >= MOST_NATS:
        raise MetricNotApplicable(
            f"the float network gives the labels of output {pair.name!r} a mean of {mean:.4g} nats, expected below "
            f"{MOST_NATS:g}: labels are the next token at each position, check that they belong to this network"
        )
    values = [_exponential(ratio(each, positions)) for each in nats]
    return [
        Measurement.of_set("perplexity", values[0], values[1], pair.samples, higher_is_better=False, unit=Unit.NONE)
    ]


def _nats(output: Output, labels: NDArray[np.int64], known: NDArray[np.bool_], probabilities: bool) -> Scores:
    """`-log q(label)` summed over the counted positions of each sample, `[samples]`."""
    sums, start = [], 0
    for (values,) in chunks(output):
        part = slice(start, start + len(values))
        start += len(values)
        with np.errstate(invalid="ignore", over="ignore"):
            logs = log_softmax(logits_of(values, probabilities), axis=-1)
        label = np.maximum(labels[part], 0)[..., None]
        nats = -np.take_along_axis(logs, label, axis=-1)[..., 0]
        nats = np.where(np.isfinite(nats), np.clip(nats, 0.0, UNUSABLE_KL), UNUSABLE_KL)
        sums.append(np.where(known[part], nats, 0.0).reshape(len(values), -1).sum(1))
    return np.concatenate(sums)


def _exponential(value: Weighted) -> Weighted:
    return lambda weights: np.exp(np.minimum(value(weights), MOST_NATS))


PERPLEXITY = Metric("perplexity", perplexity, ("labels",), unit=Unit.NONE, options=("axis",))
