from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from quantization.storage.packing import Digit, digits, pack

ALL_BITS = range(2, 9)


def value_of(tensor: TensorProto, digit: Digit, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """One digit of every code, read by onnx itself; of a plane, the four weights of each element."""
    stored = numpy_helper.to_array(tensor).astype(np.int64)
    if digit.is_plane:
        stored = ((stored[:, None] >> np.arange(4)) & 1).reshape(-1)[: math.prod(shape)]
    return stored.reshape(shape)


@given(st.sampled_from(ALL_BITS), hnp.array_shapes(max_dims=4, max_side=9), st.data())
@settings(max_examples=200, deadline=None)
def test_digits_add_up_to_the_codes(bits: int, shape: tuple[int, ...], data: st.DataObject) -> None:
    half = 1 << (bits - 1)
    codes = data.draw(hnp.arrays(np.int8, shape, elements=st.integers(-half, half - 1)))
    layout, tensors = digits(bits), pack(codes, bits)
    total = sum(value_of(tensor, digit, shape) << digit.shift for tensor, digit in zip(tensors, layout, strict=True))
    assert np.array_equal(total, codes)
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
    assert all(digit.data_type in (TensorProto.UINT2, TensorProto.UINT4) for digit in layout[1:])
    assert sum(digit.size_bytes((8, 5)) for digit in layout) == 5 * bits


def test_little_end_first() -> None:
    (tensor,) = pack(np.array([1, -2, 7], dtype=np.int8), 4)
    assert tensor.raw_data == bytes([0xE1, 0x07])
    (tensor,) = pack(np.array([1, -2, 0, -1, 1], dtype=np.int8), 2)
    assert tensor.raw_data == bytes([0b11_00_10_01, 0b01])
    _, plane = pack(np.array([1, 0, 1, 1, 0, 0, 0, 0, 1], dtype=np.int8), 3)
    assert plane.raw_data == bytes([0b00001101, 0b1])
