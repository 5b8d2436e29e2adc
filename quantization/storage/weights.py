"""A weight in a format: what is stored of it, and the values that this stands for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from quantization.formats import Granularity, IntegerFormat, WeightFormat
from quantization.storage.folding import NotFoldable, fold
from quantization.storage.half_scales import as_halves, from_halves
from quantization.storage.packing import NATIVE_OPSET, pack, pack_zero_points

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedWeight(ABC):
    """A weight in its format. Subclasses add arrays as fields."""

    format: WeightFormat

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Of the weight."""

    @abstractmethod
    def dequantize(self) -> Floats:
        """The values in the weight's shape: what the exported file computes when it is loaded."""

    @abstractmethod
    def tensors(self, opset: int = NATIVE_OPSET) -> list[onnx.TensorProto]:
        """What a file of this opset holds: nameless tensors, as `quantization.storage.parts` says of the format."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays by the names of their fields; `quantization.storage.families.quantized_weight` takes them."""
        found = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "format"}
        return {name: array for name, array in found.items() if array is not None}


@dataclass(frozen=True, slots=True, eq=False)
class IntegerWeight(QuantizedWeight):
    """`codes` in the weight's own shape, the float32 `scale`, and int8 zero points unless the format is symmetric.

    The scale has shape `()` for one scale per tensor, for channels the weight's rank with one axis longer than 1 at
    most. For blocks it is `[blocks, 1, inner]` of the weight folded to `[outer, reduced, inner]`
    (`quantization.storage.folding`), blocks running along `reduced`, and holds numbers that
    `quantization.storage.half_scales` keeps. Scales are finite and never 0, and may be negative (see `IntegerFormat`).
    Zero points have the scale's shape.

    Raises:
        ValueError: a dtype, shape or value outside of this.
    """

    format: IntegerFormat
    codes: NDArray[np.int8]
    scale: NDArray[np.float32]
    zero_point: NDArray[np.int8] | None = None

    def __post_init__(self) -> None:
        codes, scale, zero_point, format_ = self.codes, self.scale, self.zero_point, self.format
        if codes.dtype != np.int8 or scale.dtype != np.float32:
            raise ValueError(f"codes must be int8 and scale float32, got {codes.dtype} and {scale.dtype}")
        if not _shares(format_, scale.shape, codes.shape):
            raise ValueError(f"scale of shape {scale.shape} is not that of {format_.name} for codes of {codes.shape}")
        if not (np.isfinite(scale).all() and scale.all()):
            raise ValueError("every scale must be finite and other than 0; a channel of zeros takes scale 1")
        if format_.granularity is Granularity.BLOCK and (from_halves(*as_halves(scale)) != scale).any():
            raise ValueError(
                "scales of blocks are stored in 16 bits; round them with `quantization.storage.half_scales.rounded`"
            )
        if (zero_point is None) is not format_.symmetric:
            raise ValueError(f"{format_.name} takes {'no zero points' if format_.symmetric else 'zero points'}")
        if zero_point is not None and (zero_point.dtype != np.int8 or zero_point.shape != scale.shape):
            raise ValueError(f"zero points must be int8 {scale.shape}, got {zero_point.dtype} {zero_point.shape}")
        for name, values in (("codes", codes), ("zero points", zero_point)):
            if values is not None and values.size and not _within(format_, values):
                raise ValueError(
                    f"{format_.name} holds {name} {format_.lowest_code} to {format_.highest_code},"
                    f" got {values.min()} to {values.max()}"
                )

    @property
    def shape(self) -> tuple[int, ...]:
        return self.codes.shape

    def dequantize(self) -> Floats:
        """`(codes - zero_point) * scale` with one rounding to float32: what the exported file computes, bit for bit."""
        values = self.codes.astype(np.float32)
        grouped = values if self.format.block == 0 else values.reshape(len(self.scale), -1, self.scale.shape[2])
        if self.zero_point is not None:
            grouped -= self.zero_point
        grouped *= self.scale
        return values

    def tensors(self, opset: int = NATIVE_OPSET) -> list[onnx.TensorProto]:
        """Digits, scale, for blocks the one factor of all scales, zero points."""
        found = pack(self.codes, self.format.bits, opset)
        if self.format.granularity is Granularity.BLOCK:
            found += [onnx.numpy_helper.from_array(array) for array in as_halves(self.scale)]
        else:
            found.append(onnx.numpy_helper.from_array(self.scale))
        if self.zero_point is not None:
            found.append(pack_zero_points(self.zero_point, self.format.bits, opset))
        return found


def _within(format_: IntegerFormat, values: NDArray[np.int8]) -> bool:
    return bool(format_.lowest_code <= values.min() and values.max() <= format_.highest_code)


def _shares(format_: IntegerFormat, scale: tuple[int, ...], weight: tuple[int, ...]) -> bool:
    """Whether scales of this shape are those of a weight of that shape."""
    match format_.granularity:
        case Granularity.TENSOR:
            return scale == ()
        case Granularity.CHANNEL:
            return _is_per_channel(scale, weight)
    return any(block_shape(format_.block, weight, axis) == scale for axis in range(len(weight)))


def block_shape(block: int, shape: tuple[int, ...], channel_axis: int) -> tuple[int, int, int] | None:
    """The shape of the scales of blocks, None where a weight of `shape` does not divide into these blocks."""
    folded = fold(shape, channel_axis)
    if isinstance(folded, NotFoldable) or folded.reduced % block:
        return None
    return folded.outer * folded.reduced // block, 1, folded.inner


def _is_per_channel(scale: tuple[int, ...], weight: tuple[int, ...]) -> bool:
    if len(scale) != len(weight):
        return False
    longer = [axis for axis, length in enumerate(scale) if length != 1]
    return len(longer) <= 1 and all(scale[axis] == weight[axis] for axis in longer)
