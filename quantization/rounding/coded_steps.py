"""The finest step at which a weight's nearest codes fit in the bytes of a coded format."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quantization.formats import CodedFormat
from quantization.rounding.ranges import finite_float32
from quantization.rounding.tiles import Floats
from quantization.storage.coded import CodedWeight, coded_bits, size_bytes

_FINEST, _COARSEST = 1 / 64, 16.0  # steps, in root mean squares of the weight
_BISECTIONS = 18
_SAMPLE = 1 << 16  # values that are counted to find a first step


def round_coded(weight: Floats, format_: CodedFormat) -> CodedWeight:
    """`weight`, each value at its nearest code, at the finest step whose codes fit.

    Raises:
        ValueError: the weight is not finite float32.
    """
    step = first_step(finite_float32(weight), format_)
    room = 8 * size_bytes(format_, weight.size)
    while coded_bits(codes := nearest_coded(weight, step, format_), format_) > room:
        step *= 1.01
    return CodedWeight(format_, codes, np.array(step, dtype=np.float32))


def first_step(weight: Floats, format_: CodedFormat) -> float:
    """The finest step, about, at which the nearest codes of `weight` fit; of a large one some values stand for all."""
    flat = weight.ravel()
    largest = float(np.abs(flat).max(initial=0.0))
    size = float(np.sqrt(np.square(flat, dtype=np.float64).mean())) if largest else 0.0
    if size < np.finfo(np.float32).tiny * 64:
        return 1.0
    seen = flat[:: max(1, flat.size // _SAMPLE)]
    room = 8 * size_bytes(format_, flat.size) / flat.size * seen.size
    fine, coarse = np.log2(_FINEST * size), np.log2(max(_COARSEST * size, 2 * largest))
    for _ in range(_BISECTIONS):
        middle = (fine + coarse) / 2
        if coded_bits(nearest_coded(seen, 2**middle, format_), format_) > room:
            fine = middle
        else:
            coarse = middle
    return float(2**coarse)


def nearest_coded(weight: Floats, step: float, format_: CodedFormat) -> NDArray[np.int8]:
    """The code of each value."""
    return np.asarray(np.rint(weight / step).clip(-format_.highest_code, format_.highest_code), dtype=np.int8)
