"""Weights as places in tables: `2**bits` values for each output channel, wherever they serve it best. A value is a
float16 number times one power of two for the whole weight, so that no network's weights are too small or too large.

Kim et al., "SqueezeLLM: Dense-and-Sparse Quantization", arXiv 2306.07629. `quantization.rounding.codebook_tables` finds
the tables.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from network.graph import ChannelAxis
from quantization.formats import CodebookFormat
from quantization.granularity import NotFoldable, every_channel_axis, fold
from quantization.storage.packing import NATIVE_OPSET, pack
from quantization.storage.weights import Floats, QuantizedWeight

_PER = 10_000  # weights, that `CodebookFormat.outliers` counts for


@dataclass(frozen=True, slots=True, eq=False)
class CodebookWeight(QuantizedWeight):
    """`codes` in the weight's own shape, a `table` with its `factor`, and weights kept in float32: `values` at
    `positions`.

    The table is float16 `[outer, 2**bits, inner]` of the weight folded to `[outer, reduced, inner]`
    (`quantization.granularity`): a code is the place that Python gives that index, 0 first, those of negative codes
    behind those of positive ones. Its numbers count `factor` times, float32 of shape `()`. Positions are int32,
    counted through the flat weight, ascending, `outlier_count` of them; what the tables say there is not used.

    Raises:
        ValueError: a dtype, shape or value outside of this.
    """

    format: CodebookFormat
    codes: NDArray[np.int8]
    table: NDArray[np.float16]
    factor: NDArray[np.float32]
    positions: NDArray[np.int32]
    values: NDArray[np.float32]

    def __post_init__(self) -> None:
        codes, table = self.codes, self.table
        if codes.dtype != np.int8 or table.dtype != np.float16:
            raise ValueError(f"codes must be int8 and the table float16, got {codes.dtype} and {table.dtype}")
        if not any(self.lies_along(axis) for axis in every_channel_axis(codes.shape)):
            raise ValueError(f"a table of {table.shape} is not that of {self.format.name} for codes of {codes.shape}")
        if not np.isfinite(table).all():
            raise ValueError("the values of the table must be finite")
        if self.factor.dtype != np.float32 or self.factor.shape != () or not 0 < self.factor < np.inf:
            raise ValueError(f"the factor must be one positive float32 number, got {self.factor!r}")
        self._check_range("codes", codes, self.format.bits)
        self._check_outliers()

    def _check_outliers(self) -> None:
        positions, values = self.positions, self.values
        count = outlier_count(self.format, self.codes.size)
        if positions.dtype != np.int32 or values.dtype != np.float32:
            raise ValueError(f"positions must be int32 and values float32, got {positions.dtype} and {values.dtype}")
        if positions.shape != (count,) or values.shape != (count,):
            raise ValueError(
                f"{self.format.name} keeps {count} of {self.codes.size} weights,"
                f" got positions of {positions.shape} and values of {values.shape}"
            )
        if count and not (positions[0] >= 0 and positions[-1] < self.codes.size and (np.diff(positions) > 0).all()):
            raise ValueError(f"positions must ascend within 0 to {self.codes.size - 1}")
        if not np.isfinite(values).all():
            raise ValueError("the values that are kept must be finite")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.codes.shape

    def lies_along(self, channel_axis: ChannelAxis) -> bool:
        try:
            return table_shape(self.format, self.shape, channel_axis) == self.table.shape
        except ValueError:
            return False

    def dequantize(self) -> Floats:
        """The table at the codes, and the values kept: what the exported file looks up."""
        outer, _, inner = self.table.shape
        places = self.codes.reshape(outer, -1, inner).astype(np.intp)
        flat = np.take_along_axis(self.table * self.factor, places, axis=1).reshape(-1)
        flat[self.positions] = self.values
        return flat.reshape(self.shape)

    def tensors(self, opset: int = NATIVE_OPSET) -> list[onnx.TensorProto]:
        """Digits, table, factor, and if the format keeps outliers their positions and values."""
        arrays: list[NDArray[Any]] = [self.table.reshape(stored_table_shape(self.table.shape)), self.factor]
        if self.format.outliers:
            arrays += [self.positions, self.values]
        return [*pack(self.codes, self.format.bits, opset), *(onnx.numpy_helper.from_array(array) for array in arrays)]


def outlier_count(format_: CodebookFormat, size: int) -> int:
    """How many of `size` weights the format keeps in float32."""
    return math.ceil(size * format_.outliers / _PER)


def table_shape(format_: CodebookFormat, shape: tuple[int, ...], channel_axis: ChannelAxis) -> tuple[int, int, int]:
    """`[outer, 2**bits, inner]` for a weight of `shape`.

    Raises:
        ValueError: the weight does not fold (`quantization.granularity`).
    """
    folded = fold(shape, channel_axis)
    if isinstance(folded, NotFoldable):
        raise ValueError(f"{format_.name} has a table for what each output sums over: {folded.reason}")
    return folded.outer, 1 << format_.bits, folded.inner


def table_numbers(table: tuple[int, int, int], shape: tuple[int, ...]) -> NDArray[np.int32]:
    """For every weight of `shape` which table `[outer, ..., inner]` it takes, counted through `[outer, inner]`."""
    outer, _, inner = table
    numbers = np.arange(outer * inner, dtype=np.int32).reshape(outer, 1, inner)
    return np.broadcast_to(numbers, (outer, math.prod(shape) // (outer * inner), inner)).reshape(shape)


def stored_table_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The table's shape in the file: without a last axis of 1, because ONNX Runtime gathers along a last axis in two
    thirds of the time."""
    return shape[:2] if shape[2] == 1 else shape
