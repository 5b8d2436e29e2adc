"""What the outputs of a network are, as its float outputs on samples show: classes, values, codes.

Nothing in an ONNX file says whether ten numbers are logits or ten measurements. What is looked at: labels or targets of
that shape, an own softmax or sigmoid, and how sure the numbers would be if they were logits.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from evaluation.channels import Channels
from evaluation.labelled import label_axis, labelled_outputs
from evaluation.metrics.pair import are_probabilities, classes_last
from evaluation.metrics.truth import LABELS, Truth

Output = NDArray[np.generic]

# Logits of a trained classifier are this sure of their class on the mean (0: chance, 1: certain), or so much surer
# than chance; a few measurements of about unit size would be as sure by themselves.
SURE, FEWEST_CLASSES = 0.5, 5
SURER_THAN_CHANCE, LEAST_SURE = 20.0, 0.1
CLASS_NAMES = ("logit", "class", "prob", "label")
# in nats: a median lead of the first class over the second above that is no softmax anybody trained
LARGEST_LEAD = 40.0
_LOOKED_AT = 256  # samples


class Meaning(StrEnum):
    """`classes`: logits along `axis`; `probabilities`: the same past a softmax; `scores`: numbers past a sigmoid, each
    by itself; `values`: other floats; `codes`: integers or booleans."""

    CLASSES = "classes"
    PROBABILITIES = "probabilities"
    SCORES = "scores"
    VALUES = "values"
    CODES = "codes"


@dataclass(frozen=True)
class OutputFacts:
    """One output: its name, type, shape of one sample, what it means and why that is thought.

    Args:
        axis: of the classes or channels in the array with its sample axis; None for one number per sample.
        spread: of each channel of floats, what its errors are divided by.
        constant: how many channels are the same for all samples.
        padded: its length differs from sample to sample, and what lacks is NaN or -1.
        labelled: the labels of the data are about it.
        guess: the axis that would hold classes, if its values were logits, which nothing but their sureness says.
        has_samples: whether samples lie along its first axis, so that a batch of them is one run.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    meaning: Meaning
    reason: str
    axis: int | None
    spread: tuple[float, ...] = ()
    constant: int = 0
    padded: bool = False
    has_samples: bool = True
    labelled: bool = False
    guess: int | None = None

    @property
    def class_like(self) -> bool:
        return self.meaning in (Meaning.CLASSES, Meaning.PROBABILITIES)

    @property
    def ragged(self) -> bool:
        """Whether two networks may give one sample different numbers of rows."""
        return self.padded or not self.has_samples

    @property
    def single(self) -> bool:
        """One number for each sample."""
        return math.prod(self.shape) == 1

    def document(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> Self:
        fields = dict(document)
        fields |= {"shape": tuple(fields["shape"]), "spread": tuple(fields["spread"])}
        return cls(**{**fields, "meaning": Meaning(fields["meaning"])})


def facts_of(
    outputs: Mapping[str, Output],
    truth: Truth,
    makers: Mapping[str, str],
    without_samples: Collection[str] = (),
    varying: Mapping[str, Collection[int]] = MappingProxyType({}),
) -> tuple[OutputFacts, ...]:
    """What each output is.

    Args:
        outputs: the float network's, `[samples, ...]` by name.
        truth: of the same samples.
        makers: the operator that makes an output, by the output's name.
        without_samples: outputs that have no axis of samples, and were computed sample by sample.
        varying: by output the axes that have other lengths for other samples: they hold positions, no channels.
    """
    of_labels = labelled_outputs(outputs, truth)
    unlabelled = Truth({name: array for name, array in truth.arrays.items() if not name.startswith(LABELS)})
    facts = (
        _facts(name, output, truth if name in of_labels else unlabelled, makers.get(name, ""))
        for name, output in outputs.items()
    )
    facts = (_one_channel(fact) if fact.axis in varying.get(fact.name, ()) else fact for fact in facts)
    return tuple(
        replace(fact, has_samples=fact.name not in without_samples, labelled=fact.name in of_labels) for fact in facts
    )


def _one_channel(fact: OutputFacts) -> OutputFacts:
    """With all its numbers in one channel."""
    spread = (float(np.sqrt(np.mean(np.square(fact.spread)))),) if fact.spread else ()
    meaning = fact.meaning if fact.meaning in (Meaning.SCORES, Meaning.CODES) else Meaning.VALUES
    return replace(fact, axis=None, spread=spread, meaning=meaning, guess=None)


def _facts(name: str, output: Output, truth: Truth, maker: str) -> OutputFacts:
    dtype, shape = output.dtype.name, tuple(output.shape[1:])
    if output.dtype.kind != "f":
        return OutputFacts(name, dtype, shape, Meaning.CODES, f"it holds {output.dtype}", None)
    padded = bool(np.isnan(output).any())
    finite = np.nan_to_num(output, nan=0.0, posinf=0.0, neginf=0.0)
    some = finite[:_LOOKED_AT]
    axis, reason, guessed = (None, "", False) if padded else _classes(name, output, some, truth, maker)
    classes = axis is not None and not guessed
    channels = Channels.of(finite, axis if classes else None)
    if classes and are_probabilities(classes_last(some, axis)):
        meaning, reason = Meaning.PROBABILITIES, f"{reason}; past its softmax"
    elif classes:
        meaning = Meaning.CLASSES
    elif maker == "Sigmoid":
        meaning, reason = Meaning.SCORES, "a Sigmoid makes it"
    else:
        meaning, reason = Meaning.VALUES, reason or "numbers without labels, softmax or sigmoid"
    return OutputFacts(
        name,
        dtype,
        shape,
        meaning,
        reason,
        axis if classes else channels.axis,
        tuple(map(float, channels.spread)),
        int(channels.constant.sum()),
        padded,
        guess=axis if guessed else None,
    )


def _classes(name: str, output: Output, some: Output, truth: Truth, maker: str) -> tuple[int | None, str, bool]:
    """The axis of classes, or None; why; and whether it is but a guess."""
    labelled = label_axis(name, output, truth)
    if labelled is not None:
        return labelled, f"the labels have one class for each of its {output.shape[labelled]}", False
    targets = truth.targets(name)
    if targets is not None and targets.shape == output.shape:
        return None, "", False
    axes = [axis for axis in range(1, output.ndim) if output.shape[axis] >= 2]
    axes = sorted(axes, key=lambda axis: (axis != (1 if output.ndim >= 4 else output.ndim - 1), axis))
    if maker in ("Softmax", "LogSoftmax"):
        for axis in axes:
            values = classes_last(some, axis)
            if are_probabilities(np.exp(values) if maker == "LogSoftmax" else values):
                return axis, f"a {maker} makes it", False
    if not axes or not _plausible_rank(output):
        return None, "", False
    axis = axes[0]
    values = classes_last(some, axis)
    if are_probabilities(values):
        return axis, "its numbers are probabilities that sum to 1", False
    named = next((word for word in CLASS_NAMES if word in name.lower()), None)
    if named == "logit":
        return axis, "its name says that it holds logits", False
    count = values.shape[-1]
    best, lead = _best_of(values)
    sure = (best - 1 / count) / (1 - 1 / count)
    surer = best >= LEAST_SURE and best * count >= SURER_THAN_CHANCE
    if lead <= LARGEST_LEAD and (sure >= SURE or surer) and (count >= FEWEST_CLASSES or named):
        # labels that are about it, and no class for each position, are sequences of its symbols
        sequences = truth.labels(name) is not None and output.ndim == 3
        return (
            axis,
            f"as logits its numbers would give the first class a chance of {best:.2f} on the mean",
            not sequences,
        )
    return None, "", False


def _plausible_rank(output: Output) -> bool:
    return 2 <= output.ndim <= 5


def _best_of(logits: Output) -> tuple[float, float]:
    """The mean probability of the most likely class, and the median of its lead in nats over the second."""
    flat = logits.reshape(-1, logits.shape[-1])
    rows = np.asarray(flat[:: max(1, len(flat) // 4096)], dtype=np.float64)
    top = np.partition(rows, -2, axis=-1)[:, -2:]
    return float(softmax(rows, axis=-1).max(-1).mean()), float(np.median(top[:, 1] - top[:, 0]))
