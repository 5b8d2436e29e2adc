"""Integer codes in a fixed number of bytes: an entropy code, and a step as fine as it leaves room for.

Rounded weights are far from uniform: their codes carry less information than their width [Gaussian weights at 2 to 4
bits 5 to 12 %, peaked ones 30 %]. Here a weight of n values has `rate * n` bits, all told, and its one step (for all
channels) is as small as the codes fit in. At one slope of error over bits the same step is the best for all rows of a
weight whose rows share their inputs [Gish and Pierce 1968, "Asymptotically efficient quantizing"]; what wide rows need
more, narrow ones leave.

**The string.** Codes in tuples, `[tuple_size, tuples]` in the order of the weight and padded with zeros, each in one of
the buckets that are cut for this weight (`quantization.storage.buckets`):

    bits of places in each of the 16 buckets      4 bits each
    bucket of each tuple                          4 bits each
    place of each tuple                           one after another, the most significant bit of a byte first

Numbers of 4 bits are packed in halves: a byte holds one of the first half in its lower bits, one of the second above.

`quantization.storage.decoding` undoes this in operators that ONNX Runtime folds at load.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from quantization.formats import CodedFormat
from quantization.storage.buckets import BUCKETS, MOST_BITS, Integers, Tuples, best_buckets
from quantization.storage.packing import NATIVE_OPSET
from quantization.storage.weights import Floats, QuantizedWeight

HEADER_BYTES = BUCKETS // 2


@dataclass(frozen=True, slots=True, eq=False)
class CodedWeight(QuantizedWeight):
    """int8 `codes` in the weight's own shape, at most `CodedFormat.highest_code` in magnitude, and the float32 `step`
    of shape `()`. Whether they fit in the bytes of the format is looked at when these are made: it takes milliseconds.

    Raises:
        ValueError: a dtype, shape or value outside of this.
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

    @property
    def shape(self) -> tuple[int, ...]:
        return self.codes.shape

    def dequantize(self) -> Floats:
        """`codes * step` with one rounding to float32: what the exported file computes, bit for bit."""
        return self.codes.astype(np.float32) * self.step

    def tensors(self, opset: int = NATIVE_OPSET) -> list[onnx.TensorProto]:  # noqa: ARG002 - of all opsets the same
        """The string, and the step.

        Raises:
            ValueError: the codes do not fit in the bytes of the format.
        """
        string = encode(self.codes, self.format)
        room = np.zeros(size_bytes(self.format, self.codes.size), dtype=np.uint8)
        if string.size > room.size:
            raise ValueError(
                f"these codes take {string.size} bytes; {self.format.name} has {room.size} for {self.codes.size} values"
            )
        room[: string.size] = string
        return [onnx.numpy_helper.from_array(array) for array in (room, self.step)]


def tuples_of(format_: CodedFormat) -> Tuples:
    """What is written together."""
    return Tuples(format_.tuple_size, format_.highest_code)


def size_bytes(format_: CodedFormat, count: int) -> int:
    """Bytes of `count` values."""
    return math.ceil(format_.tenths * count / 80)


def fixed_bits(format_: CodedFormat, count: int) -> int:
    """What the string of `count` values takes without places, whatever they are."""
    tuples = -(-count // format_.tuple_size)
    return 8 * (HEADER_BYTES + -(-tuples // 2))


def fits(format_: CodedFormat, count: int) -> bool:
    """Whether there is room for any places; and a tenth of a bit for each value is a byte or more, so that the bytes
    tell the format."""
    return count >= 80 and 8 * size_bytes(format_, count) >= fixed_bits(format_, count)


def coded_bits(codes: NDArray[np.int8], format_: CodedFormat) -> int:
    """The bits that `codes` take, all told."""
    tuples = tuples_of(format_)
    counts = np.bincount(_ranks(codes, tuples))
    return fixed_bits(format_, codes.size) + best_buckets(counts)[1]


def encode(codes: NDArray[np.int8], format_: CodedFormat) -> NDArray[np.uint8]:
    """The string of `codes`, whose magnitudes are at most `format_.highest_code`."""
    ranks = _ranks(codes, tuples_of(format_))
    widths, _ = best_buckets(np.bincount(ranks))
    ends = np.cumsum(1 << widths)
    buckets = np.searchsorted(ends, ranks, side="right")
    lengths = widths[buckets]
    places = ranks - (ends - (1 << widths))[buckets]
    behind = np.cumsum(lengths)
    bits = np.zeros(int(behind[-1]), dtype=np.bool_)
    for digit in range(MOST_BITS):  # the lowest first
        (long,) = np.nonzero(lengths > digit)
        bits[behind[long] - 1 - digit] = places[long] >> digit & 1
    return np.concatenate([_in_halves(widths), _in_halves(buckets), np.packbits(bits)])


def _ranks(codes: NDArray[np.int8], tuples: Tuples) -> Integers:
    flat = np.pad(codes.ravel(), (0, -codes.size % tuples.size))
    return tuples.ranks_of(flat.reshape(tuples.size, -1))


def _in_halves(numbers: Integers) -> NDArray[np.uint8]:
    """Two in a byte."""
    lower, upper = np.pad(numbers, (0, numbers.size % 2)).reshape(2, -1)
    return np.asarray(lower | upper << 4, dtype=np.uint8)
