"""The model-local functions that turn digits and scale into a float32 weight.

One function serves every weight whose digits are laid out alike; a weight costs its tensors and one call. ONNX Runtime
inlines the call and folds it at load, so that the optimised graph holds plain float weights and runs at float speed.
(`DequantizeLinear` would stay in the graph and run at every inference.) A weight for an integer kernel does end in a
DequantizeLinear: what is folded then are its codes, as int8 whatever their width, and the kernel takes those.

How digits become codes says `quantization.storage.unpacking`; the one rounding is the product with the scale.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial

import numpy as np
import onnx
from onnx import TensorProto, helper

from quantization.formats import CodedFormat
from quantization.storage import decoding
from quantization.storage.coded import tuples_of
from quantization.storage.packing import Digit, zero_point_digit
from quantization.storage.unpacking import (
    DOMAIN,
    SHAPE,
    Layout,
    centred,
    constant,
    serialized,
    unpacked,
    unpacking_call,
    unpacking_functions,
)

BIAS = "Bias"
_BEHIND_ALL = (1 << 31) - 1  # no axis is that long: a file has at most so many bytes
FIRST_OPSET = 18


@dataclass(frozen=True, slots=True)
class Function:
    """A model-local function: its name, `bodies` by name, serialized, of itself and of those that it calls, whether it
    takes the weight's shape (`SHAPE`), and further attributes of its calls.

    Weights of a file whose functions have one name share it.
    """

    name: str
    bodies: Callable[[], Mapping[str, bytes]]
    takes_shape: bool = False
    numbers: Mapping[str, int] = field(default_factory=dict)


def integers(
    bits: int, opset: int, *, block: int = 0, symmetric: bool = True, kernel: int | None = None, copies: int = 1
) -> Function:
    """`(code - zero point) * scale` from digits, highest first, scale, a factor of the scales of blocks, zero points.

    Args:
        kernel: the axis of output channels of an integer kernel, whose scale has shape `()` or `[channels]`.
        copies: how often the weight is made for a kernel, each time from codes of its own.
    """
    layout = Layout(bits, opset)
    name = f"Int{layout.name}" + (f"b{block}" if block else "") + ("" if symmetric else "z")
    shared = ("s", *(["m"] if block else []), *([] if symmetric else ["zp"]))
    if kernel is not None:
        name = f"{name}q{kernel}" + (f"x{copies}" if copies > 1 else "")
        return _function(name, layout, shared, _dequantized, kernel, copies, copies=copies)
    return _function(name, layout, shared, _scaled, block, None if symmetric else zero_point_digit(bits, opset))


def powers(bits: int, opset: int) -> Function:
    """`table[code] * scale` from digits, highest first, scale, and one float16 table, negative codes at its end."""
    layout = Layout(bits, opset)
    return _function(f"Power{layout.name}", layout, ("s", "p"), _powers)


def codebook(bits: int, opset: int, outliers: int) -> Function:
    """`factor * table[..., code, ...]` from digits, highest first, a float16 table `[outer, 2**bits]` or
    `[outer, 2**bits, inner]`, negative codes at its end, and the factor; with outliers from flat places and what
    to put there, too.

    Loading 9 million weights this way takes three quarters of the time of a GatherElements with int64 places or of a
    Gather from one flat table, half of GatherND's, and a tenth of what a tree of Where takes.

    Args:
        outliers: of 10,000. All with some have one body but not one name: an audit could not tell how many of 10,000
            the few of a small weight stand for.
    """
    layout = Layout(bits, opset)
    if outliers:
        return _function(f"Code{layout.name}o{outliers}", layout, ("l", "m", "j", "o"), _codebook, outliers > 0)
    return _function(f"Code{layout.name}", layout, ("l", "m"), _codebook, outliers > 0)


def rotated(bits: int, opset: int, block: int, *, inner: bool) -> Function:
    """`R codes * scale` from digits, highest first, and scale, with R of `quantization.storage.rotations`.

    Args:
        block: rows of R, which turns the weight seen as `[-1, block]`, or as `[-1, block, n]` with n its last axis if
            `inner`.
    """
    layout = Layout(bits, opset)
    name = f"Turn{layout.name}r{block}" + ("i" if inner else "")
    return _function(name, layout, ("s",), _rotated, block, inner)


def coded(format_: CodedFormat, opset: int) -> Function:
    """`code * step` from the string of a coded weight, and the step."""
    tuples = tuples_of(format_)
    numbers = {decoding.SIZE: tuples.size, decoding.BASE: tuples.base}
    return Function(decoding.FUNCTION, partial(decoding.bodies, opset), True, numbers)


@cache
def halves(opset: int) -> Function:
    """A float16 weight as float32."""
    cast = helper.make_node("Cast", ["h"], ["w"], to=TensorProto.FLOAT)
    return Function("Half", partial(dict, Half=serialized("Half", ["h"], [cast], opset)))


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


def _function(
    name: str,
    layout: Layout,
    shared: tuple[str, ...],
    build: Callable[..., list[onnx.NodeProto]],
    *args: Hashable,
    copies: int = 1,
) -> Function:
    """The function of digits and inputs called `shared`; `build(codes, *args)` gives the nodes that make `w`, and its
    further `copies`."""
    return Function(name, partial(_bodies, name, layout, shared, copies, build, *args), layout.takes_shape)


@cache
def _bodies(
    name: str,
    layout: Layout,
    shared: tuple[str, ...],
    copies: int,
    build: Callable[..., list[onnx.NodeProto]],
    *args: Hashable,
) -> Mapping[str, bytes]:
    digits, nodes, codes = unpacked(layout)
    nodes += build(codes, *args)
    attributes = [SHAPE] if layout.takes_shape else []
    made = serialized(name, [*digits, *shared], nodes, layout.opset, attributes, _outputs(copies))
    return {name: made, **unpacking_functions(nodes, layout.opset)}


def _outputs(copies: int) -> list[str]:
    return ["w", *(f"w{copy}" for copy in range(1, copies))]


def _powers(codes: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Cast", [codes], ["j"], to=TensorProto.INT32),
        helper.make_node("Cast", ["p"], ["pf"], to=TensorProto.FLOAT),
        helper.make_node("Gather", ["pf", "j"], ["v"]),  # which counts negative places from the end
        helper.make_node("Mul", ["v", "s"], ["w"]),
    ]


def _codebook(codes: str, outliers: bool) -> list[onnx.NodeProto]:
    nodes = [
        helper.make_node("Cast", [codes], ["ci"], to=TensorProto.INT32),
        helper.make_node("Cast", ["l"], ["lh"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["lh", "m"], ["lf"]),
        constant("k", np.array([-1], dtype=np.int64)),
        helper.make_node("Shape", ["l"], ["lo"], end=1),
        helper.make_node("Shape", ["l"], ["li"], start=2),
        helper.make_node("Concat", ["lo", "k", "li"], ["hf"], axis=0),
        helper.make_node("Reshape", ["ci", "hf"], ["cf"]),
        helper.make_node("GatherElements", ["lf", "cf"], ["v"], axis=1),  # counts negative places from the end
    ]
    values = "v"
    if outliers:
        nodes += [
            helper.make_node("Reshape", ["v", "k"], ["vk"]),
            helper.make_node("ScatterElements", ["vk", "j", "o"], ["vo"]),
        ]
        values = "vo"
    return [*nodes, helper.make_node("Shape", ["ci"], ["hv"]), helper.make_node("Reshape", [values, "hv"], ["w"])]


def _rotated(codes: str, block: int, inner: bool) -> list[onnx.NodeProto]:
    nodes = [
        *_hadamard(block),
        helper.make_node("Cast", [codes], ["v"], to=TensorProto.FLOAT),
        constant("k", np.array([-1, block], dtype=np.int64)),
    ]
    folded = "k"
    if inner:
        nodes += [
            helper.make_node("Shape", ["v"], ["o"], start=-1),
            helper.make_node("Concat", ["k", "o"], ["ko"], axis=0),
        ]
        folded = "ko"
    return [
        *nodes,
        helper.make_node("Reshape", ["v", folded], ["b"]),
        helper.make_node("MatMul", ["R", "b"] if inner else ["b", "R"], ["rb"]),
        helper.make_node("Shape", ["v"], ["hv"]),
        helper.make_node("Reshape", ["rb", "hv"], ["rv"]),
        helper.make_node("Mul", ["rv", "s"], ["w"]),
    ]


def _hadamard(block: int) -> list[onnx.NodeProto]:
    """Nodes that make R `[block, block]`, the Kronecker product of `quantization.storage.rotations`: 16 numbers instead
    of thousands."""
    four = np.ones((1, 4, 1, 4), dtype=np.float32) - 2 * np.eye(4, dtype=np.float32).reshape(1, 4, 1, 4)
    nodes, last, size = [constant("q", four)], "q", 4
    while size < block:
        factor = "q"
        if 2 * size == block:
            nodes.append(constant("e", np.array([[1, 1], [1, -1]], dtype=np.float32).reshape(1, 2, 1, 2)))
            factor = "e"
        nodes += [
            constant(f"k{size}", np.array([size, 1, size, 1], dtype=np.int64)),
            helper.make_node("Reshape", [last, f"k{size}"], [f"r{size}"]),
            helper.make_node("Mul", [f"r{size}", factor], [f"q{size}"]),
        ]
        last, size = f"q{size}", size * (4 if factor == "q" else 2)
    return [
        *nodes,
        constant("kr", np.array([block, block], dtype=np.int64)),
        helper.make_node("Reshape", [last, "kr"], ["R"]),
    ]


def _scaled(codes: str, block: int, zero_points: Digit | None) -> list[onnx.NodeProto]:
    """`(codes - zp) * s`, or without `zp`, in nodes that are folded at load; for blocks with `s` in 16 bits, times
    `m`."""
    nodes = [helper.make_node("Cast", [codes], ["v"], to=TensorProto.FLOAT)]
    values, scale, made = "v", "s", "w"
    if block:  # scales are [blocks, 1, inner], and so the weight becomes [blocks, block, inner]
        nodes += [
            constant("k", np.array([1, block, 1], dtype=np.int64)),
            helper.make_node("Shape", ["s"], ["hs"]),
            helper.make_node("Mul", ["hs", "k"], ["hb"]),
            helper.make_node("Reshape", ["v", "hb"], ["b"]),
            helper.make_node("Cast", ["s"], ["sf"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["sf", "m"], ["sm"]),
        ]
        values, scale, made = "b", "sm", "wb"
    if zero_points is not None:
        nodes += _zero_points(zero_points)
        nodes.append(helper.make_node("Sub", [values, "zf"], ["y"]))
        values = "y"
    nodes.append(helper.make_node("Mul", [values, scale], [made]))
    if block:
        nodes += [helper.make_node("Shape", ["v"], ["hv"]), helper.make_node("Reshape", [made, "hv"], ["w"])]
    return nodes


def _zero_points(digit: Digit) -> list[onnx.NodeProto]:
    """Nodes that give zero points as float32 in the shape of the scales, if they are packed."""
    if not digit.is_packed:
        return [helper.make_node("Cast", ["zp"], ["zf"], to=TensorProto.FLOAT)]
    return [
        helper.make_node("Shape", ["s"], ["hz"]),
        unpacking_call(digit, "zp", "zu", "hz"),
        *centred("zu", digit.width, "zf"),
    ]


def _dequantized(codes: str, axis: int, copies: int) -> list[onnx.NodeProto]:
    """`codes * s` in a DequantizeLinear, which is not folded: its codes are what an integer kernel takes.

    The zero points `[channels]` are all 0 and say nothing, but ONNX Runtime makes no QGemm without them. A further copy
    has codes and zero points of its own: codes from a Slice that takes all of them, whose end lies far behind, zero
    points from a fraction, which a Cast drops. End and fraction are other numbers for every copy, so that ONNX Runtime
    does not find two nodes to be the same, and folds each into a tensor of its own.
    """
    nodes = [
        helper.make_node("Cast", [codes], ["k8"], to=TensorProto.INT8),  # ONNX Runtime 1.31 would give it less
        constant("o", np.float32(0)),
        helper.make_node("Mul", ["s", "o"], ["e"]),
        helper.make_node("Cast", ["e"], ["p"], to=TensorProto.INT8),
        helper.make_node("DequantizeLinear", ["k8", "s", "p"], ["w"], axis=axis),
    ]
    if copies > 1:
        nodes.append(constant("z", np.array([0], dtype=np.int64)))
    for copy, made in enumerate(_outputs(copies)[1:], start=1):
        nodes += [
            constant(f"n{copy}", np.array([_BEHIND_ALL - copy], dtype=np.int64)),
            helper.make_node("Slice", ["k8", "z", f"n{copy}"], [f"k{copy}"]),
            constant(f"o{copy}", np.float32(copy / _BEHIND_ALL)),
            helper.make_node("Add", ["e", f"o{copy}"], [f"e{copy}"]),
            helper.make_node("Cast", [f"e{copy}"], [f"p{copy}"], to=TensorProto.INT8),
            helper.make_node("DequantizeLinear", [f"k{copy}", "s", f"p{copy}"], [made], axis=axis),
        ]
    return nodes
