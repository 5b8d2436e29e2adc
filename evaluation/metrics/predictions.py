"""Which class the networks give at each position, and which is right.

The axis of the classes is found, unless the option `axis` names it: from the shape of the labels, from where the output
sums to 1, else from its shape alone, so that all parts of the data agree. An output without such an axis has two
classes, above and below the option `threshold`; one of integers holds the classes themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.errors import MetricNotApplicable
from evaluation.metrics.labels import counted, fitted
from evaluation.metrics.measurement import Output
from evaluation.metrics.pair import Pair, are_probabilities, classes_last, require_floats

Classes = NDArray[np.int64]
NO_CLASS = -1


@dataclass(frozen=True, eq=False)
class Predictions:
    """Classes `[samples, positions]`: of the float network, of the quantized one, and those that are right.

    `NO_CLASS` where a network gives none. `counted` [samples, positions]: where the truth is known. `labelled`: whether
    it comes from the data, and not from the float network.
    """

    before: Classes
    after: Classes
    truth: Classes
    counted: NDArray[np.bool_]
    labelled: bool

    @classmethod
    def of(cls, metric: str, pair: Pair, *, last: bool = False) -> Predictions:
        """Those of the only output of a pair.

        Args:
            last: where nothing else tells, the last axis has the classes, as in `[samples, positions, classes]`.

        Raises:
            MetricNotApplicable, DatasetLabelsOutOfRange: as all metrics of classes.
        """
        before, after = pair.single
        require_samples(metric, pair.name, before)
        labels = pair.truth.labels(pair.name)
        if before.dtype.kind in "iub":
            return cls._known(metric, pair.name, before.astype(np.int64), after.astype(np.int64), labels, None)
        require_floats(metric, pair.name, before)
        axis = class_axis(metric, pair, labels, last=last)
        if axis is None:
            threshold = threshold_of(metric, before, pair.options.get("threshold"))
            return cls._known(metric, pair.name, above(before, threshold), above(after, threshold), labels, 2)
        first, second = (classes_of(classes_last(output, axis)) for output in (before, after))
        return cls._known(metric, pair.name, first, second, labels, before.shape[axis])

    @classmethod
    def _known(
        cls, metric: str, name: str, before: Classes, after: Classes, labels: Classes | None, classes: int | None
    ) -> Predictions:
        """Args: before, after: `[samples, ...]`. classes: how many there are; None for an output of integers."""
        if classes is None and labels is None:  # integers below 0 are classes like others
            lowest = min(int(before.min()), int(after.min()), 0)
            before, after = before - lowest, after - lowest
        if labels is None:
            truth, known = before, np.ones(before.shape, dtype=np.bool_)
        else:
            fitting = fitted(labels, before.shape)
            if fitting is None:
                raise wrong_labels(metric, name, labels, before.shape)
            known = counted(metric, name, fitting, classes)
            truth = np.where(known, fitting, 0)
        if classes is not None:
            require_class(metric, name, (before != NO_CLASS) | ~known)
        before, after, truth = (each.reshape(len(before), -1) for each in (before, after, truth))
        return cls(before, after, truth, known.reshape(before.shape), labels is not None)


def class_axis(metric: str, pair: Pair, labels: Classes | None, *, last: bool = False) -> int | None:
    """The axis of the classes in the output of a pair, `[samples, ...]` of floats; None for single scores.

    Where the labels fit several axes, it is the one whose classes are right most often in the float network.

    Raises:
        MetricNotApplicable: the option names an axis that is not there; the labels fit no axis.
    """
    output, axis = pair.single[0], pair.options.get("axis")
    if axis is not None:
        return checked_axis(metric, pair.name, output, axis)
    lengths = output.shape
    if labels is not None:
        places = [k for k in range(1, output.ndim) if fitted(labels, lengths[:k] + lengths[k + 1 :]) is not None]
        long = [k for k in places if lengths[k] > 1]
        if len(long) > 1:
            return max(long, key=lambda k: (_share_right(output, k, labels), k))
        if long:
            return long[0]
        if places or fitted(labels, lengths) is not None:
            return None
        raise wrong_labels(metric, pair.name, labels, lengths[:-1])
    long = [k for k in range(1, output.ndim) if lengths[k] > 1]
    if len(long) < 2:
        return long[0] if long else None
    if last:
        return long[-1]
    if 1 in (lengths[1], lengths[-1]):
        return None
    with np.errstate(invalid="ignore", over="ignore"):
        sums = [k for k in long if are_probabilities(classes_last(output, k))]
    return sums[0] if len(sums) == 1 else _first_or_last(lengths)


def _first_or_last(lengths: tuple[int, ...]) -> int:
    """Axis 1 or the last of `[samples, ..., ...]`: the one that the space between leaves, as its sides are mostly equal
    and longer. `[N, 21, 64, 64]` -> 1, `[N, 64, 64, 21]` -> 3, `[N, 48, 64, 21]` -> 3.
    """
    last = len(lengths) - 1
    square = [len(set(lengths[2:])) == 1 and last > 2, len(set(lengths[1:-1])) == 1 and last > 2]
    if square[0] != square[1]:
        return 1 if square[0] else last
    return 1 if lengths[1] <= lengths[-1] else last


def checked_axis(metric: str, name: str, output: Output, axis: int) -> int:
    """The axis that a request names, from 1 on.

    Raises:
        MetricNotApplicable: the output has no such axis, or fewer than 2 classes along it.
    """
    place = axis + output.ndim if axis < 0 else axis
    if not 0 < place < output.ndim:
        raise MetricNotApplicable(
            f"{metric} was given axis {axis}, output {name!r} has the shape {list(output.shape)}; expected 1 to "
            f"{output.ndim - 1}, the first axis being that of the samples"
        )
    if output.shape[place] < 2:
        raise MetricNotApplicable(
            f"{metric} needs at least 2 classes, got {output.shape[place]} along axis {axis} of {list(output.shape)} "
            f"in {name!r}; name the axis of the classes"
        )
    return place


def classes_of(output: Output) -> Classes:
    """Class of each prediction; `NO_CLASS` where the outputs have a NaN or no highest number."""
    with np.errstate(invalid="ignore"):
        best, highest = output.argmax(-1), output.max(-1)
        return np.where(np.isfinite(highest), best, NO_CLASS)


def above(output: NDArray[Any], threshold: float) -> Classes:
    """1 above the threshold, 0 elsewhere; `NO_CLASS` for what is not finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.where(np.isfinite(output), (output > threshold).astype(np.int64), NO_CLASS)


def threshold_of(metric: str, output: NDArray[Any], threshold: float | None) -> float:
    """The option of a request; else 0.5 for float outputs within [0, 1], as past a sigmoid, and 0 for others."""
    if threshold is None:
        with np.errstate(invalid="ignore"):
            return 0.5 if bool(((output >= 0) & (output <= 1) | ~np.isfinite(output)).all()) else 0.0
    if not np.isfinite(threshold):
        raise MetricNotApplicable(f"{metric} was given the threshold {threshold}; expected a finite number")
    return float(threshold)


def require_samples(metric: str, name: str, output: Output) -> None:
    if output.ndim == 0 or output.size == 0:
        raise MetricNotApplicable(
            f"{metric} needs values of at least one sample, got {list(output.shape)} in {name!r}; expected "
            "[samples, ...]: measure another output"
        )


def require_class(metric: str, name: str, usable: NDArray[np.bool_]) -> None:
    """Refuse a float network that gives no class where one is needed; `usable` [samples, ...]."""
    if not usable.all():
        sample = int(np.argmin(usable.reshape(len(usable), -1).all(1)))
        raise MetricNotApplicable(
            f"the float network gives NaN or infinity in output {name!r} for sample {sample}; {metric} cannot be "
            "measured against that: check the network and this sample"
        )


def wrong_labels(metric: str, name: str, labels: Classes, shape: tuple[int, ...]) -> MetricNotApplicable:
    return MetricNotApplicable(
        f"{metric} of output {name!r} needs labels {list(shape)}, one for each prediction, got {list(labels.shape)}; "
        f"save those of this output as labels.{name}, or name the axis of the classes"
    )


def _share_right(output: Output, axis: int, labels: Classes) -> float:
    classes = classes_of(classes_last(output, axis))
    truth = fitted(labels, classes.shape)
    return 0.0 if truth is None else float((classes == truth)[truth >= 0].mean() if (truth >= 0).any() else 0.0)
