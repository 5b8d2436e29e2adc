"""What each format stores of a weight, and the function that turns it back.

Digits come first (`quantization.storage.packing`), in the weight's own shape, except for float16; then what the format
shares among weights. `export` writes this, `cost` counts it, `audit` looks for it in a file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from network.graph import ChannelAxis
from quantization.formats import (
    CodebookFormat,
    CodedFormat,
    HadamardFormat,
    HalfFormat,
    IntegerFormat,
    PowerFormat,
    ScaledFormat,
    WeightFormat,
)
from quantization.granularity import scale_shape
from quantization.storage import dequantize
from quantization.storage.codebooks import outlier_count, stored_table_shape, table_shape
from quantization.storage.coded import fits, size_bytes
from quantization.storage.packing import NATIVE_OPSET, digits, zero_point_digit
from quantization.storage.rotations import rotation
from quantization.storage.unpacking import DOMAIN, SHAPE

# the names of parts begin with a letter that says what they are
DIGITS = "abc"  # highest first
SCALE = "s"
FACTOR = "m"  # of all scales, or of all tables
ZERO_POINT = "z"
HALVES = "h"
POWERS = "p"
TABLES = "l"
PLACES = "j"  # of outliers
OUTLIERS = "o"
STRING = "u"  # of coded weights
LETTERS = DIGITS + SCALE + FACTOR + ZERO_POINT + HALVES + POWERS + TABLES + PLACES + OUTLIERS + STRING


@dataclass(frozen=True, slots=True)
class Part:
    """A tensor of the file: `letter` begins its name, `size_bytes` are its values'."""

    letter: str
    data_type: int
    dims: tuple[int, ...]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Storage:
    """The `parts` of a weight of `shape`, in the order in which `function` takes them."""

    parts: tuple[Part, ...]
    function: dequantize.Function
    shape: tuple[int, ...]

    def call(self, inputs: Sequence[str], outputs: Sequence[str]) -> onnx.NodeProto:
        """The node that makes the weight, as often as it is needed, from `inputs`, the names of its parts."""
        node = helper.make_node(self.function.name, inputs, outputs, domain=DOMAIN)
        if self.function.takes_shape:
            node.attribute.append(helper.make_attribute(SHAPE, self.shape))
        node.attribute.extend(helper.make_attribute(*number) for number in self.function.numbers.items())
        return node


class NotStorable(ValueError):
    """The format cannot hold a weight of this shape; the text says why."""


def storage(
    format_: WeightFormat,
    shape: tuple[int, ...],
    channel_axis: ChannelAxis,
    kernel: int | None = None,
    opset: int = NATIVE_OPSET,
    copies: int = 1,
) -> Storage:
    """How a weight of `shape` with output channels on `channel_axis` is stored in `format_`.

    Args:
        kernel: the axis of output channels of an integer kernel that the weight is made for, None for float layers.
        opset: of the file. What is stored has the same bytes in every opset, in tensors of other types and shapes.
        copies: how often it is made for an integer kernel, from what is stored once.

    Raises:
        NotStorable: the format does not fit the shape, or the weight holds no number; float32 is stored as it came and
            has no storage.
    """
    if not math.prod(shape):
        raise NotStorable(f"a weight of shape {shape} is empty; it stays as it is")
    try:
        match format_:
            case IntegerFormat():
                return _integers(format_, shape, channel_axis, kernel, opset, copies)
            case HalfFormat():
                half = Part(HALVES, TensorProto.FLOAT16, shape, 2 * math.prod(shape))
                return Storage((half,), dequantize.halves(opset), shape)
            case CodebookFormat():
                return _codebook(format_, shape, channel_axis, opset)
            case PowerFormat():
                levels = 1 << format_.bits
                table = Part(POWERS, TensorProto.FLOAT16, (levels,), 2 * levels)
                parts = (*_scaled(format_, shape, channel_axis, opset), table)
                return Storage(parts, dequantize.powers(format_.bits, opset), shape)
            case HadamardFormat():
                parts = _scaled(format_, shape, channel_axis, opset)
                turned = rotation(shape, parts[-1].dims)
                function = dequantize.rotated(format_.bits, opset, turned.block, inner=turned.inner > 1)
                return Storage(parts, function, shape)
            case CodedFormat():
                return _coded(format_, shape, opset)
    except ValueError as error:
        raise NotStorable(str(error)) from error
    raise NotStorable(f"{format_.name} keeps the weight as it is; it is not stored in parts")


def _digits(bits: int, shape: tuple[int, ...], opset: int) -> tuple[Part, ...]:
    """The parts that hold the codes."""
    return tuple(
        Part(letter, digit.data_type, digit.dims(shape), digit.size_bytes(shape))
        for letter, digit in zip(DIGITS, digits(bits, opset), strict=False)
    )


def _scaled(
    format_: ScaledFormat, shape: tuple[int, ...], channel_axis: ChannelAxis, opset: int, *, flat: bool = False
) -> tuple[Part, ...]:
    """Digits and scales, those of channels as `[channels]` where `flat`."""
    scales = scale_shape(format_, shape, channel_axis)
    if flat and scales:
        if not isinstance(channel_axis, int):
            raise NotStorable(f"no integer kernel takes a stack of matrices, of shape {shape}")
        scales = (shape[channel_axis],)
    count = math.prod(scales)
    coded = _digits(format_.bits, shape, opset)
    if format_.block:
        return *coded, Part(SCALE, TensorProto.FLOAT16, scales, 2 * count), Part(FACTOR, TensorProto.FLOAT, (), 4)
    return *coded, Part(SCALE, TensorProto.FLOAT, scales, 4 * count)


def _integers(
    format_: IntegerFormat,
    shape: tuple[int, ...],
    channel_axis: ChannelAxis,
    kernel: int | None,
    opset: int,
    copies: int,
) -> Storage:
    bits, block = format_.bits, format_.block
    if kernel is not None and not format_.has_kernel:
        raise NotStorable(f"no integer kernel takes {format_.name}")
    parts = _scaled(format_, shape, channel_axis, opset, flat=kernel is not None)
    if not format_.symmetric:
        scales = scale_shape(format_, shape, channel_axis)
        stored = zero_point_digit(bits, opset)
        parts = (*parts, Part(ZERO_POINT, stored.data_type, stored.dims(scales), stored.size_bytes(scales)))
    symmetric = format_.symmetric
    function = dequantize.integers(bits, opset, block=block, symmetric=symmetric, kernel=kernel, copies=copies)
    return Storage(parts, function, shape)


def _coded(format_: CodedFormat, shape: tuple[int, ...], opset: int) -> Storage:
    if not fits(format_, math.prod(shape)):
        raise NotStorable(f"{format_.name} has no room for the string of a weight of shape {shape}")
    size = size_bytes(format_, math.prod(shape))
    string = Part(STRING, TensorProto.UINT8, (size,), size)
    step = Part(SCALE, TensorProto.FLOAT, (), 4)
    return Storage((string, step), dequantize.coded(format_, opset), shape)


def _codebook(format_: CodebookFormat, shape: tuple[int, ...], channel_axis: ChannelAxis, opset: int) -> Storage:
    table = stored_table_shape(table_shape(format_, shape, channel_axis))
    parts = [
        *_digits(format_.bits, shape, opset),
        Part(TABLES, TensorProto.FLOAT16, table, 2 * math.prod(table)),
        Part(FACTOR, TensorProto.FLOAT, (), 4),
    ]
    if format_.outliers:
        count = outlier_count(format_, math.prod(shape))
        parts += [
            Part(PLACES, TensorProto.INT32, (count,), 4 * count),
            Part(OUTLIERS, TensorProto.FLOAT, (count,), 4 * count),
        ]
    function = dequantize.codebook(format_.bits, opset, format_.outliers)
    return Storage(tuple(parts), function, shape)
