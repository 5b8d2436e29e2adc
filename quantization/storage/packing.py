"""Codes as digits that ONNX stores packed: 8, 4, 2 and 1 bits.

A b-bit code is a number of digits, the highest one signed (two's complement), the others unsigned:

    bits    digits              tensors
    2       2                   INT2
    3       2, 1                INT2, plane
    4       4                   INT4
    5       4, 1                INT4, plane
    6       4, 2                INT4, UINT2
    7       4, 2, 1             INT4, UINT2, plane
    8       8                   INT8

so that `code = ((high * 2**w1) + digit1) * 2**w2 + digit2`. Digits have the weight's shape, except planes: single bits,
eight to the byte, stored as UINT4 `[ceil(n / 4)]`, four weights to an element, because ONNX has no 1-bit type. All are
`raw_data`, packed little end first, n * bits / 8 bytes rounded up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

PLANE_WIDTH = 4  # weights to an element of a plane

_WIDTHS = {2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (8,)}
_SHORT = 4  # bits of the shorter zero points
_SIGNED = {8: TensorProto.INT8, 4: TensorProto.INT4, 2: TensorProto.INT2}
_UNSIGNED = {2: TensorProto.UINT2, 1: TensorProto.UINT4}


@dataclass(frozen=True, slots=True)
class Digit:
    """One digit of every code: `width` bits, `shift` bits below it in the code, in a tensor of `data_type`."""

    width: int
    shift: int
    data_type: int

    @property
    def is_plane(self) -> bool:
        return self.width == 1

    def dims(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the tensor that holds this digit of a weight of `shape`."""
        return (math.ceil(math.prod(shape) / PLANE_WIDTH),) if self.is_plane else shape

    def size_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of its `raw_data`."""
        return math.ceil(math.prod(shape) * self.width / 8)


def digits(bits: int) -> tuple[Digit, ...]:
    """The digits of a `bits`-bit code (2 to 8), highest first."""
    widths = _WIDTHS[bits]
    return tuple(
        Digit(width, sum(widths[place + 1 :]), (_UNSIGNED if place else _SIGNED)[width])
        for place, width in enumerate(widths)
    )


def pack(codes: NDArray[np.int8], bits: int) -> list[onnx.TensorProto]:
    """`codes`, each within `bits` bits, as one nameless tensor per digit, highest first."""
    tensors = []
    for digit in digits(bits):
        # numpy shifts int8 arithmetically: the sign goes into the highest digit, and the mask cuts it to its width
        values = (codes.reshape(-1) >> digit.shift).view(np.uint8) & np.uint8((1 << digit.width) - 1)
        tensors.append(
            TensorProto(
                data_type=digit.data_type, dims=digit.dims(codes.shape), raw_data=pack_unsigned(values, digit.width)
            )
        )
    return tensors


def zero_point_type(bits: int) -> int:
    """The type of zero points of `bits`-bit codes: 4 bits, or 8 where they may need more."""
    return TensorProto.INT4 if bits <= _SHORT else TensorProto.INT8


def pack_zero_points(zero_points: NDArray[np.int8], bits: int) -> onnx.TensorProto:
    """`zero_points`, each within `bits` bits, as one nameless tensor."""
    values = zero_points.reshape(-1).view(np.uint8)
    raw = pack_unsigned(values & np.uint8(15), _SHORT) if bits <= _SHORT else values.tobytes()
    return TensorProto(data_type=zero_point_type(bits), dims=zero_points.shape, raw_data=raw)


def pack_unsigned(values: NDArray[np.uint8], width: int) -> bytes:
    """Numbers of `width` bits, the first in the lowest bits of the first byte."""
    per_byte = 8 // width
    padded = np.zeros(math.ceil(values.size / per_byte) * per_byte, dtype=np.uint8)
    padded[: values.size] = values
    packed = padded[::per_byte].copy()
    for place in range(1, per_byte):
        packed |= padded[place::per_byte] << np.uint8(place * width)
    return packed.tobytes()
