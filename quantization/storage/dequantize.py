"""The model-local functions that turn digits and scale into a float32 weight.

One function serves every weight whose digits are laid out alike; a weight costs its tensors and one call. ONNX Runtime
inlines the call and folds it at load, so that the optimised graph holds plain float weights and runs at float speed.
(`DequantizeLinear` would stay in the graph and run at every inference.) A weight for an integer kernel does end in a
DequantizeLinear: what is folded then are its codes, as int8 whatever their width, and the kernel takes those.

Digits are put together in int8, where they are exact and take a byte a weight, and before opset 25, whose runtimes do
not multiply int8, by shifts of uint8; the one rounding is the product with the scale. The highest digit tells the
weight's shape; where it is packed, the call brings the shape as an attribute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import onnx
from onnx import TensorProto, helper

from quantization.storage.packing import Digit, digits, zero_point_digit

DOMAIN = "bitbudget"
DOMAIN_VERSION = 1
BIAS = "Bias"
SHAPE = "h"
"""The attribute with the weight's shape, of calls that need it."""

FIRST_OPSET = 18


@dataclass(frozen=True, slots=True)
class Function:
    """A model-local function: its name, `bodies` by name, serialized, of itself and of those that it calls, and whether
    it takes the weight's shape (`SHAPE`).

    Weights of a file whose functions have one name share it.
    """

    name: str
    bodies: Callable[[], Mapping[str, bytes]]
    takes_shape: bool = False


@dataclass(frozen=True, slots=True)
class _Layout:
    """How codes of `bits` bits lie in a file of this opset."""

    bits: int
    opset: int

    @property
    def digits(self) -> tuple[Digit, ...]:
        return digits(self.bits, self.opset)

    @property
    def takes_shape(self) -> bool:
        return self.digits[0].is_packed

    @property
    def name(self) -> str:
        """The widths of the digits, of the highest only if it is packed: what `_unpacked` depends on."""
        highest, *lower = self.digits
        return "".join(str(digit.width) for digit in (self.digits if highest.is_packed else lower))


def integers(bits: int, opset: int, *, block: int = 0, symmetric: bool = True, kernel: int | None = None) -> Function:
    """`(code - zero point) * scale` from digits, highest first, scale, a factor of the scales of blocks, zero points.

    Args:
        kernel: the axis of output channels of an integer kernel, whose scale has shape `()` or `[channels]`.
    """
    layout = _Layout(bits, opset)
    name = f"Int{layout.name}" + (f"b{block}" if block else "") + ("" if symmetric else "z")
    name += "" if kernel is None else f"q{kernel}"
    return Function(name, partial(_integers, name, layout, block, symmetric, kernel), layout.takes_shape)


def powers(bits: int, opset: int) -> Function:
    """`table[code] * scale` from digits, highest first, scale, and one float16 table, negative codes at its end."""
    layout = _Layout(bits, opset)
    name = f"Power{layout.name}"
    return Function(name, partial(_powers, name, layout), layout.takes_shape)


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
    layout = _Layout(bits, opset)
    name = f"Code{layout.name}" + (f"o{outliers}" if outliers else "")
    return Function(name, partial(_codebook, name, layout, outliers > 0), layout.takes_shape)


def rotated(bits: int, opset: int, block: int, *, inner: bool) -> Function:
    """`R codes * scale` from digits, highest first, and scale, with R of `quantization.storage.rotations`.

    Args:
        block: rows of R, which turns the weight seen as `[-1, block]`, or as `[-1, block, n]` with n its last axis if
            `inner`.
    """
    layout = _Layout(bits, opset)
    name = f"Turn{layout.name}r{block}" + ("i" if inner else "")
    return Function(name, partial(_rotated, name, layout, block, inner), layout.takes_shape)


def halves(opset: int) -> Function:
    """A float16 weight as float32."""
    return Function("Half", partial(_halves, opset))


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


def _made(
    name: str,
    inputs: Sequence[str],
    nodes: Sequence[onnx.NodeProto],
    layout: _Layout,
    beside: Digit | None = None,
) -> Mapping[str, bytes]:
    """The function that makes `w` of codes that lie so, and those that unpack them and what is `beside` them."""
    packed = [digit for digit in (*layout.digits, beside) if digit is not None and digit.is_packed]
    attributes = [SHAPE] if layout.takes_shape else []
    made = _serialized(name, inputs, nodes, layout.opset, attributes, calls=bool(packed))
    return {name: made} | {_unpacking(digit): _digit_body(digit, layout.opset) for digit in packed}


def _serialized(
    name: str,
    inputs: Sequence[str],
    nodes: Sequence[onnx.NodeProto],
    opset: int,
    attributes: Sequence[str] = (),
    *,
    calls: bool = False,
) -> bytes:
    imports = [helper.make_opsetid("", opset), *([helper.make_opsetid(DOMAIN, DOMAIN_VERSION)] if calls else [])]
    made = helper.make_function(DOMAIN, name, inputs, ["w"], nodes, imports, attributes=attributes)
    return bytes(made.SerializeToString(deterministic=True))


@cache
def _halves(opset: int) -> Mapping[str, bytes]:
    return {"Half": _serialized("Half", ["h"], [helper.make_node("Cast", ["h"], ["w"], to=TensorProto.FLOAT)], opset)}


@cache
def _integers(name: str, layout: _Layout, block: int, symmetric: bool, kernel: int | None) -> Mapping[str, bytes]:
    zero_points = None if symmetric else zero_point_digit(layout.bits, layout.opset)
    inputs, nodes, codes = _unpacked(layout, as_int8=kernel is not None)
    inputs += ["s", *(["m"] if block else []), *([] if symmetric else ["zp"])]
    if kernel is not None:
        nodes += _dequantized(codes, kernel)
    elif block or not symmetric:
        nodes += _shifted_and_scaled(codes, block, zero_points)
    else:
        nodes += _scaled(codes)
    return _made(name, inputs, nodes, layout, zero_points)


@cache
def _powers(name: str, layout: _Layout) -> Mapping[str, bytes]:
    inputs, nodes, codes = _unpacked(layout, as_int8=False)
    nodes += [
        helper.make_node("Cast", [codes], ["j"], to=TensorProto.INT32),
        helper.make_node("Cast", ["p"], ["pf"], to=TensorProto.FLOAT),
        helper.make_node("Gather", ["pf", "j"], ["v"]),  # which counts negative places from the end
        helper.make_node("Mul", ["v", "s"], ["w"]),
    ]
    return _made(name, [*inputs, "s", "p"], nodes, layout)


@cache
def _codebook(name: str, layout: _Layout, outliers: bool) -> Mapping[str, bytes]:
    inputs, nodes, codes = _unpacked(layout, as_int8=False)
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
    return _made(name, inputs, nodes, layout)


@cache
def _rotated(name: str, layout: _Layout, block: int, inner: bool) -> Mapping[str, bytes]:
    inputs, nodes, codes = _unpacked(layout, as_int8=False)
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
    return _made(name, [*inputs, "s"], nodes, layout)


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


def _unpacked(layout: _Layout, *, as_int8: bool) -> tuple[list[str], list[onnx.NodeProto], str]:
    """The inputs that are digits, nodes that put them together, and what these call the codes: int8 if asked for."""
    names = [f"d{place}" for place in range(len(layout.digits))]
    nodes, total = (_unpacked_bytes if layout.takes_shape else _unpacked_digits)(layout, names)
    if as_int8:  # an integer kernel takes int8, and ONNX Runtime 1.31 would give it less
        nodes.append(helper.make_node("Cast", [total], ["k8"], to=TensorProto.INT8))
        total = "k8"
    return names, nodes, total


def _unpacked_digits(layout: _Layout, names: Sequence[str]) -> tuple[list[onnx.NodeProto], str]:
    """Of which the highest has a type of its own: as int8 if there are several."""
    _, *lower = layout.digits
    nodes, total = [], names[0]
    if lower:
        nodes.append(helper.make_node("Cast", [total], ["v0"], to=TensorProto.INT8))
        total = "v0"
    if any(digit.is_packed for digit in lower):
        # of the highest digit as int8: ONNX Runtime 1.31 has no Shape of 2 and 4-bit integers
        nodes.append(helper.make_node("Shape", [total], ["h"]))
    for place, digit in enumerate(lower, start=1):
        stored = names[place]
        if digit.is_packed:
            nodes.append(_call(digit, stored, f"u{place}", "h"))
            stored = f"u{place}"
        nodes += [
            _constant(f"f{place}", np.int8(1 << digit.width)),
            helper.make_node("Cast", [stored], [f"x{place}"], to=TensorProto.INT8),
            helper.make_node("Mul", [total, f"f{place}"], [f"m{place}"]),
            helper.make_node("Add", [f"m{place}", f"x{place}"], [f"v{place}"]),
        ]
        total = f"v{place}"
    return nodes, total


def _unpacked_bytes(layout: _Layout, names: Sequence[str]) -> tuple[list[onnx.NodeProto], str]:
    """All of them packed: as float32."""
    highest, *lower = layout.digits
    shape = helper.make_node("Constant", [], ["h"])
    shape.attribute.add(name="value_ints", type=onnx.AttributeProto.INTS, ref_attr_name=SHAPE)
    nodes, total = [shape, _call(highest, names[0], "v0", "h")], "v0"
    for place, digit in enumerate(lower, start=1):
        nodes += [
            _constant(f"f{place}", np.uint8(digit.width)),
            _call(digit, names[place], f"x{place}", "h"),
            helper.make_node("BitShift", [total, f"f{place}"], [f"m{place}"], direction="LEFT"),
            helper.make_node("BitwiseOr", [f"m{place}", f"x{place}"], [f"v{place}"]),
        ]
        total = f"v{place}"
    return [*nodes, *_centred(total, layout.bits, "u")], "u"


def _centred(name: str, bits: int, output: str) -> list[onnx.NodeProto]:
    """Nodes that make codes, as float32, of what is packed for them."""
    return [
        helper.make_node("Cast", [name], [f"{output}f"], to=TensorProto.FLOAT),
        _constant(f"{output}o", np.float32(1 << (bits - 1))),
        helper.make_node("Sub", [f"{output}f", f"{output}o"], [output]),
    ]


def _call(digit: Digit, name: str, output: str, shape: str) -> onnx.NodeProto:
    """The node that unpacks a packed digit to uint8 in `shape`."""
    return helper.make_node(_unpacking(digit), [name, shape], [output], domain=DOMAIN)


def _unpacking(digit: Digit) -> str:
    """The name of the function that unpacks the digit."""
    return f"Bits{digit.width}"


@cache
def _digit_body(digit: Digit, opset: int) -> bytes:
    """A function of bytes that `quantization.storage.packing.pack_halves` gives, and of a shape."""
    nodes, last, width = [], "d", 8
    while width > digit.width:  # what is above the lower half goes last
        width //= 2
        nodes += [
            _constant(f"s{width}", np.uint8(width)),
            helper.make_node("BitShift", [last, f"s{width}"], [f"h{width}"], direction="RIGHT"),
            helper.make_node("Concat", [last, f"h{width}"], [f"d{width}"], axis=0),
        ]
        last = f"d{width}"
    nodes += [
        helper.make_node("Constant", [], ["z"], value_ints=[0]),
        helper.make_node("ReduceProd", ["h"], ["n"]),
        helper.make_node("Slice", [last, "z", "n"], ["c"]),
        helper.make_node("Reshape", ["c", "h"], ["b"]),
        _constant("m", np.uint8((1 << digit.width) - 1)),
        helper.make_node("BitwiseAnd", ["b", "m"], ["w"]),
    ]
    return _serialized(_unpacking(digit), ["d", "h"], nodes, opset)


def _scaled(codes: str) -> list[onnx.NodeProto]:
    """`codes * s` in nodes that are folded at load."""
    return [
        helper.make_node("Cast", [codes], ["v"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["v", "s"], ["w"]),
    ]


def _shifted_and_scaled(codes: str, block: int, zero_points: Digit | None) -> list[onnx.NodeProto]:
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
        _call(digit, "zp", "zu", "hz"),
        *_centred("zu", digit.width, "zf"),
    ]


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


def _constant(name: str, value: np.ndarray | np.generic) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(np.asarray(value)))
