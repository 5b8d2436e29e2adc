"""From the string of a coded weight to its values, in nodes that ONNX Runtime folds at load.

Most of it is a number for each tuple, and none for each bit: which bucket, where its place begins (one sum over the
lengths), the place, the rank. The tuples themselves stand in a table by rank, which is made from nothing but their
size and base, and what magnitudes cost. Which sign a value has says one sum over those that are not 0.

What is slow in ONNX Runtime 1.31 [a million values, one core]: Compress 23 ms, and not folded; Gather of single values
42 ms, where GatherElements takes 0.5; ScatterElements 20 ms; CumSum of int32 3 ms, of int64 19. And what is folded is
kept until all is: each number of 4 bytes for each weight costs 8 MB for a million, and the time to get them.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper

from quantization.storage.buckets import UNITS
from quantization.storage.coded import COST_BYTES, HEADER_BYTES
from quantization.storage.unpacking import SHAPE, serialized

FUNCTION = "Coded"
SIZE, BASE = "t", "b"
"""The attributes with the integers of a tuple, and how many values each has."""

_ALL = (1 << 31) - 1  # behind the end of anything
_BYTE = 8
_LETTERS = "".join(sorted({*string.ascii_letters, *string.digits} - {"d", "s", "w"}))


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
        self._names = map("".join, itertools.chain(_LETTERS, itertools.product(_LETTERS, _LETTERS)))

    def build(self) -> None:
        add, ints = self._add, self._ints
        shape = self._attribute(SHAPE, "ints")
        size, base = self._attribute(SIZE, "int"), self._attribute(BASE, "int")
        count = add("ReduceProd", shape)
        tuples = self._quotient(count, size)
        every = add("Concat", self._list(size), tuples, axis=0)
        table = add("GatherElements", self._table(size, base), add("Expand", self._ranks(tuples), every), axis=1)
        magnitudes = add("Slice", add("Reshape", table, ints(-1)), ints(0), count)
        which = add("CumSum", add("Cast", add("Sign", magnitudes), to=TensorProto.INT32), self._int(0))
        codes = add("Mul", magnitudes, add("GatherElements", self._signs(which), which))
        values = add("Cast", add("Reshape", codes, shape), to=TensorProto.FLOAT)
        add("Mul", values, "s", output="w")

    def _quotient(self, numbers: str, divisor: str) -> str:
        """Rounded up."""
        below = self._add("Sub", divisor, self._int(1))
        return self._add("Div", self._add("Add", numbers, below), divisor)

    def _table(self, size: str, base: str) -> str:
        """All tuples by rank, int8 `[size, ranks]`."""
        add, ints, zero, one = self._add, self._ints, self._int(0), self._int(1)
        numbers = add("Range", zero, add("Pow", base, size), one)
        powers = add("Unsqueeze", add("Pow", base, add("Range", zero, size, one)), one)
        magnitudes = add("Mod", add("Div", numbers, powers), base)
        square, linear = self._name(), self._name()
        told = add("Cast", add("Slice", "d", ints(0), ints(COST_BYTES)), to=TensorProto.INT64)
        self.nodes.append(helper.make_node("Split", [told], [square, linear], num_outputs=COST_BYTES))
        slopes = add("Add", add("Mul", magnitudes, square), linear)
        costs = add("Sub", add("Mul", magnitudes, slopes), add("Mul", add("Sign", magnitudes), self._int(UNITS)))
        order = self._name()
        ranked = [add("ReduceSum", costs, ints(0), keepdims=0), add("Shape", numbers)]
        self.nodes.append(helper.make_node("TopK", ranked, [self._name(), order], largest=0))
        return add("Gather", add("Cast", magnitudes, to=TensorProto.INT8), order, axis=1)

    def _ranks(self, tuples: str) -> str:
        """Of all tuples, int32."""
        add, ints = self._add, self._ints
        header = add("Slice", "d", ints(COST_BYTES), ints(HEADER_BYTES))
        widths = add("Cast", self._of_halves(header), to=TensorProto.INT32)
        sizes = add("Pow", self._constant(np.int32(2)), widths)
        firsts = add("CumSum", sizes, self._int(0), exclusive=1)

        bytes_ = add("Div", add("Add", tuples, self._int(1)), ints(2))
        places = add("Add", bytes_, ints(HEADER_BYTES))
        halves = self._of_halves(add("Slice", "d", ints(HEADER_BYTES), places))
        buckets = add("Cast", add("Slice", halves, ints(0), tuples), to=TensorProto.INT32)
        ends = add("CumSum", add("GatherElements", widths, buckets), self._int(0))

        # what is read ends with the byte of the next bit; what stands before the place is cut off
        behind = add("Slice", "d", add("Sub", places, ints(2)), ints(_ALL))
        numbers = add("Cast", behind, to=TensorProto.UINT32)
        read = add("Slice", numbers, ints(0), ints(-2))
        for first, last in ((1, -1), (2, _ALL)):
            higher = add("Mul", read, self._constant(np.uint32(1 << _BYTE)))
            read = add("Add", higher, add("Slice", numbers, ints(first), ints(last)))
        byte = self._constant(np.int32(_BYTE))
        within = add("Cast", add("Sub", byte, add("Mod", ends, byte)), to=TensorProto.UINT32)
        words = add("GatherElements", read, add("Div", ends, byte))
        shifted = add("BitShift", words, within, direction="RIGHT")
        of_buckets = add("GatherElements", add("Cast", sizes, to=TensorProto.UINT32), buckets)
        inside = add("Cast", add("Mod", shifted, of_buckets), to=TensorProto.INT32)
        return add("Add", inside, add("GatherElements", firsts, buckets))

    def _signs(self, which: str) -> str:
        """Of all codes that are not 0, int8, behind one that belongs to none; `which` of them belongs to each code."""
        add, ints, byte = self._add, self._ints, self._constant(np.int32(_BYTE))
        last = add("Slice", which, ints(-1), ints(_ALL))
        count = add("Cast", add("Div", add("Add", last, byte), byte), to=TensorProto.INT64)
        bytes_ = add("Slice", "d", add("Neg", count), ints(_ALL))
        digits = (1 << np.arange(_BYTE, dtype=np.uint8))[:, None]
        bits = add("Sign", add("BitwiseAnd", bytes_, self._constant(digits)))
        negative = add("Cast", add("Reshape", bits, ints(-1)), to=TensorProto.INT8)
        return add("Sub", self._constant(np.int8(1)), add("Add", negative, negative))

    def _of_halves(self, bytes_: str) -> str:
        """Numbers of 4 bits, uint8: those in the lower bits, then the others."""
        half = self._constant(np.uint8(1 << _BYTE // 2))
        return self._add("Concat", *(self._add(operator, bytes_, half) for operator in ("Mod", "Div")), axis=0)

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
        return next(self._names)
