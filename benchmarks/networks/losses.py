"""What a delivered file lost by each claim of its certificate, in plain numpy, sample by sample.

A loss is a number for each of a set of samples: 0 for the float network itself, larger for a worse one. Values come as
lists of one array a sample, since lengths may differ from sample to sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.networks.entry import Array

Values = Sequence[Array]
Loss = Callable[[Values, Values, Values | None, Mapping[str, Any]], float]
"""Of the float outputs, the quantized outputs, the truth where there is one, and the options of the claim."""
MOST_CHANNELS = 256
CONSTANT = 1e-10
"""A channel whose variance is a smaller share of its mean square is one that never varies."""


# every loss has the signature of `Loss`, also where it looks at no truth and takes no options


def agreement(before: Values, after: Values, truth: Values | None, options: Mapping[str, Any]) -> float:  # noqa: ARG001
    """Share of predictions of another class, in the mean over samples. `axis` is counted with the sample axis."""
    axis = options.get("axis", -1)
    axis = axis - 1 if axis > 0 else axis
    return float(np.mean([np.mean(_chosen(x, axis) != _chosen(y, axis)) for x, y in zip(before, after, strict=True)]))


def accuracy_lost(before: Values, after: Values, truth: Values | None, options: Mapping[str, Any]) -> float:
    """Accuracy of the float network less that of the quantized one; labels below 0 do not count."""
    if truth is None:
        raise ValueError("accuracy needs labels")
    axis = options.get("axis", -1)
    axis = axis - 1 if axis > 0 else axis
    lost = 0.0
    for x, y, labels in zip(before, after, truth, strict=True):
        counts = labels >= 0
        right = [float(np.mean((_chosen(scores, axis) == labels)[counts])) for scores in (x, y)]
        lost += right[0] - right[1]
    return lost / len(before)


def iou_lost(before: Values, after: Values, truth: Values | None, options: Mapping[str, Any]) -> float:
    """Intersection over union of labels that is lost, in the mean over the classes that occur."""
    if truth is None:
        raise ValueError("miou needs labels")
    axis = options.get("axis", 1) - 1
    wanted = np.concatenate([np.ravel(labels) for labels in truth])
    first, second = (
        np.concatenate([np.ravel(_chosen(scores, axis)) for scores in values]) for values in (before, after)
    )
    return _mean_iou(first, wanted) - _mean_iou(second, wanted)


def _mean_iou(classes: Array, labels: Array) -> float:
    classes, labels = classes[labels >= 0], labels[labels >= 0]
    kinds = np.union1d(classes, labels)
    return float(
        np.mean([((classes == k) & (labels == k)).sum() / ((classes == k) | (labels == k)).sum() for k in kinds])
    )


def _chosen(scores: Array, axis: int) -> Array:
    bad = np.isnan(scores).any(axis=axis)
    return np.where(bad, -1, np.nan_to_num(scores, nan=-np.inf).argmax(axis=axis))


def divergence(before: Values, after: Values, truth: Values | None, options: Mapping[str, Any]) -> float:  # noqa: ARG001
    """KL divergence from the float network's distribution, nats, in the mean over samples and positions."""
    axis = options.get("axis", -1)
    axis = axis - 1 if axis > 0 else axis
    nats = []
    for x, y in zip(before, after, strict=True):
        p, q = (_log_probabilities(scores.astype(np.float64), axis) for scores in (x, y))
        nats.append(float((np.exp(p) * (p - q)).sum(axis).mean()))
    return float(np.mean(nats))


def _log_probabilities(scores: Array, axis: int) -> Array:
    total = scores.sum(axis, keepdims=True)
    if (scores >= 0).all() and np.allclose(total, 1, atol=1e-3):
        return np.log(np.maximum(scores, 1e-12))
    shifted = scores - scores.max(axis, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis, keepdims=True)))


def unexplained(before: Values, after: Values, truth: Values | None, options: Mapping[str, Any]) -> float:  # noqa: ARG001
    """Squared error over that of the mean outputs, of the worst channel group along `axis`.

    Where the lengths of samples differ, the mean output is one number for each channel.
    """
    axis = options.get("axis")
    shapes = [np.shape(x) for x in before]
    if shapes != [np.shape(y) for y in after] or (axis and len({shape[axis - 1] for shape in shapes if shape}) > 1):
        before, after = _padded(before, after)
    x, y = (_rows(values, axis) for values in (before, after))
    if not np.array_equal(np.isfinite(x), np.isfinite(y)):
        return float("inf")
    x, y = np.nan_to_num(x), np.nan_to_num(y)
    lost, scale = np.square(y - x).sum(axis=(0, 2)), _scale(x)
    if len(lost) <= MOST_CHANNELS:
        return float(np.max(lost / scale))
    return float(max(part.mean() for part in np.array_split(lost / scale, MOST_CHANNELS)))


def _padded(before: Values, after: Values) -> tuple[Values, Values]:
    """Values whose number of rows follows from themselves, such as boxes that were found: filled up with NaN."""
    shapes = [np.shape(value) for value in (*before, *after)]
    whole = tuple(max(sizes) for sizes in zip(*shapes, strict=True))

    def full(value: Array) -> Array:
        padded = np.full(whole, np.nan)
        padded[tuple(slice(size) for size in np.shape(value))] = value
        return padded

    return [full(x) for x in before], [full(y) for y in after]


def _scale(x: Array) -> Array:
    """Of each channel: squared distance of its values from the mean outputs; of one that never varies, its square."""
    spread = np.square(x - x.mean(axis=0, keepdims=True)).sum(axis=(0, 2))
    power = np.square(x).sum(axis=(0, 2))
    return np.maximum(np.where(spread > CONSTANT * power, spread, power), 1e-30)


def _rows(values: Values, axis: int | None) -> Array:
    """[samples, channels, positions] in float64; samples of several lengths are rows of one position each."""
    arrays = [np.atleast_1d(np.asarray(value, np.float64)) for value in values]
    channels = [
        array.reshape(1, -1) if axis is None else np.moveaxis(array, axis - 1, 0).reshape(array.shape[axis - 1], -1)
        for array in arrays
    ]
    if len({part.shape for part in channels}) == 1:
        return np.stack(channels)
    return np.concatenate([part.T for part in channels])[:, :, None]


def r2_lost(before: Values, after: Values, truth: Values | None, options: Mapping[str, Any]) -> float:
    """R² against targets that is lost, of the worst channel along `axis`."""
    if truth is None:
        raise ValueError("r2 needs targets")
    axis = options.get("axis")
    x, y, wanted = (_rows(values, axis) for values in (before, after, truth))
    errors = [np.square(np.nan_to_num(rows, nan=1e9) - wanted).sum(axis=(0, 2)) for rows in (x, y)]
    spread = np.square(wanted - wanted.mean(axis=0, keepdims=True)).sum(axis=(0, 2))
    return float(np.max((errors[1] - errors[0]) / np.maximum(spread, 1e-30)))


def flips(before: Values, after: Values, truth: Values | None, options: Mapping[str, Any]) -> float:  # noqa: ARG001
    """Share of single scores on the other side of the threshold."""
    x, y = (np.asarray([np.asarray(value, np.float64).ravel()[-1] for value in values]) for values in (before, after))
    threshold = options.get("threshold")
    if threshold is None:
        threshold = 0.5 if x.min() >= 0 and x.max() <= 1 else 0.0
    return float(np.mean(((x > threshold) != (y > threshold)) | np.isnan(y)))


def different(before: Values, after: Values, truth: Values | None, options: Mapping[str, Any]) -> float:  # noqa: ARG001
    """Share of elements that are not the same, in the mean over samples; another shape is all different."""
    return float(
        np.mean([np.mean(x != y) if x.shape == y.shape else 1.0 for x, y in zip(before, after, strict=True) if x.size])
    )


LOSSES: dict[str, Loss] = {
    "agreement": agreement,
    "top1": accuracy_lost,
    "accuracy": accuracy_lost,
    "next_token": accuracy_lost,
    "miou": iou_lost,
    "kl": divergence,
    "explained": unexplained,
    "r2": r2_lost,
    "flips": flips,
    "same": different,
}
"""By the product's metric."""
