"""Weights in float16."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from quantization.formats import HalfFormat
from quantization.storage.packing import NATIVE_OPSET
from quantization.storage.weights import QuantizedWeight


@dataclass(frozen=True, slots=True, eq=False)
class HalfWeight(QuantizedWeight):
    """`values`, finite float16 in the weight's shape.

    Raises:
        ValueError: they are not.
    """

    format: HalfFormat
    values: NDArray[np.float16]

    def __post_init__(self) -> None:
        if self.values.dtype != np.float16 or not np.isfinite(self.values).all():
            raise ValueError(f"the values must be finite float16, got {self.values.dtype}")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def dequantize(self) -> NDArray[np.float32]:
        return self.values.astype(np.float32)

    def tensors(self, opset: int = NATIVE_OPSET) -> list[onnx.TensorProto]:  # noqa: ARG002 - float16 is in every opset
        return [onnx.numpy_helper.from_array(self.values)]
