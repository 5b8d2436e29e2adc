"""Labels that count, and those that are no classes of the network."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evaluation.errors import DatasetLabelsOutOfRange, MetricNotApplicable


def counted(metric: str, name: str, labels: NDArray[np.int64], classes: int | None) -> NDArray[np.bool_]:
    """Which labels count, in their shape: those that are not below 0.

    Args:
        name: of the output that they belong to.
        classes: of the network; None where nobody knows how many.

    Raises:
        DatasetLabelsOutOfRange: labels of `classes` and above.
        MetricNotApplicable: no label counts.
    """
    known = labels >= 0
    if not known.any():
        raise MetricNotApplicable(
            f"{metric} needs labels of output {name!r}, and all {labels.size} are below 0, which is for positions that "
            "do not count; expected classes 0, 1, 2, ...: check how they were saved"
        )
    if classes is None:
        return known
    wrong = labels >= classes
    if wrong.any():
        first = tuple(int(i) for i in np.unravel_index(int(np.argmax(wrong)), labels.shape))
        lowest, highest = int(labels[known].min()), int(labels.max())
        if lowest == 1 and highest == classes:
            remedy = "they seem to count from 1: subtract 1"
        elif len(np.unique(labels[wrong])) == 1:
            remedy = f"if {highest} marks positions that do not count, save -1 there"
        elif classes == 2:
            remedy = "labels of one score are 0 or 1; numbers that it should be close to are sent as `targets`"
        else:
            remedy = "check that the labels belong to this output"
        raise DatasetLabelsOutOfRange(
            f"labels{list(first)} is {int(labels[first])}, labels go from {lowest} to {highest}; {metric} sees "
            f"{classes} classes in output {name!r}, so expected 0 to {classes - 1}: {remedy}"
        )
    return known


def fitted(labels: NDArray[np.int64], shape: tuple[int, ...]) -> NDArray[np.int64] | None:
    """The labels in `shape` [samples, ...], where the two differ by axes of length 1 only; else None."""
    same = labels.ndim > 0 and labels.shape[0] == shape[0] and _long_axes(labels.shape) == _long_axes(shape)
    return labels.reshape(shape) if same else None


def _long_axes(shape: tuple[int, ...]) -> list[int]:
    return [length for length in shape[1:] if length != 1]
