"""From the digits of a file to codes, in nodes that ONNX Runtime folds at load.

Digits that ONNX has a type for are put together in int8. Packed ones are unpacked by a function for each width, which
the functions of weights call: a shift of all bytes for each halving of the width. Where all are packed they are put
together by shifts, too, in uint8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx
from onnx import TensorProto, helper

from quantization.storage.packing import Digit, digits

DOMAIN = "bitbudget"
DOMAIN_VERSION = 1
SHAPE = "h"
"""The attribute with the weight's shape, of calls that need it."""
_UNPACKING = {4: "Bits4", 2: "Bits2", 1: "Bits1"}  # functions by the width of the digits that they unpack


@dataclass(frozen=True, slots=True)
class Layout:
    """How codes of `bits` bits lie in a file of this opset."""

    bits: int
    opset: int

    @property
    def digits(self) -> tuple[Digit, ...]:
        return digits(self.bits, self.opset)

    @property
    def takes_shape(self) -> bool:
        """Whether no digit tells the weight's shape."""
        return self.digits[0].is_packed

    @property
    def name(self) -> str:
        """The widths of the digits, of the highest only if it is packed: what `unpacked` depends on."""
        highest, *lower = self.digits
        return "".join(str(digit.width) for digit in (self.digits if highest.is_packed else lower))


def unpacked(layout: Layout) -> tuple[list[str], list[onnx.NodeProto], str]:
    """The inputs that are digits, nodes that put them together, and the name of the codes."""
    names = [f"d{place}" for place in range(len(layout.digits))]
    nodes, total = (_of_bytes if layout.takes_shape else _of_digits)(layout, names)
    return names, nodes, total


def _of_digits(layout: Layout, names: Sequence[str]) -> tuple[list[onnx.NodeProto], str]:
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
            nodes.append(unpacking_call(digit, stored, f"u{place}", "h"))
            stored = f"u{place}"
        nodes += [
            constant(f"f{place}", np.int8(1 << digit.width)),
            helper.make_node("Cast", [stored], [f"x{place}"], to=TensorProto.INT8),
            helper.make_node("Mul", [total, f"f{place}"], [f"m{place}"]),
            helper.make_node("Add", [f"m{place}", f"x{place}"], [f"v{place}"]),
        ]
        total = f"v{place}"
    return nodes, total


def _of_bytes(layout: Layout, names: Sequence[str]) -> tuple[list[onnx.NodeProto], str]:
    """All of them packed: as float32."""
    highest, *lower = layout.digits
    shape = helper.make_node("Constant", [], ["h"])
    shape.attribute.add(name="value_ints", type=onnx.AttributeProto.INTS, ref_attr_name=SHAPE)
    nodes, total = [shape, unpacking_call(highest, names[0], "v0", "h")], "v0"
    for place, digit in enumerate(lower, start=1):
        nodes += [
            constant(f"f{place}", np.uint8(digit.width)),
            unpacking_call(digit, names[place], f"x{place}", "h"),
            helper.make_node("BitShift", [total, f"f{place}"], [f"m{place}"], direction="LEFT"),
            helper.make_node("BitwiseOr", [f"m{place}", f"x{place}"], [f"v{place}"]),
        ]
        total = f"v{place}"
    return [*nodes, *centred(total, layout.bits, "u")], "u"


def centred(name: str, bits: int, output: str) -> list[onnx.NodeProto]:
    """Nodes that make codes, as float32, of what is packed for them."""
    return [
        helper.make_node("Cast", [name], [f"{output}f"], to=TensorProto.FLOAT),
        constant(f"{output}o", np.float32(1 << (bits - 1))),
        helper.make_node("Sub", [f"{output}f", f"{output}o"], [output]),
    ]


def unpacking_call(digit: Digit, name: str, output: str, shape: str) -> onnx.NodeProto:
    """The node that unpacks a packed digit to uint8 in `shape`."""
    return helper.make_node(_UNPACKING[digit.width], [name, shape], [output], domain=DOMAIN)


def unpacking_functions(nodes: Sequence[onnx.NodeProto], opset: int) -> Mapping[str, bytes]:
    """The functions that unpack digits which `nodes` call, by name, serialized."""
    called = {node.op_type for node in nodes if node.domain == DOMAIN}
    return {name: _body(width, opset) for width, name in _UNPACKING.items() if name in called}


@cache
def _body(bits: int, opset: int) -> bytes:
    """A function of bytes that `quantization.storage.packing.pack_halves` gives, and of a shape."""
    nodes, last, width = [], "d", 8
    while width > bits:  # what is above the lower half goes last
        width //= 2
        nodes += [
            constant(f"s{width}", np.uint8(width)),
            helper.make_node("BitShift", [last, f"s{width}"], [f"h{width}"], direction="RIGHT"),
            helper.make_node("Concat", [last, f"h{width}"], [f"d{width}"], axis=0),
        ]
        last = f"d{width}"
    nodes += [
        helper.make_node("Constant", [], ["z"], value_ints=[0]),
        helper.make_node("ReduceProd", ["h"], ["n"]),
        helper.make_node("Slice", [last, "z", "n"], ["c"]),
        helper.make_node("Reshape", ["c", "h"], ["b"]),
        constant("m", np.uint8((1 << bits) - 1)),
        helper.make_node("BitwiseAnd", ["b", "m"], ["w"]),
    ]
    return serialized(_UNPACKING[bits], ["d", "h"], nodes, opset)


def serialized(
    name: str,
    inputs: Sequence[str],
    nodes: Sequence[onnx.NodeProto],
    opset: int,
    attributes: Sequence[str] = (),
    outputs: Sequence[str] = ("w",),
) -> bytes:
    """A function of our domain that makes `outputs`."""
    imports = [helper.make_opsetid("", opset)]
    if any(node.domain == DOMAIN for node in nodes):
        imports.append(helper.make_opsetid(DOMAIN, DOMAIN_VERSION))
    made = helper.make_function(DOMAIN, name, inputs, outputs, nodes, imports, attributes=attributes)
    return bytes(made.SerializeToString(deterministic=True))


def constant(name: str, value: np.ndarray | np.generic) -> onnx.NodeProto:
    """A Constant with this value."""
    return helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(np.asarray(value)))
