"""Which inputs of which operators are weights, in ONNX and in ONNX Runtime's own operators, and how they lie there.

Every weight is looked at as a matrix `[rows, columns]`, one row for each output channel:

    Conv [C_out, C_in / g, *kernel]             [C_out, C_in / g * kernel]
    ConvTranspose [C_in, C_out / g, *kernel]    [C_out, C_in / g * kernel]
    Gemm, MatMul [K, N]; with transB [N, K]     [N, K]
    MatMul of a stack [S, K, N]                 [S * N, K]
    Gather [V, D]                               [V, D]
    LSTM, GRU, RNN [dirs, rows, K]              [dirs * rows, K]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from onnx import NodeProto

from network.onnx_graph import attributes
from network.sites import RECURRENT
from quantization.inspection.scopes import Array


class Layout(StrEnum):
    """How a weight lies in its tensor."""

    CONV = "conv"
    CONV_TRANSPOSE = "conv_transpose"
    ROWS = "rows"  # [..., rows, columns]
    COLUMNS = "columns"  # [..., columns, rows]
    TABLE = "table"  # [rows, ...]


class Integers(StrEnum):
    """Whether an operator multiplies integers, and where the scale of its weight is."""

    NO = "no"
    WITH_SCALES = "with_scales"
    SCALED_BEHIND = "scaled_behind"  # by nodes that read the sum


@dataclass(frozen=True, slots=True)
class Operand:
    """A weight that a node reads as `value`; what it reads of scales and biases beside, empty where it has none.

    Where `scale` is given the values are `(value - zero_point) * scale`, the scales along `axis`. A bias in integers
    counts in steps of the product of `bias_scales`. Outputs have their channels on axis `channel`, None where
    no vector behind the node adds to its rows.
    """

    kind: str
    value: str
    layout: Layout
    channel: int | None = None
    groups: int = 1
    factor: float = 1.0
    integers: Integers = Integers.NO
    scale: str = ""
    zero_point: str = ""
    axis: int = 0
    bias: str = ""
    bias_scales: tuple[str, ...] = ()
    bias_factor: float = 1.0
    is_packed: bool = False


def matrix(values: Array, operand: Operand) -> Array | None:
    """A weight as float64 `[rows, columns]`, None where it has no such form."""
    if values.ndim < 2 or not values.size:
        return None
    match operand.layout:
        case Layout.CONV | Layout.TABLE:
            turned = values.reshape(len(values), -1)
        case Layout.CONV_TRANSPOSE:
            groups, inputs, outputs = operand.groups, values.shape[0], values.shape[1]
            if groups < 1 or inputs % groups:
                return None
            turned = values.reshape(groups, inputs // groups, outputs, -1).swapaxes(1, 2).reshape(groups * outputs, -1)
        case Layout.ROWS:
            turned = values.reshape(-1, values.shape[-1])
        case Layout.COLUMNS:
            turned = values.swapaxes(-1, -2).reshape(-1, values.shape[-2])
    return np.asarray(turned, dtype=np.float64) * operand.factor


def operands(node: NodeProto) -> tuple[Operand, ...]:
    """Those inputs of a node that may be weights."""
    reader = _READERS.get(node.op_type)
    if reader is None or not node.output:
        return ()
    return tuple(operand for operand in reader(_Inputs(node)) if operand.value)


@dataclass(frozen=True, slots=True)
class _Inputs:
    """What a node reads, by place, empty where an input is left out."""

    node: NodeProto

    def __getitem__(self, place: int) -> str:
        return str(self.node.input[place]) if place < len(self.node.input) else ""


_Read = Callable[[_Inputs], Iterator[Operand]]


def _convolution(at: _Inputs) -> Iterator[Operand]:
    yield Operand("Conv", at[1], Layout.CONV, 1, bias=at[2])


def _transposed(at: _Inputs) -> Iterator[Operand]:
    groups = int(attributes(at.node).get("group", 1))
    yield Operand("ConvTranspose", at[1], Layout.CONV_TRANSPOSE, 1, groups, bias=at[2])


def _integer_convolution(at: _Inputs) -> Iterator[Operand]:
    yield Operand("Conv", at[1], Layout.CONV, 1, integers=Integers.SCALED_BEHIND, zero_point=at[3])


def _quantized_convolution(at: _Inputs) -> Iterator[Operand]:
    yield Operand(
        "Conv", at[3], Layout.CONV, 1, integers=Integers.WITH_SCALES, scale=at[4], zero_point=at[5],
        bias=at[8], bias_scales=(at[1], at[4]),
    )  # fmt: skip


def _gemm(at: _Inputs) -> Iterator[Operand]:
    given = attributes(at.node)
    layout = Layout.ROWS if given.get("transB", 0) else Layout.COLUMNS
    alpha, beta = float(given.get("alpha", 1.0)), float(given.get("beta", 1.0))
    yield Operand("MatMul", at[1], layout, -1, factor=alpha, bias=at[2], bias_factor=beta)


def _quantized_gemm(at: _Inputs) -> Iterator[Operand]:
    given = attributes(at.node)
    layout, axis = (Layout.ROWS, 0) if given.get("transB", 0) else (Layout.COLUMNS, 1)
    yield Operand(
        "MatMul", at[3], layout, -1, factor=float(given.get("alpha", 1.0)), integers=Integers.WITH_SCALES,
        scale=at[4], zero_point=at[5], axis=axis, bias=at[6], bias_scales=(at[1], at[4]),
    )  # fmt: skip


def _matmul(at: _Inputs) -> Iterator[Operand]:
    given = attributes(at.node)
    right = Layout.ROWS if given.get("transB", 0) else Layout.COLUMNS
    left = Layout.COLUMNS if given.get("transA", 0) else Layout.ROWS
    alpha = float(given.get("alpha", 1.0))
    yield Operand("MatMul", at[1], right, -1, factor=alpha)
    yield Operand("MatMul", at[0], left, factor=alpha)


def _quantized_matmul(at: _Inputs) -> Iterator[Operand]:
    scales = Integers.WITH_SCALES
    yield Operand("MatMul", at[3], Layout.COLUMNS, -1, integers=scales, scale=at[4], zero_point=at[5], axis=-1)
    yield Operand("MatMul", at[0], Layout.ROWS, integers=scales, scale=at[1], zero_point=at[2], axis=-2)


def _integer_matmul(at: _Inputs) -> Iterator[Operand]:
    yield Operand("MatMul", at[1], Layout.COLUMNS, -1, integers=Integers.SCALED_BEHIND, zero_point=at[3], axis=-1)


def _matmul_to_float(at: _Inputs) -> Iterator[Operand]:
    scales = Integers.WITH_SCALES
    yield Operand(
        "MatMul", at[1], Layout.COLUMNS, -1, integers=scales, scale=at[3], zero_point=at[5], axis=-1, bias=at[6]
    )


def _dynamic_matmul(at: _Inputs) -> Iterator[Operand]:
    scales = Integers.WITH_SCALES
    yield Operand(
        "MatMul", at[1], Layout.COLUMNS, -1, integers=scales, scale=at[2], zero_point=at[3], axis=-1, bias=at[4]
    )


def _attention(at: _Inputs) -> Iterator[Operand]:
    yield Operand("MatMul", at[1], Layout.COLUMNS, bias=at[2])


def _quantized_attention(at: _Inputs) -> Iterator[Operand]:
    scales = Integers.WITH_SCALES
    yield Operand(
        "MatMul", at[1], Layout.COLUMNS, integers=scales, scale=at[4], zero_point=at[7], axis=-1, bias=at[2],
        bias_scales=(at[3], at[4]),
    )  # fmt: skip


def _packed_matmul(at: _Inputs) -> Iterator[Operand]:
    yield Operand("MatMul", at[1], Layout.ROWS, -1, scale=at[2], zero_point=at[3], bias=at[5], is_packed=True)


def _gather(at: _Inputs) -> Iterator[Operand]:
    yield Operand("Gather", at[0], Layout.TABLE, integers=Integers.SCALED_BEHIND)


def _packed_gather(at: _Inputs) -> Iterator[Operand]:
    yield Operand("Gather", at[0], Layout.TABLE, scale=at[2], zero_point=at[3], is_packed=True)


def _recurrent(at: _Inputs) -> Iterator[Operand]:
    yield Operand(at.node.op_type, at[1], Layout.ROWS, bias=at[3])
    yield Operand(at.node.op_type, at[2], Layout.ROWS)


def _dynamic_lstm(at: _Inputs) -> Iterator[Operand]:
    scales = Integers.WITH_SCALES
    yield Operand("LSTM", at[1], Layout.COLUMNS, integers=scales, scale=at[8], zero_point=at[9], axis=-1, bias=at[3])
    yield Operand("LSTM", at[2], Layout.COLUMNS, integers=scales, scale=at[10], zero_point=at[11], axis=-1)


_RECURRENT: dict[str, _Read] = dict.fromkeys(RECURRENT, _recurrent)
_READERS: dict[str, _Read] = _RECURRENT | {
    "Conv": _convolution,
    "FusedConv": _convolution,
    "ConvTranspose": _transposed,
    "ConvInteger": _integer_convolution,
    "QLinearConv": _quantized_convolution,
    "Gemm": _gemm,
    "FusedGemm": _gemm,
    "QGemm": _quantized_gemm,
    "MatMul": _matmul,
    "FusedMatMul": _matmul,
    "QLinearMatMul": _quantized_matmul,
    "MatMulInteger": _integer_matmul,
    "MatMulIntegerToFloat": _matmul_to_float,
    "DynamicQuantizeMatMul": _dynamic_matmul,
    "Attention": _attention,
    "QAttention": _quantized_attention,
    "MatMulNBits": _packed_matmul,
    "Gather": _gather,
    "GatherBlockQuantized": _packed_gather,
    "DynamicQuantizeLSTM": _dynamic_lstm,
}


def unpack(stored: Array, bits: int, columns: int) -> Array:
    """Codes `[..., columns]` of bytes `[..., n]` that hold them from their lowest bit on."""
    if bits == 8:
        return stored[..., :columns].astype(np.int32)
    stream = np.unpackbits(stored.astype(np.uint8), axis=-1, bitorder="little")
    whole = stream[..., : stream.shape[-1] // bits * bits].reshape(*stored.shape[:-1], -1, bits)
    codes = whole.astype(np.int32) @ (1 << np.arange(bits, dtype=np.int32))
    return np.asarray(codes[..., :columns])


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """What the inputs of MatMulNBits or GatherBlockQuantized stand for: `codes`, and for each of them its `scale` and
    `zero_point`, all of the weight's shape `[rows, columns]`."""

    codes: Array
    scale: Array
    zero_point: Array
    bits: int


def packed(node: NodeProto, stored: Array, scales: Array, zero_points: Array | None) -> Packed | None:
    """The weight of a node that reads it packed, None where its tensors are not of one shape."""
    given = attributes(node)
    bits, block = int(given.get("bits", 4)), int(given.get("block_size", 128))
    if not 1 <= bits <= 8 or block < 1:
        return None
    if node.op_type == "MatMulNBits":
        rows, columns, middle = int(given.get("N", 0)), int(given.get("K", 0)), 1 << (bits - 1)
        if rows < 1 or columns < 1 or stored.size % rows:
            return None
        codes = unpack(stored.reshape(rows, -1), bits, columns)
    else:
        is_packed_bytes = stored.dtype == np.uint8
        rows = math.prod(stored.shape[:-1])
        flat = stored.reshape(rows, -1)
        columns = flat.shape[1] * 8 // bits if is_packed_bytes else flat.shape[1]
        middle = 1 << (bits - 1) if is_packed_bytes else 0
        codes = unpack(flat, bits, columns) if is_packed_bytes else flat.astype(np.int32)
    blocks = -(-columns // block)
    if scales.size != rows * blocks or codes.shape != (rows, columns):
        return None
    points = np.full((rows, blocks), float(middle))
    if zero_points is not None:
        if zero_points.size % rows:
            return None
        points = zero_points.reshape(rows, -1)
        points = unpack(points, bits, blocks) if zero_points.dtype == np.uint8 else points.astype(np.float64)
        if points.shape != (rows, blocks):
            return None

    def spread(of_blocks: Array) -> Array:
        return np.repeat(of_blocks.astype(np.float64), block, axis=1)[:, :columns]

    return Packed(codes, spread(scales.reshape(rows, blocks)), spread(points), bits)
