"""The finest step at which a weight's nearest codes fit in the bytes of a coded format."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from quantization.formats import CodedFormat
from quantization.rounding.ranges import finite_float32
from quantization.rounding.tiles import Floats
from quantization.storage.coded import HEADER_BYTES, CodedWeight, coded_bits, size_bytes

# steps that are tried, in root mean squares of the weight
_STEPS = np.geomspace(1 / 32, 16, 28)
_SAMPLE = 1 << 16  # values that stand for all of a large weight
_OVER_ENTROPY = 1.012  # what the code takes, about
_BEGINS_AT = 0.97  # of that estimate: the search for a step only goes upwards
_LONGEST = 127  # codes beyond are counted as one


def round_coded(weight: Floats, format_: CodedFormat) -> CodedWeight:
    """`weight`, each value at its nearest code, at the finest step whose codes fit.

    Raises:
        ValueError: the weight is not finite float32.
    """
    (step,) = first_steps(finite_float32(weight), [format_])
    room = 8 * size_bytes(format_, weight.size)
    step *= _BEGINS_AT
    while coded_bits(codes := nearest_coded(weight, step, format_), format_) > room:
        step *= 1.01
    return CodedWeight(format_, codes, np.array(step, dtype=np.float32))


def first_steps(weight: Floats, formats: Sequence[CodedFormat]) -> list[float]:
    """For each format the finest step at which the nearest codes of `weight` fit, about: by the entropy of its codes at
    some steps, and between these in proportion."""
    flat = weight.ravel()
    size = float(np.sqrt(np.square(flat, dtype=np.float64).mean())) if flat.any() else 0.0
    if size < np.finfo(np.float32).tiny / _STEPS[0]:
        return [1.0] * len(formats)
    seen = flat[:: max(1, flat.size // _SAMPLE)] / np.float32(size)
    entropies = np.array([_entropy(seen / np.float32(step)) for step in _STEPS])
    logs = np.log2(_STEPS * size)
    steps = []
    for format_ in formats:
        room = 8 * size_bytes(format_, flat.size) - 8 * HEADER_BYTES
        steps.append(float(2 ** np.interp(-room / flat.size / _OVER_ENTROPY, -entropies, logs)))
    return steps


def nearest_coded(weight: Floats, step: float, format_: CodedFormat) -> NDArray[np.int8]:
    """The code of each value."""
    return np.asarray(np.rint(weight / step).clip(-format_.highest_code, format_.highest_code), dtype=np.int8)


def _entropy(values: Floats) -> float:
    """Bits of each of `values` rounded to whole numbers."""
    codes = np.rint(values).clip(-_LONGEST, _LONGEST).astype(np.intp)
    counts = np.bincount(codes + _LONGEST)
    shares = counts[counts > 0] / codes.size
    return float(-(shares * np.log2(shares)).sum())
