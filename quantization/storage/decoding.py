"""From the string of bits of a coded weight to its values, in nodes that ONNX Runtime folds at load.

Down the levels of `quantization.storage.coded` the string is cut into flags: which values of a level are above it.
Then, up again, the magnitudes of those that are above are spread to their places, and 1 is added. Functions, each with
short names, as every file that has one coded weight pays for them:

    Start   bytes, width of a header, levels -> string, headers
    Fall    string, headers, count -> the same behind one level, and its flags
    Fall4   the same behind four levels
    Climb   flags, magnitudes -> magnitudes of the level above
    Climb4  the same for four levels
    Coded5, Coded9, ...    bytes, step -> the weight

What is slow in ONNX Runtime 1.31 [a million values, one core]: Compress 23 ms, and not folded; Gather of single values
42 ms, where GatherElements takes 0.5; ScatterElements 20 ms, once in each level; CumSum of int32 3 ms, of int64 19.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper

from quantization.storage.coded import LOW_BITS
from quantization.storage.unpacking import DOMAIN, SHAPE, constant, serialized

HEADER = "w"
"""The attribute with the bits of a header, which the shape decides."""

_ALL = (1 << 31) - 1  # behind the end of anything
_AT_ONCE = 4
_INTO = ("b", "h", "c")  # string, headers, how many values are left

node = helper.make_node


def name(levels: int) -> str:
    """Of the function."""
    return f"Coded{levels}"


@cache
def bodies(levels: int, opset: int) -> Mapping[str, bytes]:
    """The function for so many levels, one more than a multiple of four, and those that it calls, serialized, by
    name."""
    flags = [f"f{number}" for number in range(_AT_ONCE)]
    falls, state = [], list(_INTO)
    for number, flag in enumerate(flags):
        following = [f"{part}{number}" for part in _INTO]
        falls.append(node("Fall", state, [*following, flag], domain=DOMAIN))
        state = following
    climbs, last = [], "m"
    for number, flag in enumerate(reversed(flags)):
        climbs.append(node("Climb", [flag, last], [f"m{number}"], domain=DOMAIN))
        last = f"m{number}"
    return {
        "Start": serialized("Start", ["d", "x", "t"], _start(), opset, outputs=["b", "h"]),
        "Fall": serialized("Fall", _INTO, _fall(), opset, outputs=("b1", "h1", "c1", "f")),
        "Climb": serialized("Climb", ["f", "m"], _climb(), opset, outputs=["n"]),
        "Fall4": serialized("Fall4", _INTO, falls, opset, outputs=[*state, *flags]),
        "Climb4": serialized("Climb4", [*flags, "m"], climbs, opset, outputs=[last]),
        name(levels): serialized(name(levels), ["d", "s"], _whole(levels), opset, [SHAPE, HEADER]),
    }


def _fall() -> list[onnx.NodeProto]:
    """One level. A zero of the unary part stands for as many values as low bits can count, a one for its low bits and
    the mark; what each adds up to is the place of its last value, at which it is written."""
    return [
        _ints("a", 0),
        _ints("k", 1),
        _ints("y", _ALL),
        constant("z", np.int32(0)),
        constant("o", np.int32(1)),
        constant("t", np.array([2], dtype=np.int32)),
        node("Slice", ["h", "k", "y"], ["h1"]),
        node("Gather", ["h", "z"], ["g"]),
        node("Split", ["g"], ["u", "v", "l"], num_outputs=3),
        node("Slice", ["b", "a", "u"], ["q"]),
        node("Cast", ["q"], ["i"], to=TensorProto.INT32),
        node("ReduceSum", ["i"], ["n"], keepdims=1),
        node("Cast", ["n"], ["n1"], to=TensorProto.INT64),
        # low bits [l, n] to numbers [n]
        node("Mul", ["n1", "l"], ["x"]),
        node("Add", ["u", "x"], ["e"]),
        node("Slice", ["b", "u", "e"], ["x1"]),
        node("Concat", ["l", "n1"], ["x2"], axis=0),
        node("Reshape", ["x1", "x2"], ["x3"], allowzero=1),
        node("Cast", ["x3"], ["x4"], to=TensorProto.INT32),
        node("Cast", ["l"], ["l1"], to=TensorProto.INT32),
        node("Squeeze", ["l1"], ["l2"]),
        node("Range", ["z", "l2", "o"], ["w"]),
        node("Pow", ["t", "w"], ["w1"]),
        node("Unsqueeze", ["w1", "k"], ["w2"]),
        node("Mul", ["x4", "w2"], ["x5"]),
        node("ReduceSum", ["x5", "a"], ["x6"], keepdims=0),
        node("Add", ["x6", "o"], ["r"]),
        node("CumSum", ["r", "z"], ["r1"]),
        node("Expand", ["z", "k"], ["z1"]),
        node("Concat", ["r1", "z1"], ["r2"], axis=0),  # so that before the first one, at -1, nothing stands
        # where the values that each bit stands for end: 2**l for a zero, low bits and the mark for a one
        node("CumSum", ["i", "z"], ["i1"]),
        node("Sub", ["i1", "o"], ["i2"]),
        node("GatherElements", ["r2", "i2"], ["r3"]),
        node("Cast", ["u"], ["u1"], to=TensorProto.INT32),
        node("Squeeze", ["u1"], ["u2"]),
        node("Range", ["z", "u2", "o"], ["j"]),
        node("Sub", ["j", "i2"], ["j1"]),  # zeros
        node("Pow", ["t", "l1"], ["p"]),
        node("Mul", ["j1", "p"], ["j2"]),
        node("Add", ["j2", "r3"], ["r4"]),
        node("Sub", ["r4", "o"], ["r5"]),
        node("Cast", ["v"], ["v1"], to=TensorProto.UINT8),
        node("Expand", ["v1", "c"], ["v2"]),
        node("BitwiseXor", ["q", "v1"], ["q1"]),
        node("ScatterElements", ["v2", "r5", "q1"], ["f"]),
        node("Cast", ["f"], ["f1"], to=TensorProto.INT32),
        node("ReduceSum", ["f1"], ["f2"], keepdims=1),
        node("Cast", ["f2"], ["c1"], to=TensorProto.INT64),
        node("Slice", ["b", "e", "y"], ["b1"]),
    ]


def _climb() -> list[onnx.NodeProto]:
    """`flag * (magnitude of its place among the flags + 1)`."""
    return [
        constant("z", np.int32(0)),
        constant("o", np.int32(1)),
        constant("k", np.array([1], dtype=np.int8)),
        node("Cast", ["f"], ["i"], to=TensorProto.INT32),
        node("CumSum", ["i", "z"], ["i1"]),
        node("Sub", ["i1", "o"], ["i2"]),
        node("Concat", ["m", "k"], ["m1"], axis=0),  # so that before the first flag, at -1, something stands
        node("GatherElements", ["m1", "i2"], ["g"]),
        node("Add", ["g", "k"], ["g1"]),
        node("Cast", ["f"], ["f1"], to=TensorProto.INT8),
        node("Mul", ["g1", "f1"], ["n"]),
    ]


def _whole(levels: int) -> list[onnx.NodeProto]:
    header = AttributeProto(name="value_int", type=AttributeProto.INT, ref_attr_name=HEADER)
    shape = AttributeProto(name="value_ints", type=AttributeProto.INTS, ref_attr_name=SHAPE)
    width, dims = node("Constant", [], ["x"]), node("Constant", [], ["g"])
    width.attribute.append(header)
    dims.attribute.append(shape)
    zero = helper.make_tensor("", TensorProto.INT8, [1], [0])
    falls: list[onnx.NodeProto] = []
    climbs: list[onnx.NodeProto] = []
    state: Sequence[str] = ["b2", "h1", "c1"]
    for number in range((levels - 1) // _AT_ONCE):
        following = [f"{part}{number + 3}" for part in _INTO]
        flags = [f"{letter}{number}" for letter in "ijkl"]
        falls.append(node("Fall4", state, [*following, *flags], domain=DOMAIN))
        climbs.insert(0, node("Climb4", [*flags, f"m{number + 1}"], [f"m{number}"], domain=DOMAIN))
        state = following
    return [
        width,
        dims,
        _ints("t", levels),
        node("Start", ["d", "x", "t"], ["b0", "h0"], domain=DOMAIN),
        node("ReduceProd", ["g"], ["c0"], keepdims=1),
        node("Fall", ["b0", "h0", "c0"], ["b1", "h1", "c1", "f0"], domain=DOMAIN),
        # signs stand behind the first level
        _ints("a", 0),
        _ints("y", _ALL),
        node("Slice", ["b1", "a", "c1"], ["s1"]),
        node("Slice", ["b1", "c1", "y"], ["b2"]),
        *falls,
        node("ConstantOfShape", [state[2]], [f"m{len(falls)}"], value=zero),
        *climbs,
        # 1 for the first level, times 1 or -1; the last step upwards adds 1 again
        constant("o", np.int8(1)),
        node("Add", ["m0", "o"], ["n1"]),
        node("Cast", ["s1"], ["s2"], to=TensorProto.INT8),
        node("Add", ["s2", "s2"], ["s3"]),
        node("Sub", ["o", "s3"], ["s4"]),
        node("Mul", ["n1", "s4"], ["n2"]),
        node("Sub", ["n2", "o"], ["n3"]),
        node("Climb", ["f0", "n3"], ["n4"], domain=DOMAIN),
        node("Cast", ["n4"], ["n5"], to=TensorProto.FLOAT),
        node("Reshape", ["n5", "g"], ["n6"]),
        node("Mul", ["n6", "s"], ["w"]),
    ]


def _start() -> list[onnx.NodeProto]:
    """The string without its headers, least significant bits first; and the headers `[levels, 3]`: bits of the unary
    part, what is written where nothing is marked, low bits."""
    return [
        _ints("a", 0),
        _ints("k", 1),
        _ints("y", _ALL),
        _ints("j", -1),
        node("Constant", [], ["z"], value_int=0),
        node("Constant", [], ["z1"], value_int=1),
        node("Constant", [], ["z2"], value_int=2),
        constant("v", np.arange(8, dtype=np.uint8)),
        constant("u", np.uint8(1)),
        node("Unsqueeze", ["d", "k"], ["d1"]),
        node("BitShift", ["d1", "v"], ["d2"], direction="RIGHT"),
        node("BitwiseAnd", ["d2", "u"], ["d3"]),
        node("Reshape", ["d3", "j"], ["d4"]),
        node("Mul", ["x", "t"], ["e"]),
        node("Slice", ["d4", "a", "e"], ["e1"]),
        node("Slice", ["d4", "e", "y"], ["b"]),
        node("Unsqueeze", ["x", "a"], ["e2"]),
        node("Concat", ["t", "e2"], ["e3"], axis=0),
        node("Reshape", ["e1", "e3"], ["e4"]),
        node("Cast", ["e4"], ["e5"], to=TensorProto.INT64),
        node("Range", ["z", "x", "z1"], ["r"]),
        node("Pow", ["z2", "r"], ["r1"]),
        node("MatMul", ["e5", "r1"], ["e6"]),
        node("Unsqueeze", ["e6", "k"], ["e7"]),
        _ints("x1", 2 << LOW_BITS, 1 << LOW_BITS, 1),
        node("Div", ["e7", "x1"], ["e8"]),
        _ints("x2", _ALL, 2, 1 << LOW_BITS),
        node("Mod", ["e8", "x2"], ["h"]),
    ]


def _ints(output: str, *values: int) -> onnx.NodeProto:
    return node("Constant", [], [output], value_ints=values)
