"""Which output the labels of the data are about: labels say one class for each prediction, and fit several outputs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from evaluation.errors import DatasetWrongNames
from evaluation.metrics.pair import classes_last
from evaluation.metrics.truth import BOXES, LABELS, TARGETS, Truth

Output = NDArray[np.generic]

# of agreement beyond chance (Cohen 1960): below, labels are about something else, such as who is seen
LEAST_KAPPA = 0.2


def labelled_outputs(outputs: Mapping[str, Output], truth: Truth) -> frozenset[str]:
    """The outputs that labels are about: those with labels of their own; the common ones are about one output alone.

    Of several that fit in shape that is the one which agrees best with the labels, if it does so beyond chance; classes
    go before single scores, and these before sequences.
    """
    own = {name for name in outputs if f"{LABELS}.{name}" in truth.arrays}
    if LABELS not in truth.arrays:
        return frozenset(own)
    rest = {name: output for name, output in outputs.items() if name not in own and output.dtype.kind == "f"}
    kappas = {name: _kappa(name, output, truth) for name, output in rest.items()}
    fitting = {name: kappa for name, kappa in kappas.items() if kappa >= LEAST_KAPPA}
    if fitting:
        return frozenset(own | {max(fitting, key=lambda name: fitting[name])})
    labels = truth.arrays[LABELS]
    others = [name for name, output in rest.items() if labels.size == output.size]
    others += [name for name, output in rest.items() if labels.ndim == 2 and output.ndim == 3]
    return frozenset(own | set(others[:1]))


def label_axis(name: str, output: Output, truth: Truth) -> int | None:
    """The axis of classes of an output that the labels have one entry for each prediction of; None where they do not
    fit."""
    labels = truth.labels(name)
    if labels is None:
        return None
    axes = axes_of_classes(output, labels)
    return next((axis for axis in axes if labels.max(initial=0) < output.shape[axis]), None)


def axes_of_classes(output: Output, labels: NDArray[np.int64]) -> list[int]:
    """The axes that may be of classes, the likelier first: `labels` have the shape of the output without that axis."""
    found = []
    for axis in (-1, 1) if output.ndim != 4 else (1, -1):
        rest = output.shape[:-1] if axis == -1 else (output.shape[0], *output.shape[2:])
        if output.ndim >= 2 and labels.shape == rest and output.shape[axis] >= 2:
            found.append(axis % output.ndim)
    return list(dict.fromkeys(found))


def check_names(outputs: Mapping[str, Output], truth: Truth) -> None:
    """Refuse what the data say of an output that is not there.

    Raises:
        DatasetWrongNames: such as `labels.logit` for an output `logits`.
    """
    for array in truth.arrays:
        kind, dot, name = array.partition(".")
        if dot and kind in (LABELS, TARGETS, BOXES) and name not in outputs:
            raise DatasetWrongNames(
                f"the data hold {array!r}, and the network has no output {name!r}; its outputs are "
                f"{', '.join(map(repr, outputs))}"
            )


def _kappa(name: str, output: Output, truth: Truth) -> float:
    """How far the highest class agrees with the labels beyond chance, at most 1; -1 where they do not fit."""
    axis, labels = label_axis(name, output, truth), truth.labels(name)
    if axis is None or labels is None or not (labels >= 0).any():
        return -1.0
    counted = labels >= 0
    found, right = classes_last(output, axis).argmax(-1)[counted], labels[counted]
    classes = output.shape[axis]
    shares = [np.bincount(each, minlength=classes) / len(right) for each in (found, right)]
    chance = float(shares[0] @ shares[1])
    agreed = float((found == right).mean())
    return (agreed - chance) / (1 - chance) if chance < 1 else float(agreed == 1)
