from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from quantization.storage.packing import Digit, digits, pack, pack_halves

ALL_BITS = range(2, 9)


def value_of(tensor: TensorProto, digit: Digit, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """One digit of every code, read by onnx itself; packed ones one by one."""
    stored = numpy_helper.to_array(tensor).astype(np.int64)
    if not digit.is_packed:
        return stored.reshape(shape)
    count = stored.size * 8 // digit.width
    values = np.zeros(count, dtype=np.int64)
    for place in range(count):  # which half of all, of a quarter, of an eighth it is in says where its bits are
        byte, low, length, width = place, 0, count, digit.width
        while length > stored.size:
            length //= 2
            low, byte, width = low + width * (byte // length), byte % length, 2 * width
        values[place] = stored[byte] >> low & ((1 << digit.width) - 1)
    return values[: math.prod(shape)].reshape(shape)


@given(st.sampled_from(ALL_BITS), st.sampled_from([18, 24, 25]), hnp.array_shapes(max_dims=4, max_side=9), st.data())
@settings(max_examples=300, deadline=None)
def test_digits_add_up_to_the_codes(bits: int, opset: int, shape: tuple[int, ...], data: st.DataObject) -> None:
    half = 1 << (bits - 1)
    codes = data.draw(hnp.arrays(np.int8, shape, elements=st.integers(-half, half - 1)))
    layout, tensors = digits(bits, opset), pack(codes, bits, opset)
    total = sum(value_of(tensor, digit, shape) << digit.shift for tensor, digit in zip(tensors, layout, strict=True))
    assert np.array_equal(total - half if layout[0].is_packed else total, codes)
    for tensor, digit in zip(tensors, layout, strict=True):
        assert tuple(tensor.dims) == digit.dims(shape)
        assert len(tensor.raw_data) == digit.size_bytes(shape) == math.ceil(codes.size * digit.width / 8)


@pytest.mark.parametrize("bits", ALL_BITS)
def test_every_code_of_every_width(bits: int) -> None:
    codes = np.arange(-(1 << (bits - 1)), 1 << (bits - 1), dtype=np.int8)
    values = [value_of(t, d, codes.shape) << d.shift for t, d in zip(pack(codes, bits), digits(bits), strict=True)]
    assert np.array_equal(np.sum(values, axis=0), codes)


@pytest.mark.parametrize("bits", ALL_BITS)
def test_layout(bits: int) -> None:
    layout = digits(bits)
    assert sum(digit.width for digit in layout) == bits
    assert {digit.width for digit in layout} <= {8, 4, 2, 1}
    assert [digit.shift for digit in layout] == [sum(d.width for d in layout[i + 1 :]) for i in range(len(layout))]
    assert layout[0].data_type in (TensorProto.INT8, TensorProto.INT4, TensorProto.INT2)
    assert all(
        digit.data_type == (TensorProto.UINT2 if digit.width == 2 else TensorProto.UINT8) for digit in layout[1:]
    )
    assert sum(digit.size_bytes((8, 5)) for digit in layout) == 5 * bits


@pytest.mark.parametrize("bits", ALL_BITS)
def test_older_opsets_have_bytes_alone(bits: int) -> None:
    assert {digit.data_type for digit in digits(bits, 24)} == {TensorProto.INT8 if bits == 8 else TensorProto.UINT8}
    assert [(d.width, d.shift) for d in digits(bits, 24)] == [(d.width, d.shift) for d in digits(bits)]


def test_little_end_first() -> None:
    (tensor,) = pack(np.array([1, -2, 7], dtype=np.int8), 4)
    assert tensor.raw_data == bytes([0xE1, 0x07])
    (tensor,) = pack(np.array([1, -2, 0, -1, 1], dtype=np.int8), 2)
    assert tensor.raw_data == bytes([0b11_00_10_01, 0b01])


def test_halves_lie_above_halves() -> None:
    assert pack_halves(np.array([1, 2, 3], dtype=np.uint8), 4) == bytes([0x31, 0x02])
    assert pack_halves(np.array([0, 1, 2, 3, 3, 2, 1, 1], dtype=np.uint8), 2) == bytes([0b01_10_11_00, 0b01_11_10_01])
    bits = np.zeros(16, dtype=np.uint8)
    bits[[0, 3, 8]] = 1
    assert pack_halves(bits, 1) == bytes([0b0000_0011, 0b0001_0000])
