"""An activation in a format: scale and zero point."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantization.formats import UnsignedFormat

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class QuantizedActivation:
    """How every value of a tensor is rounded: `scale * (clip(round(x / scale) + zero_point) - zero_point)`.

    Raises:
        ValueError: the scale is not a positive float32 number, or the zero point is no code of the format.
    """

    format: UnsignedFormat
    scale: float
    zero_point: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale > 0 and float(np.float32(self.scale)) == self.scale):
            raise ValueError(f"the scale must be a positive float32 number, got {self.scale!r}")
        if not 0 <= self.zero_point <= self.format.highest_code:
            raise ValueError(f"{self.format.name} holds codes 0 to {self.format.highest_code}, got {self.zero_point}")

    @classmethod
    def covering(cls, format_: UnsignedFormat, low: float, high: float) -> QuantizedActivation:
        """The parameters whose values reach from about `low` to about `high`; 0 is made part of the range.

        From 0 on the highest value is never above `high`, not by a rounding error: a Clip at `high` then has nothing
        left to do, and ONNX Runtime makes it part of the layer before it.

        Raises:
            ValueError: a bound is not finite.
        """
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError(f"the range must be finite, got {low} to {high}")
        low, high = min(low, 0.0), max(high, 0.0)
        top = format_.highest_code
        scale = np.float32((high - low) / top)
        if scale < np.finfo(np.float32).tiny:  # all values are zero, or too small for a float32 scale
            return cls(format_, 1.0, 0)
        zero_point = int(min(max(np.rint(-low / float(scale)), 0), top))
        if zero_point == 0 and scale * np.float32(top) > high:
            scale = np.nextafter(scale, np.float32(0))
        return cls(format_, float(scale), zero_point)

    def apply(self, values: Floats) -> Floats:
        """`values` rounded to the grid, ties to even: what QuantizeLinear and DequantizeLinear of ONNX Runtime make,
        bit for bit, for all but NaN."""
        scale = np.float32(self.scale)
        with np.errstate(over="ignore"):  # a quotient beyond float32 saturates like any other
            codes = np.divide(values, scale, dtype=np.float32)
        np.clip(codes, -self.zero_point, self.format.highest_code - self.zero_point, out=codes)
        np.rint(codes, out=codes)
        codes *= scale
        return codes + np.float32(0)  # no negative zero: a code has no sign
