"""Integer codes in a fixed number of bytes: an entropy code, and a step as fine as it leaves room for.

Rounded weights are far from uniform: their codes carry less information than their width [Gaussian weights at 2 to 4
bits 5 to 12 %, peaked ones 30 %]. Here a weight of n values has `rate * n` bits, all told, and its one step (for all
channels) is as small as the codes fit in. At one slope of error over bits the same step is the best for all rows of a
weight whose rows share their inputs [Gish and Pierce 1968, "Asymptotically efficient quantizing"]; what wide rows need
more, narrow ones leave.

**The code.** Values are visited by magnitude, in levels: of those that are not below j in magnitude, which are above?
Behind the first level come the signs of all that are not 0. A level is a string of c bits, of which the rarer value (0
or 1) is marked: the gaps between marks, each split in `gap >> k` in unary and k low bits (Rice's code; k = 0 is the
string itself). Gaps between rare events are geometric, for which this is within some percent of the entropy:

    header      of every level: the length of its unary part, which value is marked, k
    level 0     unary part, low bits (the lowest of all gaps first)
    signs       one bit for each value that is not 0
    level 1 ... as level 0

All are one string of bits, the least significant of a byte first, padded with zeros. `quantization.storage.decoding`
undoes this in operators that ONNX Runtime folds at load.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from quantization.formats import CodedFormat
from quantization.storage.packing import NATIVE_OPSET
from quantization.storage.weights import Floats, QuantizedWeight

Bits = NDArray[np.bool_]

LOW_BITS = 3
"""Bits of a header that hold k; one bit says which value is marked, the rest is the length of the unary part."""


@dataclass(frozen=True, slots=True)
class Level:
    """How a string of `count` bits is written: `marked` is the rarer value, gaps have `low` low bits, and the unary
    part has `unary` bits for `marks` gaps."""

    marked: bool
    low: int
    unary: int
    marks: int

    @property
    def size_bits(self) -> int:
        return self.unary + self.low * self.marks


@dataclass(frozen=True, slots=True, eq=False)
class CodedWeight(QuantizedWeight):
    """int8 `codes` in the weight's own shape, at most `CodedFormat.highest_code` in magnitude, and the float32 `step`
    of shape `()`.

    Raises:
        ValueError: a dtype, shape or value outside of this, or codes that do not fit in the bytes of the format.
    """

    format: CodedFormat
    codes: NDArray[np.int8]
    step: NDArray[np.float32]

    def __post_init__(self) -> None:
        codes, step, highest = self.codes, self.step, self.format.highest_code
        if codes.dtype != np.int8 or step.dtype != np.float32 or step.shape:
            raise ValueError(f"codes must be int8, the step one float32; got {codes.dtype}, {step.dtype} {step.shape}")
        if not np.isfinite(step) or step <= 0:
            raise ValueError(f"the step must be finite and above 0, got {step}")
        if codes.size and int(np.abs(codes.astype(np.int16)).max()) > highest:
            raise ValueError(f"{self.format.name} holds codes of magnitudes up to {highest}")
        needed, room = coded_bits(codes, self.format), 8 * size_bytes(self.format, codes.size)
        if needed > room:
            raise ValueError(f"these codes take {needed} bits; {self.format.name} has {room} for {codes.size} values")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.codes.shape

    def dequantize(self) -> Floats:
        """`codes * step` with one rounding to float32: what the exported file computes, bit for bit."""
        return self.codes.astype(np.float32) * self.step

    def tensors(self, opset: int = NATIVE_OPSET) -> list[onnx.TensorProto]:  # noqa: ARG002 - of all opsets the same
        """The string of bits, and the step."""
        string = encode(self.codes, self.format)
        packed = np.packbits(string, bitorder="little")
        room = np.zeros(size_bytes(self.format, self.codes.size), dtype=np.uint8)
        room[: packed.size] = packed
        return [onnx.numpy_helper.from_array(array) for array in (room, self.step)]


def size_bytes(format_: CodedFormat, count: int) -> int:
    """Bytes of `count` values."""
    return math.ceil(format_.tenths * count / 80)


def header_bits(count: int) -> int:
    """Bits of the header of one level: the unary part is at most as long as the string."""
    return count.bit_length() + 1 + LOW_BITS


def fits(format_: CodedFormat, count: int) -> bool:
    """Whether so many values have room for the headers and, beside these, one bit for two of them; and a tenth of a bit
    for each is a byte or more, so that the bytes tell the format."""
    return count >= 80 and 8 * size_bytes(format_, count) >= header_bits(count) * format_.levels + count // 2


def coded_bits(codes: NDArray[np.int8], format_: CodedFormat) -> int:
    """The bits that `codes` take, headers included."""
    magnitudes = np.abs(codes.ravel().astype(np.int16))
    total = header_bits(codes.size) * format_.levels + int(np.count_nonzero(magnitudes))
    return total + sum(level.size_bits for level, _ in _levels(magnitudes, format_.levels))


def encode(codes: NDArray[np.int8], format_: CodedFormat) -> Bits:
    """The string of `codes`, whose magnitudes are at most `format_.levels`."""
    flat = codes.ravel().astype(np.int16)
    levels = list(_levels(np.abs(flat), format_.levels))
    width = header_bits(flat.size)
    headers = [level.low | (not level.marked) << LOW_BITS | level.unary << (LOW_BITS + 1) for level, _ in levels]
    parts = [_digits(np.array(headers, dtype=np.int64), width).T.ravel()]
    for number, (level, string) in enumerate(levels):
        gaps = _gaps(string, level.marked)
        unary = np.zeros(level.unary, dtype=np.bool_)
        unary[np.cumsum((gaps >> level.low) + 1) - 1] = True
        parts += [unary, _digits(gaps, level.low).ravel()]
        if number == 0:
            parts.append(flat[flat != 0] < 0)
    return np.concatenate(parts)


def _levels(magnitudes: NDArray[np.int16], count: int) -> Iterator[tuple[Level, Bits]]:
    """So many levels, the strings of the last ones empty."""
    for height in range(count):
        string = magnitudes > height
        yield _level(string), string
        magnitudes = magnitudes[string]


def _level(string: Bits) -> Level:
    """The shortest way to write it."""
    ones = int(np.count_nonzero(string))
    marked = 2 * ones <= string.size
    gaps = _gaps(string, marked)
    lengths = [gaps.size + int((gaps >> low).sum()) for low in range(1 << LOW_BITS)]
    low = min(range(1 << LOW_BITS), key=lambda low: lengths[low] + low * gaps.size)
    return Level(marked, low, lengths[low], gaps.size)


def _gaps(string: Bits, marked: bool) -> NDArray[np.int64]:
    """How many of the other value stand before each that is marked, since the one before."""
    return np.diff(np.flatnonzero(string == marked), prepend=-1) - 1


def _digits(numbers: NDArray[np.int64], width: int) -> Bits:
    """Binary digits `[width, numbers]`, the lowest first."""
    return (numbers >> np.arange(width)[:, None] & 1).astype(np.bool_)
