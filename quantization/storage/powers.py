"""Integers on a power grid: `value = scale * sign(code) * |code|**(1/a)`, denser around 0 as `a` falls below 1.

Yvinec et al., "NUPES: Non-Uniform Post-Training Quantization via Power Exponent Search", arXiv 2308.05600.

What is stored is the grid itself, `2**bits` float16 values: a power is not the same to the bit everywhere, a table is.
`quantization.rounding.power_grids` finds exponents and scales.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from quantization.formats import PowerFormat
from quantization.storage.packing import NATIVE_OPSET
from quantization.storage.weights import Floats, ScaledWeight


@dataclass(frozen=True, slots=True, eq=False)
class PowerWeight(ScaledWeight):
    """Codes, a scale per channel, and a `table`.

    The table is float16 `[2**bits]`, the value of a code at the place that Python gives that index: 0 first, the values
    of negative codes behind those of positive ones. Values rise with their codes, and 0 stands for 0.

    Raises:
        ValueError: a dtype, shape or value outside of this.
    """

    format: PowerFormat
    table: NDArray[np.float16]

    def __post_init__(self) -> None:
        ScaledWeight.__post_init__(self)
        levels = 1 << self.format.bits
        if self.table.dtype != np.float16 or self.table.shape != (levels,):
            raise ValueError(f"the table must be float16 [{levels}], got {self.table.dtype} {list(self.table.shape)}")
        if self.table[0] != 0 or not np.isfinite(self.table).all() or (np.diff(ascending(self.table)) <= 0).any():
            raise ValueError("the values of the table must be finite, rise with their codes, and be 0 for code 0")

    def dequantize(self) -> Floats:
        """`table[codes] * scale` with one rounding to float32: what the exported file computes, bit for bit."""
        values = self.table.astype(np.float32)[self.codes]
        values *= self.scale
        return values

    def tensors(self, opset: int = NATIVE_OPSET) -> list[onnx.TensorProto]:
        """Digits, scale, table."""
        return [*ScaledWeight.tensors(self, opset), onnx.numpy_helper.from_array(self.table)]


def ascending(table: NDArray[np.float16]) -> NDArray[np.float16]:
    """`PowerWeight.table` from the value of the lowest code to that of the highest."""
    return np.roll(table, len(table) // 2)
