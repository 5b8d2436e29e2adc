"""The model-local functions that turn digits and scale into a float32 weight.

One function serves every weight whose digits are laid out alike; a weight costs its tensors and one call. ONNX Runtime
inlines the call and folds it at load, so that the optimised graph holds plain float weights and runs at float speed.
(`DequantizeLinear` would stay in the graph and run at every inference.) A weight for an integer kernel does end in a
DequantizeLinear: what is folded then are its codes, as int8 whatever their width, and the kernel takes those.

Digits are put together in int8, where they are exact and take a byte a weight; the one rounding is the product with
the scale. A plane is unpacked by `Gather` from a table of the 16 nibbles, four weights at a time, in a quarter of the
time that BitShift and BitwiseAnd take. Measured with ONNX Runtime 1.31 on one core: 21 million weights of 2 to 8 bits
mixed load in 0.35 s and 280 MB, as float32 in 0.25 s and 160 MB.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import onnx
from onnx import TensorProto, helper

from quantization.storage.packing import PLANE_WIDTH, Digit, digits

DOMAIN = "bitbudget"
DOMAIN_VERSION = 1
BIAS = "Bias"
FIRST_OPSET = 25  # the first with INT2 and UINT2
FIRST_IR_VERSION = 13


@dataclass(frozen=True, slots=True)
class Function:
    """A model-local function: its name, and what it is, serialized, for a network of an opset.

    Weights whose functions have one name share it.
    """

    name: str
    body: Callable[[int], bytes]


def integers(
    bits: int, shape: tuple[int, ...], *, block: int = 0, symmetric: bool = True, kernel: int | None = None
) -> Function:
    """`(code - zero point) * scale` from digits, highest first, scale, a factor of the scales of blocks, zero points.

    Args:
        kernel: the axis of output channels of an integer kernel, whose scale has shape `()` or `[channels]`.
    """
    ragged = _is_ragged(bits, shape)
    name = _unpacked_name("Int", bits, ragged) + (f"b{block}" if block else "") + ("" if symmetric else "z")
    name += "" if kernel is None else f"q{kernel}"
    return Function(name, partial(_integers, name, bits, ragged, block, symmetric, kernel))


def powers(bits: int, shape: tuple[int, ...]) -> Function:
    """`table[code] * scale` from digits, highest first, scale, and one float16 table, negative codes at its end."""
    ragged = _is_ragged(bits, shape)
    name = _unpacked_name("Power", bits, ragged)
    return Function(name, partial(_powers, name, bits, ragged))


def codebook(bits: int, shape: tuple[int, ...], outliers: int) -> Function:
    """`factor * table[..., code, ...]` from digits, highest first, a float16 table `[outer, 2**bits]` or
    `[outer, 2**bits, inner]`, negative codes at its end, and the factor; with outliers from flat places and what
    to put there, too.

    Loading 9 million weights this way takes three quarters of the time of a GatherElements with int64 places or of a
    Gather from one flat table, half of GatherND's, and a tenth of what a tree of Where takes.

    Args:
        outliers: of 10,000. All with some have one body but not one name: an audit could not tell how many of 10,000
            the few of a small weight stand for.
    """
    ragged = _is_ragged(bits, shape)
    name = _unpacked_name("Code", bits, ragged) + (f"o{outliers}" if outliers else "")
    return Function(name, partial(_codebook, name, bits, ragged, outliers > 0))


def rotated(bits: int, shape: tuple[int, ...], block: int, *, inner: bool) -> Function:
    """`R codes * scale` from digits, highest first, and scale, with R of `quantization.storage.rotations`.

    Args:
        block: rows of R, which turns the weight seen as `[-1, block]`, or as `[-1, block, n]` with n its last axis if
            `inner`.
    """
    ragged = _is_ragged(bits, shape)
    name = _unpacked_name("Turn", bits, ragged) + f"r{block}" + ("i" if inner else "")
    return Function(name, partial(_rotated, name, bits, ragged, block, inner))


def halves() -> Function:
    """A float16 weight as float32."""
    return Function("Half", _halves)


def bias_call(inputs: Sequence[str], output: str) -> onnx.NodeProto:
    """The node that makes the bias `output` of an integer kernel from its int32 codes, its input's scale and its
    weight's, `[channels]` or `()`."""
    return helper.make_node(BIAS, inputs, [output], domain=DOMAIN)


@cache
def bias_function(opset: int) -> bytes:
    """The function that `bias_call` calls: `code * (input scale * weight scale)`, as integer kernels take it."""
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["s"]),
        helper.make_node("DequantizeLinear", ["c", "s"], ["b"], axis=0),
    ]
    made = helper.make_function(DOMAIN, BIAS, ["c", "x", "w"], ["b"], nodes, [helper.make_opsetid("", opset)])
    return bytes(made.SerializeToString(deterministic=True))


def _is_ragged(bits: int, shape: tuple[int, ...]) -> bool:
    """Whether the weight has a plane that ends within an element, whose surplus must be sliced off."""
    return math.prod(shape) % PLANE_WIDTH != 0 and any(digit.is_plane for digit in digits(bits))


def _unpacked_name(family: str, bits: int, ragged: bool) -> str:
    """The family, the widths of the lower digits, `s` for a slice: what `_unpacked` depends on."""
    _, *lower = digits(bits)
    return family + "".join(str(digit.width) for digit in lower) + ("s" if ragged else "")


def _made(name: str, inputs: Sequence[str], nodes: Sequence[onnx.NodeProto], opset: int) -> bytes:
    made = helper.make_function(DOMAIN, name, inputs, ["w"], nodes, [helper.make_opsetid("", opset)])
    return bytes(made.SerializeToString(deterministic=True))


@cache
def _halves(opset: int) -> bytes:
    return _made("Half", ["h"], [helper.make_node("Cast", ["h"], ["w"], to=TensorProto.FLOAT)], opset)


@cache
def _integers(name: str, bits: int, ragged: bool, block: int, symmetric: bool, kernel: int | None, opset: int) -> bytes:
    inputs, nodes, codes = _unpacked(bits, ragged=ragged, as_int8=kernel is not None)
    inputs += ["s", *(["m"] if block else []), *([] if symmetric else ["zp"])]
    if kernel is not None:
        nodes += _dequantized(codes, kernel)
    elif block or not symmetric:
        nodes += _shifted_and_scaled(codes, block, symmetric=symmetric)
    else:
        nodes += _scaled(codes)
    return _made(name, inputs, nodes, opset)


@cache
def _powers(name: str, bits: int, ragged: bool, opset: int) -> bytes:
    inputs, nodes, codes = _unpacked(bits, ragged=ragged, as_int8=False)
    nodes += [
        helper.make_node("Cast", [codes], ["j"], to=TensorProto.INT32),
        helper.make_node("Cast", ["p"], ["pf"], to=TensorProto.FLOAT),
        helper.make_node("Gather", ["pf", "j"], ["v"]),  # which counts negative places from the end
        helper.make_node("Mul", ["v", "s"], ["w"]),
    ]
    return _made(name, [*inputs, "s", "p"], nodes, opset)


@cache
def _codebook(name: str, bits: int, ragged: bool, outliers: bool, opset: int) -> bytes:
    inputs, nodes, codes = _unpacked(bits, ragged=ragged, as_int8=False)
    inputs += ["l", "m", *(["j", "o"] if outliers else [])]
    nodes += [
        helper.make_node("Cast", [codes], ["ci"], to=TensorProto.INT32),
        helper.make_node("Cast", ["l"], ["lh"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["lh", "m"], ["lf"]),
        _constant("k", np.array([-1], dtype=np.int64)),
        helper.make_node("Shape", ["l"], ["lo"], end=1),
        helper.make_node("Shape", ["l"], ["li"], start=2),
        helper.make_node("Concat", ["lo", "k", "li"], ["hf"], axis=0),
        helper.make_node("Reshape", ["ci", "hf"], ["cf"]),
        helper.make_node("GatherElements", ["lf", "cf"], ["v"], axis=1),  # counts negative places from the end
    ]
    found = "v"
    if outliers:
        nodes += [
            helper.make_node("Reshape", ["v", "k"], ["vk"]),
            helper.make_node("ScatterElements", ["vk", "j", "o"], ["vo"]),
        ]
        found = "vo"
    nodes += [helper.make_node("Shape", ["ci"], ["hv"]), helper.make_node("Reshape", [found, "hv"], ["w"])]
    return _made(name, inputs, nodes, opset)


@cache
def _rotated(name: str, bits: int, ragged: bool, block: int, inner: bool, opset: int) -> bytes:
    inputs, nodes, codes = _unpacked(bits, ragged=ragged, as_int8=False)
    nodes += [
        *_hadamard(block),
        helper.make_node("Cast", [codes], ["v"], to=TensorProto.FLOAT),
        _constant("k", np.array([-1, block], dtype=np.int64)),
    ]
    folded = "k"
    if inner:
        nodes += [
            helper.make_node("Shape", ["v"], ["o"], start=-1),
            helper.make_node("Concat", ["k", "o"], ["ko"], axis=0),
        ]
        folded = "ko"
    nodes += [
        helper.make_node("Reshape", ["v", folded], ["b"]),
        helper.make_node("MatMul", ["R", "b"] if inner else ["b", "R"], ["rb"]),
        helper.make_node("Shape", ["v"], ["hv"]),
        helper.make_node("Reshape", ["rb", "hv"], ["rv"]),
        helper.make_node("Mul", ["rv", "s"], ["w"]),
    ]
    return _made(name, [*inputs, "s"], nodes, opset)


def _hadamard(block: int) -> list[onnx.NodeProto]:
    """Nodes that make R `[block, block]`, the Kronecker product of `quantization.storage.rotations`: 16 numbers instead
    of thousands."""
    four = np.ones((1, 4, 1, 4), dtype=np.float32) - 2 * np.eye(4, dtype=np.float32).reshape(1, 4, 1, 4)
    nodes, last, size = [_constant("q", four)], "q", 4
    while size < block:
        factor = "q"
        if 2 * size == block:
            nodes.append(_constant("e", np.array([[1, 1], [1, -1]], dtype=np.float32).reshape(1, 2, 1, 2)))
            factor = "e"
        nodes += [
            _constant(f"k{size}", np.array([size, 1, size, 1], dtype=np.int64)),
            helper.make_node("Reshape", [last, f"k{size}"], [f"r{size}"]),
            helper.make_node("Mul", [f"r{size}", factor], [f"q{size}"]),
        ]
        last, size = f"q{size}", size * (4 if factor == "q" else 2)
    return [
        *nodes,
        _constant("kr", np.array([block, block], dtype=np.int64)),
        helper.make_node("Reshape", [last, "kr"], ["R"]),
    ]


def _unpacked(bits: int, *, ragged: bool, as_int8: bool) -> tuple[list[str], list[onnx.NodeProto], str]:
    """The inputs that are digits, nodes that put them together, and what these call the codes: int8 if asked for or
    if there are several digits."""
    _, *lower = digits(bits)
    names = [f"d{place}" for place in range(len(lower) + 1)]
    nodes, total = [], names[0]
    if lower or as_int8:  # an integer kernel takes int8, and ONNX Runtime 1.31 would give it less
        nodes.append(helper.make_node("Cast", [total], ["v0"], to=TensorProto.INT8))
        total = "v0"
    for place, digit in enumerate(lower, start=1):
        nodes += [
            _constant(f"f{place}", np.int8(1 << digit.width)),
            *_as_int8(digit, names[place], f"x{place}", ragged=ragged),
            helper.make_node("Mul", [total, f"f{place}"], [f"m{place}"]),
            helper.make_node("Add", [f"m{place}", f"x{place}"], [f"v{place}"]),
        ]
        total = f"v{place}"
    return names, nodes, total


def _scaled(codes: str) -> list[onnx.NodeProto]:
    """`codes * s` in nodes that are folded at load."""
    return [
        helper.make_node("Cast", [codes], ["v"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["v", "s"], ["w"]),
    ]


def _shifted_and_scaled(codes: str, block: int, *, symmetric: bool) -> list[onnx.NodeProto]:
    """`(codes - zp) * s` in nodes that are folded at load; for blocks with `s` in 16 bits, times `m`."""
    nodes = [helper.make_node("Cast", [codes], ["v"], to=TensorProto.FLOAT)]
    values, scale, made = "v", "s", "w"
    if block:  # scales are [blocks, 1, inner], and so the weight becomes [blocks, block, inner]
        nodes += [
            _constant("k", np.array([1, block, 1], dtype=np.int64)),
            helper.make_node("Shape", ["s"], ["hs"]),
            helper.make_node("Mul", ["hs", "k"], ["hb"]),
            helper.make_node("Reshape", ["v", "hb"], ["b"]),
            helper.make_node("Cast", ["s"], ["sf"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["sf", "m"], ["sm"]),
        ]
        values, scale, made = "b", "sm", "wb"
    if not symmetric:
        nodes += [
            helper.make_node("Cast", ["zp"], ["zf"], to=TensorProto.FLOAT),
            helper.make_node("Sub", [values, "zf"], ["y"]),
        ]
        values = "y"
    nodes.append(helper.make_node("Mul", [values, scale], [made]))
    if block:
        nodes += [helper.make_node("Shape", ["v"], ["hv"]), helper.make_node("Reshape", [made, "hv"], ["w"])]
    return nodes


def _dequantized(codes: str, axis: int) -> list[onnx.NodeProto]:
    """`codes * s` in a DequantizeLinear, which is not folded: its codes are what an integer kernel takes.

    The zero points `[channels]` are all 0 and say nothing, but ONNX Runtime makes no QGemm without them.
    """
    return [
        _constant("o", np.float32(0)),
        helper.make_node("Mul", ["s", "o"], ["e"]),
        helper.make_node("Cast", ["e"], ["p"], to=TensorProto.INT8),
        helper.make_node("DequantizeLinear", [codes, "s", "p"], ["w"], axis=axis),
    ]


def _as_int8(digit: Digit, name: str, output: str, *, ragged: bool) -> list[onnx.NodeProto]:
    """Nodes that give a lower digit as int8 in the weight's shape."""
    if not digit.is_plane:
        return [helper.make_node("Cast", [name], [output], to=TensorProto.INT8)]
    nibbles = (np.arange(1 << PLANE_WIDTH)[:, None] >> np.arange(PLANE_WIDTH)) & 1  # row i: the bits of i, lowest first
    nodes = [
        _constant("t", nibbles.astype(np.int8)),
        helper.make_node("Cast", [name], ["i"], to=TensorProto.INT32),
        helper.make_node("Gather", ["t", "i"], ["g"]),
        # of the highest digit as int8: ONNX Runtime 1.31 has no Shape of 2 and 4-bit integers
        helper.make_node("Shape", ["v0"], ["h"]),
    ]
    bits = "g"
    if ragged:
        nodes += [
            _constant("r", np.array([-1], dtype=np.int64)),
            _constant("z", np.array([0], dtype=np.int64)),
            helper.make_node("Reshape", ["g", "r"], ["g1"]),
            helper.make_node("ReduceProd", ["h"], ["n"]),
            helper.make_node("Slice", ["g1", "z", "n"], ["g2"]),
        ]
        bits = "g2"
    return [*nodes, helper.make_node("Reshape", [bits, "h"], [output])]


def _constant(name: str, value: np.ndarray | np.generic) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(np.asarray(value)))
