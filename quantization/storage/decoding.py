"""From the string of a coded weight to its values, in nodes that ONNX Runtime folds at load.

All of it is a number for each tuple, and none for each bit: which bucket, where its place begins (one sum over the
lengths), the place, the rank. The tuples themselves stand in a table by rank, which is made from nothing but their
size and base.

What is slow in ONNX Runtime 1.31 [a million values, one core]: Compress 23 ms, and not folded; Gather of single values
42 ms, where GatherElements takes 0.5; ScatterElements 20 ms; CumSum of int32 3 ms, of int64 19. And what is folded is
kept until all is: each number of 4 bytes for each weight costs 8 MB for a million, and the time to get them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper

from quantization.storage.coded import HEADER_BYTES
from quantization.storage.unpacking import SHAPE, serialized

FUNCTION = "Coded"
SIZE, BASE = "t", "b"
"""The attributes with the integers of a tuple, and how many values each has."""

_ALL = (1 << 31) - 1  # behind the end of anything
_BYTE = 8


@cache
def bodies(opset: int) -> Mapping[str, bytes]:
    """The function of a string `d` and a step `s`, serialized, by name."""
    body = _Body()
    body.build()
    return {FUNCTION: serialized(FUNCTION, ["d", "s"], body.nodes, opset, [SHAPE, SIZE, BASE])}


class _Body:
    """Nodes with inputs and outputs called as short as can be, as every file with a coded weight pays for them."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._count = 0

    def build(self) -> None:
        add, ints = self._add, self._ints
        shape = self._attribute(SHAPE, "ints")
        size, base = self._attribute(SIZE, "int"), self._attribute(BASE, "int")
        count = add("ReduceProd", shape)
        tuples = self._quotient(count, size)
        every = add("Concat", self._list(size), tuples, axis=0)
        ranks = add("Expand", self._ranks(tuples), every)
        codes = add("GatherElements", self._table(size, base), ranks, axis=1)
        flat = add("Slice", add("Reshape", codes, ints(-1)), ints(0), count)
        values = add("Cast", add("Reshape", flat, shape), to=TensorProto.FLOAT)
        add("Mul", values, "s", output="w")

    def _quotient(self, numbers: str, divisor: str) -> str:
        """Rounded up."""
        below = self._add("Sub", divisor, self._int(1))
        return self._add("Div", self._add("Add", numbers, below), divisor)

    def _table(self, size: str, base: str) -> str:
        """All tuples by rank, int8 `[size, ranks]`."""
        add, zero, one = self._add, self._int(0), self._int(1)
        numbers = add("Range", zero, add("Pow", base, size), one)
        powers = add("Unsqueeze", add("Pow", base, add("Range", zero, size, one)), one)
        above = add("Add", add("Mod", add("Div", numbers, powers), base), one)
        magnitudes = add("Div", above, self._int(2))
        costs = add("Mul", magnitudes, add("Add", magnitudes, self._int(3)))
        order = self._name()
        ranked = [add("ReduceSum", costs, self._ints(0), keepdims=0), add("Shape", numbers)]
        self.nodes.append(helper.make_node("TopK", ranked, [self._name(), order], largest=0))
        signed = add("Mul", magnitudes, add("Pow", self._int(-1), above))
        return add("Gather", add("Cast", signed, to=TensorProto.INT8), order, axis=1)

    def _ranks(self, tuples: str) -> str:
        """Of all tuples, int32."""
        add, ints = self._add, self._ints
        header = add("Slice", "d", ints(0), ints(HEADER_BYTES))
        widths = add("Cast", self._of_halves(header), to=TensorProto.INT32)
        sizes = add("Pow", self._constant(np.int32(2)), widths)
        firsts = add("CumSum", sizes, self._int(0), exclusive=1)

        places = add("Add", self._quotient(tuples, self._int(2)), ints(HEADER_BYTES))
        halves = self._of_halves(add("Slice", "d", ints(HEADER_BYTES), places))
        buckets = add("Cast", add("Slice", halves, ints(0), tuples), to=TensorProto.INT32)
        ends = add("CumSum", add("GatherElements", widths, buckets), self._int(0))

        # what is read ends with the byte of the next bit
        byte, before, behind = self._constant(np.int32(_BYTE)), *(np.zeros(n, dtype=np.uint8) for n in (2, 1))
        string = add(
            "Concat", self._constant(before), add("Slice", "d", places, ints(_ALL)), self._constant(behind), axis=0
        )
        numbers = add("Cast", string, to=TensorProto.UINT32)
        read = add("Slice", numbers, ints(0), ints(-2))
        for first, last in ((1, -1), (2, _ALL)):
            higher = add("BitShift", read, self._constant(np.uint32(_BYTE)), direction="LEFT")
            read = add("BitwiseOr", higher, add("Slice", numbers, ints(first), ints(last)))
        within = add("Sub", byte, add("BitwiseAnd", ends, self._constant(np.int32(_BYTE - 1))))
        words = add("GatherElements", read, add("Div", ends, byte))
        shifted = add("BitShift", words, add("Cast", within, to=TensorProto.UINT32), direction="RIGHT")
        masks = add("Cast", add("Sub", sizes, self._constant(np.int32(1))), to=TensorProto.UINT32)
        inside = add("BitwiseAnd", shifted, add("GatherElements", masks, buckets))
        return add("Add", add("Cast", inside, to=TensorProto.INT32), add("GatherElements", firsts, buckets))

    def _of_halves(self, bytes_: str) -> str:
        """Numbers of 4 bits, uint8: those in the lower bits, then the others."""
        lower = self._add("BitwiseAnd", bytes_, self._constant(np.uint8(15)))
        upper = self._add("BitShift", bytes_, self._constant(np.uint8(4)), direction="RIGHT")
        return self._add("Concat", lower, upper, axis=0)

    def _add(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """A node; the name of its output."""
        output = output or self._name()
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def _attribute(self, name: str, kind: str) -> str:
        types = {"int": AttributeProto.INT, "ints": AttributeProto.INTS}
        output = self._add("Constant")
        self.nodes[-1].attribute.append(AttributeProto(name=f"value_{kind}", type=types[kind], ref_attr_name=name))
        return output

    def _int(self, value: int) -> str:
        """int64 `()`."""
        return self._once(np.int64(value), value_int=value)

    def _ints(self, *values: int) -> str:
        """int64 `[values]`."""
        return self._once(np.array(values, dtype=np.int64), value_ints=values)

    def _constant(self, value: np.ndarray | np.generic) -> str:
        return self._once(value, value=onnx.numpy_helper.from_array(np.asarray(value)))

    def _once(self, of: np.ndarray | np.generic, **attributes: Any) -> str:
        key = (of.dtype.str, of.shape, of.tobytes())
        if key not in self._constants:
            self._constants[key] = self._add("Constant", **attributes)
        return self._constants[key]

    def _list(self, scalar: str) -> str:
        """As `[1]`."""
        return self._add("Unsqueeze", scalar, self._int(0))

    def _name(self) -> str:
        self._count += 1
        return np.base_repr(self._count, 36)
