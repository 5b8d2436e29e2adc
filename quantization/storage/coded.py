"""Integer codes in a fixed number of bytes: an entropy code, and a step as fine as it leaves room for.

Rounded weights are far from uniform: their codes carry less information than their width [Gaussian weights at 2 to 4
bits 5 to 12 %, peaked ones 30 %]. Here a weight of n values has `rate * n` bits, all told, and its one step (for all
channels) is as small as the codes fit in. At one slope of error over bits the same step is the best for all rows of a
weight whose rows share their inputs [Gish and Pierce 1968, "Asymptotically efficient quantizing"]; what wide rows need
more, narrow ones leave.

**The string.** Magnitudes in tuples, `[tuple_size, tuples]` in the order of the weight and padded with zeros, each in
one of the buckets that are cut for this weight (`quantization.storage.buckets`); then the signs, which no code makes
shorter:

    what magnitudes cost: a, b                    8 bits each
    bits of places in each of the 16 buckets      4 bits each
    bucket of each tuple                          4 bits each
    place of each tuple                           one after another, the most significant bit of a byte first
    zeros, where there is room
    0, and 1 for each negative code, 0 for        1 bit each, up to the last byte
    each positive one

Numbers of 4 bits are packed in halves: a byte holds one of the first half in its lower bits, one of the second above.
So are signs in eighths, the first in the lowest bits.

`quantization.storage.decoding` undoes this in operators that ONNX Runtime folds at load.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from quantization.formats import CodedFormat
from quantization.storage.buckets import BUCKETS, MOST_BITS, Costs, Integers, Tuples, best_buckets, fitted_costs, ranks
from quantization.storage.packing import NATIVE_OPSET
from quantization.storage.weights import Floats, QuantizedWeight

COST_BYTES = 2
HEADER_BYTES = COST_BYTES + BUCKETS // 2


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
        room = size_bytes(self.format, self.codes.size)
        string = encode(self.codes, self.format, room)
        if string.size > room:
            raise ValueError(
                f"these codes take {string.size} bytes; {self.format.name} has {room} for {self.codes.size} values"
            )
        return [onnx.numpy_helper.from_array(array) for array in (string, self.step)]


def tuples_of(format_: CodedFormat) -> Tuples:
    """What is written together."""
    return Tuples(format_.tuple_size, format_.highest_code)


def size_bytes(format_: CodedFormat, count: int) -> int:
    """Bytes of `count` values."""
    return math.ceil(format_.tenths * count / 80)


def fixed_bits(format_: CodedFormat, count: int) -> int:
    """What the string of `count` values takes without places and signs, whatever they are."""
    tuples = -(-count // format_.tuple_size)
    return 8 * (HEADER_BYTES + -(-tuples // 2))


def fits(format_: CodedFormat, count: int) -> bool:
    """Whether there is room for any places; and a tenth of a bit for each value is a byte or more, so that the bytes
    tell the format."""
    return count >= 80 and 8 * size_bytes(format_, count) >= fixed_bits(format_, count) + 8


def coded_bits(codes: NDArray[np.int8], format_: CodedFormat) -> int:
    """The bits that `codes` take, all told, in whole bytes."""
    _, ranked = _ranked(codes, tuples_of(format_))
    _, places = best_buckets(np.bincount(ranked))
    signs = 1 + int(np.count_nonzero(codes))
    return fixed_bits(format_, codes.size) + 8 * (-(-places // 8) - (-signs // 8))


def encode(codes: NDArray[np.int8], format_: CodedFormat, room: int = 0) -> NDArray[np.uint8]:
    """The string of `codes`, whose magnitudes are at most `format_.highest_code`: so many bytes, or what they take."""
    costs, ranked = _ranked(codes, tuples_of(format_))
    widths, _ = best_buckets(np.bincount(ranked))
    ends = np.cumsum(1 << widths)
    buckets = np.searchsorted(ends, ranked, side="right")
    lengths = widths[buckets]
    places = ranked - (ends - (1 << widths))[buckets]
    behind = np.cumsum(lengths)
    bits = np.zeros(int(behind[-1]), dtype=np.bool_)
    for digit in range(MOST_BITS):  # the lowest first
        (long,) = np.nonzero(lengths > digit)
        bits[behind[long] - 1 - digit] = places[long] >> digit & 1
    signs = np.concatenate([[False], codes[codes != 0] < 0])
    header = (np.array(costs, dtype=np.uint8), _side_by_side(widths, 4))
    front = np.concatenate([*header, _side_by_side(buckets, 4), np.packbits(bits)])
    back = _side_by_side(signs, 1)
    return np.concatenate([front, np.zeros(max(room - front.size - back.size, 0), dtype=np.uint8), back])


def _ranked(codes: NDArray[np.int8], tuples: Tuples) -> tuple[Costs, Integers]:
    """What magnitudes cost, and the rank of every tuple by that."""
    magnitudes = np.abs(codes.ravel())
    costs = fitted_costs(np.bincount(magnitudes))
    padded = np.pad(magnitudes, (0, -codes.size % tuples.size))
    return costs, ranks(tuples, costs)[tuples.numbers_of(padded.reshape(tuples.size, -1))]


def _side_by_side(numbers: NDArray[np.integer | np.bool_], bits: int) -> NDArray[np.uint8]:
    """As many in a byte as it has room for, the first of `numbers`, of so many bits, in the lowest bits."""
    parts = np.pad(numbers.astype(np.uint8), (0, -numbers.size % (8 // bits))).reshape(8 // bits, -1)
    places = np.arange(0, 8, bits, dtype=np.uint8)
    return np.asarray((parts << places[:, None]).sum(axis=0, dtype=np.uint8))
