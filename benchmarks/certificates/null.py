"""Networks that know nothing: outputs of other samples, and the mean output."""

from __future__ import annotations

import numpy as np

from benchmarks.certificates.entry import Array, Arrays


def null_outputs(outputs: Arrays) -> dict[str, dict[str, Array]]:
    """By kind: `other_samples`, every output belongs to another sample; `mean`, every sample has the mean output.

    Integers have no mean: the most frequent value at each position takes its place; of ragged outputs the first.
    """
    count = len(next(iter(outputs.values())))
    order = np.roll(np.random.default_rng(17).permutation(count), 1)
    others = np.empty(count, dtype=np.int64)
    others[np.roll(order, 1)] = order  # one cycle: no sample keeps its own outputs
    return {
        "other_samples": {name: value[others] for name, value in outputs.items()},
        "mean": {name: _mean(value) for name, value in outputs.items()},
    }


def _mean(value: Array) -> Array:
    if value.dtype == object:
        same = np.empty(len(value), dtype=object)
        same[:] = [value[0]] * len(value)
        return same
    if value.dtype.kind == "f":
        middle = value.mean(axis=0, dtype=np.float64).astype(value.dtype)
    else:
        flat = value.reshape(len(value), -1)
        middle = np.array([np.bincount(column - column.min()).argmax() + column.min() for column in flat.T])
        middle = middle.reshape(value.shape[1:]).astype(value.dtype)
    return np.broadcast_to(middle, value.shape)
