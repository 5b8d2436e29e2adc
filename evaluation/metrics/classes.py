"""Metrics of classes: outputs `[samples, ..., classes]`, or with the classes on the axis that the option `axis` names.

Positions between the two axes are averaged within their sample, because they depend on each other and only samples are
drawn independently. A value of the quantized network that is not finite counts as the worst: a wrong class, or
`UNUSABLE_KL`, which also caps every other divergence.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from evaluation.dataset import check_labels
from evaluation.errors import MetricNotApplicable
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

UNUSABLE_KL = 100.0


def top1(pair: Pair) -> list[Measurement]:
    """Accuracy of the class with the highest output; the first of equals wins, in both networks alike.

    Labels below 0 are positions that do not count. A sample without any counts as unchanged.
    """
    before, after = _outputs("top1", pair)
    labels = labels_of("top1", pair, before)
    counted: NDArray[np.bool_] = np.asarray(labels >= 0)
    right = [np.asarray(counted & (classes_of(output) == labels)) for output in (before, after)]
    shares = [_share(each, counted) for each in right]
    valid: NDArray[np.bool_] = np.asarray(counted.reshape(len(labels), -1).any(1))
    scale = len(valid) / max(int(valid.sum()), 1)  # the mean over the samples that have any label
    shares = [np.where(valid, share, 0.0) * scale for share in shares]
    counts = before.ndim == 2 and bool(valid.all())
    most = float(scale)
    return [
        Measurement(
            "top1",
            float(shares[0].mean()),
            float(shares[1].mean()),
            shares[0] - shares[1],
            shares[0],
            counts,
            (-most, most),
        )
    ]


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
        with np.errstate(invalid="ignore", divide="ignore"):
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


def classes_of(output: Output) -> NDArray[np.int64]:
    """Class of each prediction; -1, which is not a class, where the outputs have a NaN or no highest number."""
    best = output.argmax(-1)
    unusable = ~(output.max(-1) > -np.inf)
    return np.where(unusable | np.isposinf(output.max(-1)), -1, best)


def labels_of(metric: str, pair: Pair, output: Output) -> NDArray[np.int64]:
    """The labels for an output `[samples, ..., classes]`, one for each prediction.

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
    check_labels(labels, output.shape[-1])
    return labels


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
    axis = pair.options.get("axis")
    before, after = (classes_last(output, axis) for output in pair.single)
    require_floats(metric, pair.name, before)
    if before.ndim < 2 or len(before) == 0 or before.shape[-1] < 2:
        raise MetricNotApplicable(
            f"{metric} needs an output [samples, ..., classes] with at least 2 classes, got {list(before.shape)} in "
            f"{pair.name!r}; use explained"
        )
    return before, after


def _share(right: NDArray[np.bool_], counted: NDArray[np.bool_]) -> Scores:
    """Of the positions that count, the share that is right, by sample."""
    flat = right.reshape(len(right), -1), counted.reshape(len(counted), -1)
    return np.asarray(flat[0].sum(1) / np.maximum(flat[1].sum(1), 1), dtype=np.float64)


TOP1 = Metric("top1", top1, ("labels",), needs_truth=True, options=("axis",))
AGREEMENT = Metric("agreement", agreement, options=("axis",))
KL = Metric("kl", kl, unit=Unit.NATS, options=("axis",))
