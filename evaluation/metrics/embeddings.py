"""Metrics of embeddings: what matters is which samples are close to which, and of single scores, which is higher.

An embedding is an output with several numbers per sample, flattened; how close two are is the cosine between them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from evaluation.errors import MetricNotApplicable
from evaluation.metrics.measurement import Measurement, Output, Scores, Unit
from evaluation.metrics.pair import Metric, Pair
from evaluation.metrics.values import require_values, targets_of

OFFSETS = 8
"""A sample is compared with at most so many samples behind it and as many before it; all pairs of 500 samples are
124,750, and their correlation is hardly better known than that of 4,000."""
_ELEMENTS = 1 << 18  # weights of so many pairs at once: what fits a cache
_ROWS = 512  # similarities of so many samples to all at once


def rank_correlation(pair: Pair) -> list[Measurement]:
    """Spearman's rank correlation: of embeddings between the similarities of pairs of samples, float and quantized.

    Pairs are those of each sample with the `OFFSETS` samples at fixed pseudo-random distances behind it, or all of few
    samples. Of single scores it is the correlation over the samples with the targets, or with the float scores where
    there are none. Ties have their mean rank; outputs that are all the same have a correlation of 0. A pair or a score
    that is not finite gets the rank opposite to the right one.

    Source: Spearman, The proof and measurement of association between two things, 1904.
    """
    before, after = require_values("rank_correlation", pair)
    samples = pair.samples
    if samples < 3:
        raise MetricNotApplicable(
            f"rank_correlation compares samples with each other: got {samples}, expected at least 3; add samples"
        )
    if before[0].size == 1:
        offsets = np.zeros(1, dtype=np.int64)
        scores, others = before.reshape(-1).astype(np.float64), after.reshape(-1).astype(np.float64)
        targets = targets_of(pair)
        right = scores if targets is None else targets.reshape(-1)
        against_itself = targets is None
    else:
        offsets = pair_offsets(samples)
        scores, others = similarities(before, offsets), similarities(after, offsets)
        right, against_itself = scores, True
    if right.min() == right.max():
        raise MetricNotApplicable(
            f"rank_correlation of {pair.name!r} needs different "
            f"{'similarities' if before[0].size > 1 else 'scores'}, got {right[0]:g} for all: check the float network "
            "and the targets, or take the metric mse"
        )
    quantized = _Spearman(right, others, offsets, samples)
    own = None if against_itself else _Spearman(right, scores, offsets, samples)
    return [
        Measurement.of_set(
            "rank_correlation",
            (lambda weights: np.ones(len(weights))) if own is None else own.of,
            quantized.of,
            samples,
            unit=Unit.SHARE,
        )
    ]


def recall_at_k(pair: Pair) -> list[Measurement]:
    """Retrieval among the samples themselves: each is a query for its `k` nearest others by cosine, option `k` (1).

    With labels a query is right where any of these has its label; queries whose label nobody else has are left out, and
    those below 0 are neither asked nor right. Without labels: the share of the float network's `k` nearest that are
    among the quantized network's. The samples are the gallery for all draws: an interval is about further queries.

    Source: Jégou et al., Product quantization for nearest neighbor search, 2011 (recall@R).
    """
    before, after = require_values("recall_at_k", pair)
    samples, k = pair.samples, pair.options.get("k")
    k = 1 if k is None else k
    if before[0].size < 2:
        raise MetricNotApplicable(
            f"recall_at_k needs embeddings [samples, features], got {list(before.shape)} in {pair.name!r}; of single "
            "scores take rank_correlation"
        )
    if not 1 <= k < samples:
        raise MetricNotApplicable(
            f"recall_at_k looks at the k nearest of {samples - 1} other samples, got k = {k}; expected 1 to "
            f"{samples - 1}: change the option `k`, or add samples"
        )
    nearest = nearest_of(before, k), nearest_of(after, k)
    labels = pair.truth.labels(pair.name)
    if labels is None:
        asked = np.ones(samples)
        own = np.ones(samples)
        kept = (nearest[0][:, :, None] == nearest[1][:, None, :]).any(2).mean(1)
    else:
        classes = _labels(labels, samples)
        _, inverse, counts = np.unique(classes, return_inverse=True, return_counts=True)
        asked = ((counts[inverse] > 1) & (classes >= 0)).astype(np.float64)
        if not asked.any():
            raise MetricNotApplicable(
                f"recall_at_k needs samples that share a label, got {len(counts)} labels of {samples} samples, none "
                "of them twice: leave the labels out, or add samples"
            )
        own, kept = (asked * _hits(classes, found) for found in nearest)

    def share(right: Scores, weights: Scores) -> Scores:
        total = weights @ asked
        return np.where(total > 0, weights @ right / np.where(total > 0, total, 1.0), right.sum() / asked.sum())

    return [
        Measurement.of_set(
            "recall_at_k", lambda weights: share(own, weights), lambda weights: share(kept, weights), samples
        )
    ]


def pair_offsets(samples: int) -> NDArray[np.int64]:
    """Distances d so that the pairs (i, i + d mod samples) are all different: all of them, or `OFFSETS` of them."""
    every = np.arange(1, (samples - 1) // 2 + 1)
    if len(every) <= OFFSETS:
        return every
    return np.sort(np.random.default_rng(0).choice(every, OFFSETS, replace=False))


def similarities(output: Output, offsets: NDArray[np.int64]) -> Scores:
    """Cosines of all pairs (i, i + d), [offsets * samples]; NaN where an embedding is not finite."""
    rows = directions(output)
    found = [np.einsum("ij,ij->i", rows, np.roll(rows, -offset, axis=0)) for offset in offsets]
    return np.concatenate(found)


def directions(output: Output) -> Scores:
    """The embeddings `[samples, features]` with a length of 1, or 0; NaN where they are not finite."""
    rows = output.reshape(len(output), -1).astype(np.float64)
    rows[~np.isfinite(rows).all(1)] = np.nan
    size = np.abs(rows).max(1, keepdims=True)
    rows = rows / np.where(size > 0, size, 1.0)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(length > 0, length, 1.0))


def nearest_of(output: Output, k: int) -> NDArray[np.int64]:
    """The `k` samples closest to each, without itself, [samples, k]; -1 for one that is not finite or its place."""
    rows = directions(output)
    usable = ~np.isnan(rows[:, 0])
    rows = np.where(usable[:, None], rows, 0.0)
    found = np.empty((len(rows), k), dtype=np.int64)
    for start in range(0, len(rows), _ROWS):
        block = rows[start : start + _ROWS] @ rows.T
        block[:, ~usable] = -np.inf
        block[np.arange(len(block)), np.arange(start, start + len(block))] = -np.inf
        best = np.argpartition(-block, k - 1, axis=1)[:, :k]
        found[start : start + len(block)] = np.where(np.isfinite(np.take_along_axis(block, best, 1)), best, -1)
    found[~usable] = -1
    return found


class _Spearman:
    """Rank correlation of `x` and `y` as a function of weights of the samples.

    `x`, `y` [offsets * samples] belong to the pairs (i, i + offset), whose weight is the product of the two; an offset
    of 0 is the sample itself. `x` is finite. Integer weights count as copies: a rank is the weight below and half of
    that of equals.
    """

    def __init__(self, x: Scores, y: Scores, offsets: NDArray[np.int64], samples: int) -> None:
        right = rankdata(x) / len(x)
        usable = np.isfinite(y)
        ranks = np.where(right > 0.5, -1.0, 2.0) - right
        if usable.any():
            ranks[usable] = rankdata(y[usable]) / len(x)
        # pairs in the order of x, so that its ranks are sums as they come
        order = np.argsort(right, kind="stable")
        self.pairs = np.tile(np.arange(samples), len(offsets))[order], _partners(offsets, samples)[order]
        self.itself = not offsets.any()
        self.ranked = _Ranked(right[order]), _Ranked(ranks[order])
        self.everything = float(self._of(np.ones((1, samples)), 0.0)[0])

    def of(self, weights: Scores) -> Scores:
        rows = max(1, _ELEMENTS // len(self.pairs[0]))
        starts = range(0, len(weights), rows)
        return np.concatenate([self._of(weights[start : start + rows], self.everything) for start in starts])

    def _of(self, weights: Scores, otherwise: float) -> Scores:
        # a scale of the weights changes nothing, and sums of products stay far from the smallest floats
        weights = weights / weights.max(1, keepdims=True)
        first, second = self.pairs
        pairs = weights[:, first] if self.itself else weights[:, first] * weights[:, second]
        total = pairs.sum(1)
        usable = total > 0
        scale = np.where(usable, total, 1.0)[:, None]
        x, y = (each.of(pairs) for each in self.ranked)
        for ranks in (x, y):  # their mean is half of all weight
            ranks /= scale
            ranks -= 0.5
        weighted = pairs * x
        both, own = np.einsum("ij,ij->i", weighted, y), np.einsum("ij,ij->i", weighted, x)
        squares = own, np.einsum("ij,ij,ij->i", pairs, y, y)
        # where a draw holds one pair or equal ones there is nothing to rank
        varied = usable & (squares[0] > 1e-12 * total)
        norm = np.sqrt(squares[0] * squares[1])
        constant = squares[1] <= 1e-12 * total
        values = np.where(constant, 0.0, both / np.where(varied & ~constant, norm, 1.0))
        return np.where(varied, np.clip(values, -1.0, 1.0), otherwise)


class _Ranked:
    """Values in their order, with the places of those that are equal."""

    def __init__(self, values: Scores) -> None:
        order = np.argsort(values, kind="stable")
        starts = np.concatenate([[True], np.diff(values[order]) != 0])
        self.order = None if (order == np.arange(len(order))).all() else order
        self.firsts = np.flatnonzero(starts)
        self.places = np.argsort(order, kind="stable")
        self.groups = (np.cumsum(starts) - 1)[self.places]

    def of(self, weights: Scores) -> Scores:
        """The weight below each value and half of that of its equals, `[draws, values]`."""
        ordered = weights if self.order is None else weights[:, self.order]
        alone = len(self.firsts) == len(self.places)
        sums = ordered if alone else np.add.reduceat(ordered, self.firsts, axis=1)
        middles = np.cumsum(sums, axis=1)
        middles -= sums / 2
        if alone and self.order is None:
            return np.asarray(middles)
        return np.asarray(middles[:, self.groups])


def _partners(offsets: NDArray[np.int64], samples: int) -> NDArray[np.int64]:
    """The second sample of each pair, `[offsets * samples]`."""
    return np.concatenate([(np.arange(samples) + offset) % samples for offset in offsets])


def _labels(labels: NDArray[np.int64], samples: int) -> NDArray[np.int64]:
    if labels.size != samples or len(labels) != samples:
        raise MetricNotApplicable(
            f"labels have the shape {list(labels.shape)}; recall_at_k expected [{samples}], one for each sample"
        )
    return labels.reshape(samples)


def _hits(labels: NDArray[np.int64], nearest: NDArray[np.int64]) -> Scores:
    same = (labels[nearest] == labels[:, None]) & (nearest >= 0)
    return np.asarray(same.any(1), dtype=np.float64)


RANK_CORRELATION = Metric("rank_correlation", rank_correlation, ("targets",))
RECALL_AT_K = Metric("recall_at_k", recall_at_k, ("labels",), options=("k",))
