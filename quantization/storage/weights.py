"""A weight in a format: what is stored of it, and the values that this stands for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from network.graph import ChannelAxis
from quantization.formats import IntegerFormat, ScaledFormat, WeightFormat
from quantization.granularity import every_channel_axis, facing, is_scale_shape
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

    def sparsity(self) -> float:
        """The share of the stored codes that stand for exactly 0."""
        return zero_share(self.dequantize())

    @abstractmethod
    def tensors(self, opset: int = NATIVE_OPSET) -> list[onnx.TensorProto]:
        """What a file of this opset holds: nameless tensors, as `quantization.storage.parts` says of the format."""

    def lies_along(self, channel_axis: ChannelAxis) -> bool:  # noqa: ARG002 - what shares nothing lies along any
        """Whether what the weight's values share has the shape that it has for output channels on this axis."""
        return True

    def _check_range(self, name: str, values: NDArray[np.int8], bits: int) -> None:
        half = 1 << (bits - 1)
        if values.size and not (-half <= values.min() and values.max() < half):
            raise ValueError(
                f"{self.format.name} holds {name} {-half} to {half - 1}, got {values.min()} to {values.max()}"
            )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays by the names of their fields; `quantization.storage.families.quantized_weight` takes them."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "format"}
        return {name: array for name, array in arrays.items() if array is not None}


def zero_share(values: NDArray[Any]) -> float:
    """The share of `values`, at least one, that are exactly 0."""
    return 1.0 - np.count_nonzero(values) / values.size


@dataclass(frozen=True, slots=True, eq=False)
class ScaledWeight(QuantizedWeight):
    """int8 `codes` of the format's bits in the weight's own shape, and a float32 `scale` of the shape that
    `quantization.granularity.scale_shape` gives, for whatever axis of output channels.

    Scales are finite and never 0, and may be negative (see `IntegerFormat`). Those of blocks are numbers that
    `quantization.storage.half_scales` keeps.

    Raises:
        ValueError: a dtype, shape or value outside of this.
    """

    format: ScaledFormat
    codes: NDArray[np.int8]
    scale: NDArray[np.float32]

    def __post_init__(self) -> None:
        codes, scale, format_ = self.codes, self.scale, self.format
        if codes.dtype != np.int8 or scale.dtype != np.float32:
            raise ValueError(f"codes must be int8 and scale float32, got {codes.dtype} and {scale.dtype}")
        if not any(self.lies_along(axis) for axis in every_channel_axis(codes.shape)):
            raise ValueError(f"scale of shape {scale.shape} is not that of {format_.name} for codes of {codes.shape}")
        if not (np.isfinite(scale).all() and scale.all()):
            raise ValueError("every scale must be finite and other than 0; a channel of zeros takes scale 1")
        if format_.block and (from_halves(*as_halves(scale)) != scale).any():
            raise ValueError(
                "scales of blocks are stored in 16 bits; round them with"
                " `quantization.storage.half_scales.round_scales`"
            )
        self._check_range("codes", codes, format_.bits)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.codes.shape

    def lies_along(self, channel_axis: ChannelAxis) -> bool:
        return is_scale_shape(self.scale.shape, self.format, self.shape, channel_axis)

    def tensors(self, opset: int = NATIVE_OPSET) -> list[onnx.TensorProto]:
        """Digits, scale, for blocks the one factor of all scales."""
        scales = as_halves(self.scale) if self.format.block else (self.scale,)
        return [*pack(self.codes, self.format.bits, opset), *(onnx.numpy_helper.from_array(array) for array in scales)]


@dataclass(frozen=True, slots=True, eq=False)
class IntegerWeight(ScaledWeight):
    """Codes, scale, and unless the format is symmetric int8 zero points of the scale's shape.

    Raises:
        ValueError: a dtype, shape or value outside of this.
    """

    format: IntegerFormat
    zero_point: NDArray[np.int8] | None = None

    def __post_init__(self) -> None:
        ScaledWeight.__post_init__(self)
        zero_point, shape = self.zero_point, self.scale.shape
        if (zero_point is None) is not self.format.symmetric:
            raise ValueError(f"{self.format.name} takes {'no zero points' if self.format.symmetric else 'zero points'}")
        if zero_point is not None:
            if zero_point.dtype != np.int8 or zero_point.shape != shape:
                raise ValueError(f"zero points must be int8 {shape}, got {zero_point.dtype} {zero_point.shape}")
            self._check_range("zero points", zero_point, self.format.bits)

    def dequantize(self) -> Floats:
        """`(codes - zero_point) * scale` with one rounding to float32: what the exported file computes, bit for bit."""
        values = self.codes.astype(np.float32)
        grouped = facing(values, self.format, self.scale.shape)
        if self.zero_point is not None:
            grouped -= self.zero_point
        grouped *= self.scale
        return values

    def tensors(self, opset: int = NATIVE_OPSET) -> list[onnx.TensorProto]:
        """Digits, scale, for blocks the one factor of all scales, zero points."""
        tensors = ScaledWeight.tensors(self, opset)
        if self.zero_point is not None:
            tensors.append(pack_zero_points(self.zero_point, self.format.bits, opset))
        return tensors
