"""Coded weights: what is written is read back by numpy's own reading of the description, at close to the entropy."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from quantization.formats import CodedFormat
from quantization.storage.coded import LOW_BITS, CodedWeight, coded_bits, encode, fits, header_bits, size_bytes

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


def _number(bits: NDArray[np.bool_]) -> int:
    return sum(int(bit) << place for place, bit in enumerate(bits))


def _read(string: NDArray[np.bool_], count: int, levels: int) -> list[int]:
    """Bit by bit, as the description says it."""
    width, place = header_bits(count), 0

    def take(length: int) -> NDArray[np.bool_]:
        nonlocal place
        place += length
        return string[place - length : place]

    headers = [take(width) for _ in range(levels)]
    magnitudes, members = [0] * count, list(range(count))
    negative: dict[int, bool] = {}
    for number, header in enumerate(headers):
        low, marked, unary = _number(header[:LOW_BITS]), not header[LOW_BITS], _number(header[LOW_BITS + 1 :])
        gaps = [0]
        for bit in take(unary):
            if bit:
                gaps.append(0)
            else:
                gaps[-1] += 1 << low
        gaps.pop()
        digits = [take(len(gaps)) for _ in range(low)]
        flags, at = [not marked] * len(members), -1
        for index, gap in enumerate(gaps):
            at += gap + _number(np.array([digit[index] for digit in digits])) + 1
            flags[at] = marked
        members = [member for member, flag in zip(members, flags, strict=True) if flag]
        for member in members:
            magnitudes[member] += 1
        if number == 0:
            negative = dict(zip(members, take(len(members)), strict=True))
    return [-value if negative.get(index) else value for index, value in enumerate(magnitudes)]


@pytest.mark.parametrize("deviation", [0.0, 0.1, 0.5, 1.0, 2.5, 9.0])
@pytest.mark.parametrize("tenths", [15, 25, 40])
def test_the_string_says_what_was_coded(deviation: float, tenths: int) -> None:
    format_ = CodedFormat(tenths)
    codes = _gaussian(700, deviation, format_.highest_code)
    string = encode(codes, format_)
    assert len(string) == coded_bits(codes, format_)
    assert _read(string, codes.size, format_.levels) == codes.tolist()


@pytest.mark.parametrize(
    "codes",
    [
        np.full(300, 9, dtype=np.int8),
        np.full(300, -1, dtype=np.int8),
        np.arange(-9, 10, dtype=np.int8).repeat(20),
        np.eye(20, dtype=np.int8) * 9,
    ],
    ids=["all highest", "all -1", "runs", "one in twenty"],
)
def test_strings_of_extremes(codes: Codes) -> None:
    format_ = CodedFormat(20)
    assert _read(encode(codes, format_), codes.size, format_.levels) == codes.ravel().tolist()


@pytest.mark.parametrize(("deviation", "tenths"), [(0.3, 15), (0.5, 15), (0.7, 18), (1.0, 25), (1.5, 30), (3.0, 40)])
def test_bits_are_close_to_the_entropy(deviation: float, tenths: int) -> None:
    codes = _gaussian(1 << 18, deviation, CodedFormat(tenths).highest_code)
    assert coded_bits(codes, CodedFormat(tenths)) < 1.04 * _entropy(codes)


def test_peaked_weights_take_less_than_the_width_of_their_codes() -> None:
    values = np.random.default_rng(1).laplace(0, 0.8, 1 << 16)
    codes = np.rint(values).clip(-9, 9).astype(np.int8)
    assert coded_bits(codes, CodedFormat(20)) < 1.04 * _entropy(codes) < 0.5 * codes.size * 5


def test_what_does_not_fit_is_refused() -> None:
    format_ = CodedFormat(15)
    with pytest.raises(ValueError, match=r"these codes take \d+ bits; coded1.5/tensor has 6144 for 4096 values"):
        CodedWeight(format_, _gaussian(4096, 3.0, 5), STEP)
    with pytest.raises(ValueError, match="magnitudes up to 5"):
        CodedWeight(format_, np.full(4096, 10, dtype=np.int8), STEP)
    with pytest.raises(ValueError, match="the step must be finite and above 0"):
        CodedWeight(format_, _gaussian(4096, 0.3, 9), np.array(0, dtype=np.float32))
    with pytest.raises(ValueError, match="codes must be int8"):
        CodedWeight(format_, np.zeros(4096, dtype=np.int16), STEP)  # type: ignore[arg-type]


def test_bytes_say_the_format() -> None:
    """A file is read back by what its tensors hold."""
    count = next(count for count in range(1, 1000) if fits(CodedFormat(20), count))
    for tenths in range(8, 40):
        assert size_bytes(CodedFormat(tenths), count) < size_bytes(CodedFormat(tenths + 1), count)
