"""Many scales in 16 bits each: float16 numbers times one power of two for all of them.

The power brings the largest magnitude to between 1/2 and 1, so that no network's scales are too small or too large for
float16. Eleven digits are kept of scales down to 2**-14 of the largest, fewer below.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Halves = NDArray[np.float16]

_SMALLEST = np.float16(2.0**-24)  # of float16, as a subnormal number


def as_halves(values: Floats) -> tuple[Halves, Floats]:
    """`values` as float16 numbers of the same shape, and the factor, shape `()`; no number but 0 becomes 0."""
    largest = float(np.max(np.abs(values), initial=0.0))
    factor = np.ldexp(np.float32(1), int(np.frexp(np.float32(largest))[1])) if largest else np.float32(1)
    halves = (values / factor).astype(np.float16)
    if not halves.all():
        vanished = (halves == 0) & (values != 0)
        halves = np.where(vanished, np.copysign(_SMALLEST, values), halves).astype(np.float16)
    return halves, np.asarray(factor)


def from_halves(halves: Halves, factor: Floats) -> Floats:
    """The float32 numbers that these stand for, exact unless they are too small for float32."""
    return np.asarray(halves.astype(np.float32) * factor)


def round_scales(values: Floats) -> Floats:
    """`values` at numbers that can be kept so; those stay themselves if they are rounded again."""
    halves, factor = as_halves(values)
    once = from_halves(halves, factor)
    if np.max(np.abs(halves), initial=0.0) < 1:
        return once
    return from_halves(*as_halves(once))  # the largest was rounded up to the next power of two
