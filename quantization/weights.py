"""A weight in a format: codes and scales."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantization.formats import Granularity, IntegerFormat


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedWeight:
    """`codes` in the weight's own shape and the float32 `scale` that broadcasts to it.

    The scale has shape `()` for one scale per tensor, else the weight's rank with one axis longer than 1 at most.
    It is finite and never 0, and may be negative (see `IntegerFormat`).

    Raises:
        ValueError: a dtype, shape or value outside of this.
    """

    format: IntegerFormat
    codes: NDArray[np.int8]
    scale: NDArray[np.float32]

    def __post_init__(self) -> None:
        codes, scale, format_ = self.codes, self.scale, self.format
        if codes.dtype != np.int8 or scale.dtype != np.float32:
            raise ValueError(f"codes must be int8 and scale float32, got {codes.dtype} and {scale.dtype}")
        if format_.granularity is Granularity.TENSOR:
            if scale.shape != ():
                raise ValueError(f"{format_.name} takes one scale of shape (), got shape {scale.shape}")
        elif not _is_per_channel(scale.shape, codes.shape):
            raise ValueError(f"scale of shape {scale.shape} is not per channel for codes of shape {codes.shape}")
        if not (np.isfinite(scale).all() and scale.all()):
            raise ValueError("every scale must be finite and other than 0; a channel of zeros takes scale 1")
        if codes.size and not (format_.lowest_code <= codes.min() and codes.max() <= format_.highest_code):
            raise ValueError(
                f"{format_.name} holds codes {format_.lowest_code} to {format_.highest_code},"
                f" got {codes.min()} to {codes.max()}"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        return self.codes.shape

    def dequantize(self) -> NDArray[np.float32]:
        """`codes * scale` with one rounding to float32: what the exported file computes, bit for bit."""
        return np.asarray(self.codes.astype(np.float32) * self.scale)


def _is_per_channel(scale: tuple[int, ...], weight: tuple[int, ...]) -> bool:
    if len(scale) != len(weight):
        return False
    longer = [axis for axis, length in enumerate(scale) if length != 1]
    return len(longer) <= 1 and all(scale[axis] == weight[axis] for axis in longer)
