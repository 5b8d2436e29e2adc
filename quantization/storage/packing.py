"""Codes as digits that ONNX stores packed: 8, 4, 2 and 1 bits.

A b-bit code is a number of digits, highest first:

    bits    digits              tensors from opset 25 on    before
    2       2                   INT2                        packed
    3       2, 1                INT2, packed                packed, packed
    4       4                   INT4                        packed
    5       4, 1                INT4, packed                packed, packed
    6       4, 2                INT4, UINT2                 packed, packed
    7       4, 2, 1             INT4, UINT2, packed         packed, packed, packed
    8       8                   INT8                        INT8

so that `code = ((high * 2**w1) + digit1) * 2**w2 + digit2`, the highest digit signed (two's complement), the others
unsigned. Where all are packed, all are unsigned and make `code + 2**(bits - 1)`.

Digits in a type of ONNX have the weight's shape. The others are packed: UINT8 `[ceil(n * width / 8)]`, because ONNX has
no 1-bit type, opsets below 25 have no 2-bit types, and ONNX Runtime casts 4-bit types only from 1.23 on. Packed digits
do not lie side by side: the second half of them lies in the bits above the first half, and so on until bytes are full.
So a Shift and an And of whole tensors unpack them. All are `raw_data`, n * width / 8 bytes rounded up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

NATIVE_OPSET = 25
"""The first opset with INT2 and UINT2."""

_WIDTHS = {2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (8,)}
_SIGNED = {8: TensorProto.INT8, 4: TensorProto.INT4, 2: TensorProto.INT2}
_UNSIGNED = {2: TensorProto.UINT2}


@dataclass(frozen=True, slots=True)
class Digit:
    """One digit of every code: `width` bits, `shift` bits below it in the code, in a tensor of `data_type`."""

    width: int
    shift: int
    data_type: int
    is_packed: bool

    def dims(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the tensor that holds this digit of a weight of `shape`."""
        return (self.size_bytes(shape),) if self.is_packed else shape

    def size_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of its `raw_data`."""
        return math.ceil(math.prod(shape) * self.width / 8)

    def tensor(self, values: NDArray[np.uint8], shape: tuple[int, ...]) -> onnx.TensorProto:
        """The nameless tensor of the lowest bits of `values`, one for each weight."""
        bits = values if self.width == 8 else values & np.uint8((1 << self.width) - 1)
        raw = pack_halves(bits, self.width) if self.is_packed else pack_unsigned(bits, self.width)
        return TensorProto(data_type=self.data_type, dims=self.dims(shape), raw_data=raw)


def digits(bits: int, opset: int = NATIVE_OPSET) -> tuple[Digit, ...]:
    """The digits of a `bits`-bit code (2 to 8) in a file of this opset, highest first."""
    widths = _WIDTHS[bits]
    return tuple(
        _digit(width, sum(widths[place + 1 :]), opset, _UNSIGNED if place else _SIGNED)
        for place, width in enumerate(widths)
    )


def _digit(width: int, shift: int, opset: int, types: Mapping[int, int]) -> Digit:
    if width in types and (width == 8 or opset >= NATIVE_OPSET):
        return Digit(width, shift, types[width], is_packed=False)
    return Digit(width, shift, TensorProto.UINT8, is_packed=True)


def pack(codes: NDArray[np.int8], bits: int, opset: int = NATIVE_OPSET) -> list[onnx.TensorProto]:
    """`codes`, each within `bits` bits, as one nameless tensor per digit, highest first."""
    layout = digits(bits, opset)
    flat = codes.reshape(-1)
    if layout[0].is_packed:
        flat = flat + np.int8(1 << (bits - 1))
    # numpy shifts int8 arithmetically: the sign goes into the highest digit
    shifted = (flat >> digit.shift if digit.shift else flat for digit in layout)
    return [digit.tensor(part.view(np.uint8), codes.shape) for digit, part in zip(layout, shifted, strict=True)]


def zero_point_digit(bits: int, opset: int = NATIVE_OPSET) -> Digit:
    """How zero points of `bits`-bit codes are stored: like codes of 4 bits, or of 8 where they may need more."""
    return digits(4 if bits <= 4 else 8, opset)[0]


def pack_zero_points(zero_points: NDArray[np.int8], bits: int, opset: int = NATIVE_OPSET) -> onnx.TensorProto:
    """`zero_points`, each within `bits` bits, as one nameless tensor."""
    return pack(zero_points, 4 if bits <= 4 else 8, opset)[0]


def pack_halves(values: NDArray[np.uint8], width: int) -> bytes:
    """Numbers of `width` bits, the second half of them in the bits above the first half, until bytes are full."""
    per_byte = 8 // width
    packed = np.zeros(math.ceil(values.size / per_byte) * per_byte, dtype=np.uint8)
    packed[: values.size] = values
    while width < 8:
        half = packed.size // 2
        packed = packed[:half] | packed[half:] << np.uint8(width)
        width *= 2
    return packed.tobytes()


def pack_unsigned(values: NDArray[np.uint8], width: int) -> bytes:
    """Numbers of `width` bits, the first in the lowest bits of the first byte."""
    per_byte = 8 // width
    if per_byte == 1:
        return values.tobytes()
    padded = values
    if values.size % per_byte:
        padded = np.zeros(math.ceil(values.size / per_byte) * per_byte, dtype=np.uint8)
        padded[: values.size] = values
    # those of a byte are read as one number, whose lowest byte they move into
    numbers = np.ascontiguousarray(padded).view(np.dtype(f"<u{per_byte}"))
    packed = numbers.copy()
    for place in range(1, per_byte):
        packed |= numbers >> (place * (8 - width))
    return packed.astype(np.uint8).tobytes()
