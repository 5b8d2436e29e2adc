"""Coded weights: what is written is read back by numpy's own reading of the description, at close to the entropy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import helper

from network.graph import Network
from quantization.export.export import export
from quantization.formats import CODED_TENTHS, CodedFormat
from quantization.rounding.coded_steps import round_coded
from quantization.storage.buckets import Costs, ranks
from quantization.storage.coded import (
    COST_BYTES,
    HEADER_BYTES,
    CodedWeight,
    coded_bits,
    encode,
    fits,
    size_bytes,
    tuples_of,
)

STEP = np.array(0.5, dtype=np.float32)
Codes = NDArray[np.int8]


def _gaussian(count: int, deviation: float, highest: int) -> Codes:
    values = np.random.default_rng(0).normal(0, deviation, count)
    return np.rint(values).clip(-highest, highest).astype(np.int8)


def _entropy(codes: Codes) -> float:
    """Bits of all codes together."""
    _, counts = np.unique(codes, return_counts=True)
    shares = counts / counts.sum()
    return float(-(counts * np.log2(shares)).sum())


def _read(string: NDArray[np.uint8], count: int, format_: CodedFormat) -> list[int]:
    """Tuple by tuple, as the description says it."""
    tuples = tuples_of(format_)
    size = -(-count // tuples.size)
    places = HEADER_BYTES + -(-size // 2)
    costs = Costs(*string[:COST_BYTES].tolist())
    widths = _halves(string[COST_BYTES:HEADER_BYTES])
    buckets = _halves(string[HEADER_BYTES:places])
    numbers = np.argsort(ranks(tuples, costs))
    bits = np.unpackbits(string[places:])
    at, digits = 0, np.zeros((tuples.size, size), dtype=int)
    for index in range(size):
        bucket = buckets[index]
        first = sum(1 << width for width in widths[:bucket])
        symbol = numbers[first + _number(bits[at : at + widths[bucket]])]
        digits[:, index] = symbol // tuples.base ** np.arange(tuples.size) % tuples.base
        at += widths[bucket]
    signs = string[-(1 + np.count_nonzero(digits)) // 8 :]
    negative = iter([int(byte) >> bit & 1 for bit in range(8) for byte in signs][1:])
    return [digit * (-1 if digit and next(negative) else 1) for digit in digits.ravel().tolist()][:count]


def _halves(string: NDArray[np.uint8]) -> list[int]:
    return [int(byte) & 15 for byte in string] + [int(byte) >> 4 for byte in string]


def _number(bits: NDArray[np.uint8]) -> int:
    return int("".join(["0", *map(str, bits.tolist())]), 2)


@pytest.mark.parametrize("deviation", [0.0, 0.1, 0.5, 1.0, 2.5, 9.0])
@pytest.mark.parametrize("count", [700, 2048, 9001])
@pytest.mark.parametrize("tenths", [12, 15, 17, 20, 25, 30, 40])
def test_the_string_says_what_was_coded(deviation: float, tenths: int, count: int) -> None:
    format_ = CodedFormat(tenths)
    codes = _gaussian(count, deviation, format_.highest_code)
    string = encode(codes, format_)
    assert len(string) == -(-coded_bits(codes, format_) // 8)
    assert _read(string, codes.size, format_) == codes.tolist()


@pytest.mark.parametrize(
    "codes",
    [
        np.full(300, 4, dtype=np.int8),
        np.full(300, -1, dtype=np.int8),
        np.arange(-4, 5, dtype=np.int8).repeat(20),
        np.eye(20, dtype=np.int8) * 4,
    ],
    ids=["all highest", "all -1", "runs", "one in twenty"],
)
def test_strings_of_extremes(codes: Codes) -> None:
    format_ = CodedFormat(20)
    assert _read(encode(codes, format_), codes.size, format_) == codes.ravel().tolist()


@pytest.mark.parametrize("tenths", CODED_TENTHS)
def test_a_full_weight_is_close_to_its_entropy(tenths: int) -> None:
    weight = np.random.default_rng(0).normal(0, 1, 1 << 18).astype(np.float32)
    coded = round_coded(weight, CodedFormat(tenths))
    assert coded_bits(coded.codes, coded.format) < 1.035 * _entropy(coded.codes)
    assert coded_bits(coded.codes, coded.format) > 0.98 * tenths / 10 * weight.size


def test_peaked_weights_take_less_than_the_width_of_their_codes() -> None:
    values = np.random.default_rng(1).laplace(0, 0.8, 1 << 16)
    codes = np.rint(values).clip(-4, 4).astype(np.int8)
    assert coded_bits(codes, CodedFormat(20)) < 1.04 * _entropy(codes) < 0.5 * codes.size * 5


def test_what_does_not_fit_is_refused() -> None:
    format_ = CodedFormat(15)
    with pytest.raises(ValueError, match=r"these codes take \d+ bytes; coded1.5/tensor has 768 for 4096 values"):
        CodedWeight(format_, _gaussian(4096, 3.0, 2), STEP).tensors()
    with pytest.raises(ValueError, match="magnitudes up to 3"):
        CodedWeight(format_, np.full(4096, 10, dtype=np.int8), STEP)
    with pytest.raises(ValueError, match="the step must be finite and above 0"):
        CodedWeight(format_, _gaussian(4096, 0.3, 2), np.array(0, dtype=np.float32))
    with pytest.raises(ValueError, match="codes must be int8"):
        CodedWeight(format_, np.zeros(4096, dtype=np.int16), STEP)  # type: ignore[arg-type]


def test_bytes_say_the_format() -> None:
    """A file is read back by what its tensors hold."""
    count = next(count for count in range(1, 1000) if fits(CodedFormat(20), count))
    for tenths in CODED_TENTHS[:-1]:
        assert size_bytes(CodedFormat(tenths), count) < size_bytes(CodedFormat(tenths + 1), count)


@pytest.mark.parametrize("shape", [(9, 9), (31, 33), (80, 1), (77, 53)], ids=str)
@pytest.mark.parametrize("tenths", [12, 15, 17, 20, 28, 32, 40])
def test_onnx_runtime_reads_the_last_tuple_as_well_as_the_first(
    make_network: Callable[..., Network], tenths: int, shape: tuple[int, int]
) -> None:
    """Of numbers of values that fill no whole tuple, byte or pair of buckets."""
    format_ = CodedFormat(tenths)
    if not fits(format_, shape[0] * shape[1]):
        pytest.skip("it has no room for so few values")
    weight = np.random.default_rng(0).laplace(size=shape).astype(np.float32)
    coded = round_coded(weight, format_)
    unit = np.eye(shape[0], dtype=np.float32)
    network = make_network([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": unit}, {"w": weight})
    session = onnxruntime.InferenceSession(export(network, {"w": coded}, {}), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"x": unit})[0], coded.dequantize())
