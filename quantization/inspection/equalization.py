"""Weights that were rescaled on purpose: cross-layer equalization and smoothing leave the network what it was.

They multiply the output channels of one layer by `r` and divide the input channels of the next by it (Nagel et al.,
2019; Xiao et al., 2023), so that a weight `diag(r) W diag(c)` is no defect where another layer, a normalization or a
Mul has the reciprocal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantization.inspection.matching import Match

Floats = NDArray[np.float64]

_ROUNDS = 12
_CLEAR = 0.05  # of the logarithms: factors that vary less are none
_AGREE = 0.08
_MOST_WEIGHTS = 300


@dataclass(frozen=True, slots=True, eq=False)
class Rescaled:
    """A weight that is `diag(rows) W diag(columns)`, up to rounding, and the error that is left."""

    rows: Floats
    columns: Floats
    error: float


def rescaled(pair: Match) -> Rescaled | None:
    """The factors of a weight, None where no factors explain it."""
    wanted, got = pair.values
    if min(wanted.shape) < 2:
        return None
    r, c = np.ones(len(wanted)), np.ones(wanted.shape[1])
    for _ in range(_ROUNDS):
        scaled = wanted * c
        r = (got * scaled).sum(axis=1) / np.maximum((scaled**2).sum(axis=1), 1e-30)
        scaled = wanted * r[:, None]
        c = (got * scaled).sum(axis=0) / np.maximum((scaled**2).sum(axis=0), 1e-30)
    norm = max(float(np.linalg.norm(got)), 1e-30)
    left = float(np.linalg.norm(got - r[:, None] * wanted * c)) / norm
    before = float(np.linalg.norm(got - wanted)) / norm
    if left > 0.35 or left > 0.6 * before or (r <= 0).any() or (c <= 0).mean() > 0.05:
        return None
    middle = float(np.median(c))
    return Rescaled(r * middle, np.maximum(c, 1e-12) / middle, left)


def compensated(
    suspects: Sequence[Match], number: int, before: Mapping[str, Floats], after: Mapping[str, Floats]
) -> dict[int, Rescaled]:
    """Those suspects, by the position of their float weight, whose factors another part of the file takes back.

    `number` is that of all pairs; `before` and `after` are the vectors of both files, by name.
    """
    if number > _MOST_WEIGHTS:
        return {}
    fits = {pair.float.position: fit for pair in suspects if (fit := rescaled(pair)) is not None}
    vectors = [
        v / before[n] if n in before and (before[n] != 0).all() else v for n, v in after.items() if (v != 0).all()
    ]
    return {place: fit for place, fit in fits.items() if _is_taken_back(place, fit, fits, vectors)}


def _is_taken_back(place: int, fit: Rescaled, fits: Mapping[int, Rescaled], vectors: Sequence[Floats]) -> bool:
    others = [other for key, other in fits.items() if key != place]
    is_clear = False
    for factor, reciprocals in (
        (fit.rows, [*(o.columns for o in others), *_pairs(others), *vectors]),
        (fit.columns, [*(o.rows for o in others), *vectors]),
    ):
        if np.std(np.log(factor)) < _CLEAR:
            continue
        if not any(_reciprocal(factor, other) for other in reciprocals):
            return False
        is_clear = True
    return is_clear


def _pairs(others: Sequence[Rescaled]) -> Iterator[Floats]:
    """Of a depthwise layer and the one behind it: together they take back what the one before has."""
    for middle in others:
        for last in others:
            if last is not middle and len(last.columns) % len(middle.rows) == 0:
                yield middle.rows * _grouped(last.columns, len(middle.rows))


def _reciprocal(factor: Floats, other: Floats) -> bool:
    short, long = sorted((factor, other), key=len)
    if not len(short) or len(long) % len(short):
        return False
    product = np.log(short) + np.log(np.abs(_grouped(long, len(short))))
    return bool(np.std(product) < max(_AGREE, 0.25 * np.std(np.log(factor))))


def _grouped(values: Floats, groups: int) -> Floats:
    """The mean of each of so many runs: a convolution has several columns for each input channel."""
    means: Floats = values.reshape(groups, -1).mean(axis=1)
    return means
