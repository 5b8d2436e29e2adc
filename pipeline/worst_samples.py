"""The held-out samples that lose most: what both files say of each, for people who want to see what a drop means."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from evaluation.metrics.claim import Claim, Measured
from evaluation.metrics.measurement import Output, Outputs
from evaluation.metrics.pair import are_probabilities
from evaluation.outputs import OutputFacts
from evaluation.thumbnails import images_in, thumbnail
from pipeline.results import number
from pipeline.workspace import Inputs

MOST_SAMPLES = 8
MOST_BYTES = 200_000
"""Of the document; pictures that would exceed it are left out."""
VERSION = 1

_BEST_CLASSES = 3  # of each file
_VALUES = 6


def worst_places(measured: Measured, worst: int) -> NDArray[np.int64]:
    """Places of the samples that lose most by the part `worst` of `measured`, the most first; only those that lose."""
    lost = measured.every[worst][1].contributions
    order = np.argsort(-lost, kind="stable")[:MOST_SAMPLES]
    return np.asarray(order[lost[order] > 0], dtype=np.int64)


def samples_document(
    inputs: Inputs,
    samples: NDArray[np.int64],
    lost: Sequence[float],
    outputs: tuple[Outputs, Outputs],
    claim: Claim,
    facts: Sequence[OutputFacts],
    right: NDArray[np.int64] | None,
) -> bytes:
    """The JSON document of these samples.

    Args:
        samples: their indices in the data.
        lost: what the metric of `claim` loses on each.
        outputs: of the float file and of the quantized one, `[samples, ...]` by name.
        right: their labels, `[samples]` or `[samples, ...]`, where there are any.
    """
    of_samples = {name: array[samples] for name, array in inputs.dataset.inputs.items()}  # perhaps of no sample
    meanings = {fact.name: fact for fact in facts}
    rows: list[dict[str, Any]] = [
        {
            "index": int(index),
            "lost": float(lost[place]),
            "right": int(right[place]) if right is not None and right.ndim == 1 else None,
            "thumbnail": _thumbnail([array[place] for array in of_samples.values()]),
            "outputs": [
                _output(meanings[name], outputs[0][name][place], outputs[1][name][place])
                for name in claim.outputs
                if outputs[0][name].shape == outputs[1][name].shape
            ],
        }
        for place, index in enumerate(samples)
    ]
    document = {"version": VERSION, "metric": claim.metric, "samples": rows}
    for row in reversed(rows):
        if len(_json(document)) <= MOST_BYTES:
            break
        row["thumbnail"] = None
    return _json(document)


def _thumbnail(inputs: Sequence[NDArray[np.generic]]) -> str | None:
    """The first input of a sample that looks like an image."""
    for value in inputs:
        if (images := images_in(np.asarray(value)[None])) is not None:
            return thumbnail(images[0])
    return None


def _output(fact: OutputFacts, before: Output, after: Output) -> dict[str, Any]:
    """What both files give for one sample: the likeliest classes, or the values that differ most."""
    if fact.class_like and before.ndim == 1 and before.dtype.kind == "f":
        return {"name": fact.name, "meaning": "classes", "rows": _classes(before, after)}
    return {"name": fact.name, "meaning": "values", "rows": _values(before, after)}


def _classes(before: Output, after: Output) -> list[dict[str, Any]]:
    """The likeliest classes of both files with their probabilities, those of the float file first."""
    both = np.stack([before, after]).astype(np.float64)
    probabilities = both if are_probabilities(both) else softmax(both, axis=-1)
    best = [np.argsort(-row, kind="stable")[:_BEST_CLASSES] for row in probabilities]
    return [
        {"at": [int(each)], "float": number(probabilities[0, each]), "quantized": number(probabilities[1, each])}
        for each in dict.fromkeys(np.concatenate(best).tolist())
    ]


def _values(before: Output, after: Output) -> list[dict[str, Any]]:
    """The values that differ most, in their order; the first ones of what holds no numbers."""
    flat = before.reshape(-1), after.reshape(-1)
    if before.dtype.kind in "fiub":
        first, second = (np.nan_to_num(values.astype(np.float64)) for values in flat)
        places = np.sort(np.argsort(-np.abs(first - second), kind="stable")[:_VALUES])
    else:
        places = np.arange(min(_VALUES, len(flat[0])))
    return [
        {
            "at": [int(axis) for axis in np.unravel_index(place, before.shape)],
            "float": _plain(flat[0][place]),
            "quantized": _plain(flat[1][place]),
        }
        for place in places.tolist()
    ]


def _plain(value: Any) -> float | str | None:
    return number(float(value)) if isinstance(value, np.number | np.bool_) else str(value)[:80]


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=1, allow_nan=False).encode()
