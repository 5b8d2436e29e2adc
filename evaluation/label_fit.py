"""Labels that were sent and fit no output: they are refused, where a default metric would leave them out in silence."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evaluation.errors import MetricNotApplicable
from evaluation.labelled import axes_of_classes, label_axis
from evaluation.metrics.labels import counted
from evaluation.metrics.measurement import Outputs
from evaluation.metrics.truth import BOXES, LABELS, Truth
from evaluation.outputs import Meaning, OutputFacts

Labels = NDArray[np.int64]


def check_labels(facts: Sequence[OutputFacts], outputs: Outputs, truth: Truth) -> None:
    """Refuse labels that no output can be compared with; those of one output have to fit that one.

    Labels of boxes belong to these. Numbers that are no classes, such as an embedding, may come with labels of more
    classes than they have channels.

    Raises:
        DatasetLabelsOutOfRange: labels that are no classes of the network, or count from 1.
        MetricNotApplicable: labels of another shape than the predictions of every output.
    """
    if truth.boxes() is not None:
        return
    own = [fact for fact in facts if f"{LABELS}.{fact.name}" in truth.arrays]
    for fact in own:
        if truth.arrays.get(f"{BOXES}.{fact.name}") is None:
            _check([fact], outputs, truth, f"{LABELS}.{fact.name}")
    if LABELS in truth.arrays:
        _check([fact for fact in facts if fact not in own], outputs, truth, LABELS)


def _check(facts: Sequence[OutputFacts], outputs: Outputs, truth: Truth, name: str) -> None:
    labels = truth.arrays[name].astype(np.int64, copy=False)
    if not facts or any(_fits(fact, outputs, truth, labels) for fact in facts):
        return
    for fact in facts:
        for axis in axes_of_classes(outputs[fact.name], labels):
            classes = outputs[fact.name].shape[axis]
            from_one = labels.min() == 1 and labels.max() == classes
            if fact.class_like or from_one:
                counted("accuracy", fact.name, labels, classes)
            return
    shapes = ", ".join(f"{fact.name!r} {list(outputs[fact.name].shape)}" for fact in facts)
    raise MetricNotApplicable(
        f"the array {name!r} has the shape {list(labels.shape)}, which fits no output: {shapes}; expected one class "
        "for each prediction, that is the shape of an output without its axis of classes: reshape it, leave it out, or "
        "name a metric for which it is right in budget.metric"
    )


def _fits(fact: OutputFacts, outputs: Outputs, truth: Truth, labels: Labels) -> bool:
    output = outputs[fact.name]
    if fact.meaning is Meaning.CODES:
        return labels.size == math.prod(output.shape)
    if fact.single:
        return labels.size == len(output)
    sequences = fact.class_like and labels.ndim == 2 and len(fact.shape) == 2
    return sequences or label_axis(fact.name, output, truth) is not None
