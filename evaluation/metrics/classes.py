"""Metrics of classes: outputs `[samples, ..., classes]`, or with the classes on the axis that the option `axis` names.

Positions between the two axes are averaged within their sample, because they depend on each other and only samples are
drawn independently. A value of the quantized network that is not finite counts as the worst: a wrong class, or
`UNUSABLE_KL`, which also caps every other divergence.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from evaluation.errors import MetricNotApplicable
from evaluation.metrics.labels import counted
from evaluation.metrics.measurement import Measurement, Output, Scores, Unit
from evaluation.metrics.pair import (
    Metric,
    Pair,
    are_probabilities,
    chunks,
    classes_last,
    logits_of,
    over_samples,
    require_floats,
)
from evaluation.metrics.predictions import checked_axis, classes_of, require_class

UNUSABLE_KL = 100.0


def top1(pair: Pair) -> list[Measurement]:
    """Accuracy of the class with the highest output; the first of equals wins, in both networks alike.

    Labels below 0 are positions that do not count. A sample without any counts as unchanged.
    """
    before, after = _outputs("top1", pair)
    labels, known = labels_of("top1", pair, before)
    right = [classes_of(output) == labels for output in (before, after)]
    return [shares_right("top1", right[0], right[1], known)]


def top5(pair: Pair) -> list[Measurement]:
    """Share of predictions whose label is among the k = 5 classes with the highest outputs; the first of equals wins.

    Without labels the float network's class is right. Positions and labels below 0 as for `top1`.
    """
    before, after = _outputs("top5", pair)
    k, classes = pair.options.get("k"), before.shape[-1]
    k = 5 if k is None else k
    if not 0 < k < classes:
        raise MetricNotApplicable(
            f"top5 with k = {k} needs k from 1 to {classes - 1}, output {pair.name!r} having {classes} classes of "
            f"which {classes} hold every label; give a smaller option k, or use top1 or agreement"
        )
    own = classes_of(before)
    if pair.truth.labels(pair.name) is None:
        labels, known = own, np.ones(own.shape, dtype=np.bool_)
    else:
        labels, known = labels_of("top5", pair, before)
    require_class("top5", pair.name, (own >= 0) | ~known)
    right = [_among_highest(output, labels, k) for output in (before, after)]
    return [shares_right("top5", right[0], right[1], known)]


def agreement(pair: Pair) -> list[Measurement]:
    """Share of predictions with the same class as the float network's."""
    before, after = _outputs("agreement", pair)
    require_classes_finite("agreement", pair.name, before)
    same = over_samples(classes_of(before) == classes_of(after))
    return [
        Measurement("agreement", 1.0, float(same.mean()), 1.0 - same, np.ones_like(same), before.ndim == 2, (0.0, 1.0))
    ]


def kl(pair: Pair) -> list[Measurement]:
    """Mean `KL(p || q)` in nats, p and q the softmax of the float and the quantized output over the classes.

    An output that already is a distribution everywhere (not negative, sums of 1) is used unchanged: softmax of a
    softmax would hide most of the damage.
    """
    before, after = _outputs("kl", pair)
    require_classes_finite("kl", pair.name, before)
    probabilities = are_probabilities(before)
    divergences, entropies = [], []
    for first, second in chunks(before, after):
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            log_p, log_q = (log_softmax(logits_of(part, probabilities), axis=-1) for part in (first, second))
            p = np.exp(log_p)
            # 0 log 0 is 0: a class that the float network rules out costs nothing.
            divergence = np.where(p > 0, p * (log_p - log_q), 0.0).sum(-1)
            entropies.append(over_samples(-np.where(p > 0, p * log_p, 0.0).sum(-1)))
        usable = np.isfinite(divergence)
        # Rounding leaves about -1e-16 where the divergence is 0.
        divergences.append(over_samples(np.where(usable, np.clip(divergence, 0.0, UNUSABLE_KL), UNUSABLE_KL)))
    contributions = np.concatenate(divergences)
    return [
        Measurement(
            "kl",
            0.0,
            float(contributions.mean()),
            contributions,
            np.concatenate(entropies),
            False,
            (0.0, UNUSABLE_KL),
            Unit.NATS,
        )
    ]


def labels_of(metric: str, pair: Pair, output: Output) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The labels for an output `[samples, ..., classes]`, one for each prediction, and which of them count.

    Raises:
        MetricNotApplicable: there are none, or of another shape.
        DatasetLabelsOutOfRange: labels that are not classes of the network.
    """
    labels = pair.truth.labels(pair.name)
    if labels is None:
        raise MetricNotApplicable(f"{metric} needs labels and the data have none; add `labels`, or use agreement")
    if labels.shape != output.shape[:-1]:
        raise MetricNotApplicable(
            f"labels have the shape {list(labels.shape)}, the network's output {list(output.shape)}; expected "
            f"labels {list(output.shape[:-1])}, one for each prediction"
        )
    return labels, counted(metric, pair.name, labels, output.shape[-1])


def shares_right(
    metric: str, before: NDArray[np.bool_], after: NDArray[np.bool_], known: NDArray[np.bool_]
) -> Measurement:
    """Mean over samples of the share of right predictions, of those that count; at least one does.

    Args:
        before, after: whether a prediction is right, `[samples, ...]`, of each network.
        known: whether it counts. A sample without any counts as unchanged.
    """
    valid = np.asarray(known.reshape(known.shape[0], -1).any(1), dtype=np.bool_)
    scale = len(valid) / int(valid.sum())  # the mean over the samples that have any label
    shares = [np.where(valid, _share(each & known, known), 0.0) * scale for each in (before, after)]
    counts = before[0].size == 1 and bool(valid.all())
    values = [float(each.mean()) for each in shares]
    return Measurement(metric, values[0], values[1], shares[0] - shares[1], shares[0], counts, (-scale, scale))


def require_classes_finite(metric: str, name: str, output: Output) -> None:
    """Minus infinity is what a masked class has; a row without a highest number is useless."""
    with np.errstate(invalid="ignore"):
        usable = np.isfinite(output.max(-1))
    if not usable.all():
        sample = int(np.argmin(over_samples(np.asarray(usable))))
        raise MetricNotApplicable(
            f"the float network gives NaN or infinity in output {name!r} for sample {sample}; {metric} cannot be "
            "measured against that: check the network and this sample"
        )


def _outputs(metric: str, pair: Pair) -> tuple[Output, Output]:
    before, after = pair.single
    require_floats(metric, pair.name, before)
    axis = pair.options.get("axis")
    if axis is not None and before.ndim > 1:
        axis = checked_axis(metric, pair.name, before, axis)
        before, after = classes_last(before, axis), classes_last(after, axis)
    if before.ndim < 2 or before.size == 0 or before.shape[-1] < 2:
        raise MetricNotApplicable(
            f"{metric} needs an output [samples, ..., classes] with at least 2 classes, got {list(before.shape)} in "
            f"{pair.name!r}; use explained"
        )
    return before, after


def _among_highest(output: Output, labels: NDArray[np.int64], k: int) -> NDArray[np.bool_]:
    """Whether the label is among the k classes with the highest outputs; not where these have a NaN or no highest."""
    right, start = [], 0
    for (values,) in chunks(output):
        label = np.maximum(labels[start : start + len(values)], 0)[..., None]
        start += len(values)
        own = np.take_along_axis(values, label, axis=-1)
        with np.errstate(invalid="ignore"):
            ahead = (values > own) | ((values == own) & (np.arange(values.shape[-1]) < label))
            usable = np.isfinite(values.max(-1)) & np.isfinite(own[..., 0])
        right.append(usable & (ahead.sum(-1) < k))
    return np.concatenate(right)


def _share(right: NDArray[np.bool_], counted: NDArray[np.bool_]) -> Scores:
    """Of the positions that count, the share that is right, by sample."""
    flat = right.reshape(len(right), -1), counted.reshape(len(counted), -1)
    return np.asarray(flat[0].sum(1) / np.maximum(flat[1].sum(1), 1), dtype=np.float64)


TOP1 = Metric("top1", top1, ("labels",), needs_truth=True, options=("axis",))
TOP5 = Metric("top5", top5, ("labels",), options=("axis", "k"))
AGREEMENT = Metric("agreement", agreement, options=("axis",))
KL = Metric("kl", kl, unit=Unit.NATS, options=("axis",))
