"""Files made to take time, memory, files or processes that a job should not have."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

node, value = helper.make_node, helper.make_tensor_value_info
Made = Callable[[random.Random], bytes]


def graph_file(
    nodes: Sequence[NodeProto],
    constants: Mapping[str, object] | None = None,
    *,
    outputs: Sequence[str] = ("y",),
    opset: int = 18,
    functions: Sequence[onnx.FunctionProto] = (),
    rank: int = 2,
) -> bytes:
    """A file that takes `x` [N, 4, ...] of float32 and gives float32 of unknown shape."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [value("x", TensorProto.FLOAT, ["N", *[4] * (rank - 1)])],
        [value(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid(domain, 1) for domain in ("own", "com.microsoft")]
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset), *opsets], ir_version=10)
    model.functions.extend(functions)
    return bytes(model.SerializeToString())


def _weight(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def _with_layer(nodes: Sequence[NodeProto], constants: Mapping[str, object] | None = None, **more: object) -> bytes:
    """A MatMul first, so that there is something to quantize; `h` is what it gives."""
    first = node("MatMul", ["x", "W"], ["h"])
    return graph_file([first, *nodes], {"W": _weight(4, 4), **(constants or {})}, **more)  # type: ignore[arg-type]


def einsum_dot(chance: random.Random) -> bytes:
    equation = chance.choice(("i.j->ij", "ij.->i", "..ij->ij", "i....j->ij", ".ij->ij", "ij->i.j", "...i...j->ij", "."))
    return _with_layer([node("Einsum", ["h"], ["y"], equation=equation)])


def einsum_operands(chance: random.Random) -> bytes:
    count = chance.choice((27, 60, 500))
    equation = chance.choice((",".join(["ij"] * count) + "->ij", ",".join(["...i"] * count), "->" * count, "," * count))
    return _with_layer([node("Einsum", ["h"] * count, ["y"], equation=equation)])


def einsum_ellipses(chance: random.Random) -> bytes:
    equation = chance.choice(("...i,...ij->...j", "...ij,j...->i...", "a...,...a->...", "...,...->..."))
    return _with_layer([node("Einsum", ["h", "V"], ["y"], equation=equation)], {"V": _weight(3, 4, 4)})


def _body(nodes: Sequence[NodeProto], level: str = "") -> GraphProto:
    """The body of a Loop, whose `nodes` make `b` of `a`; with the level in the names of all its own values."""
    float_, integer, boolean = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
    return helper.make_graph(
        [node("Identity", [f"go{level}"], [f"goes{level}"]), *nodes],
        f"body{level}",
        [value(f"i{level}", integer, []), value(f"go{level}", boolean, []), value(f"a{level}", float_, None)],
        [value(f"goes{level}", boolean, []), value(f"b{level}", float_, None)],
    )


def endless_loop(chance: random.Random) -> bytes:
    body = _body([chance.choice((node("Add", ["a", "one"], ["b"]), node("MatMul", ["a", "W"], ["b"])))])
    trips = chance.choice(("trips", ""))
    constants = {"trips": np.int64(2**62), "yes": np.bool_(True), "one": np.float32(1)}
    return _with_layer([node("Loop", [trips, "yes", "h"], ["y"], body=body)], constants)


def nested_loops(chance: random.Random) -> bytes:
    """A million rounds or more, each short."""
    graph = _body([node("Add", ["a", "one"], ["b"])])
    for level in range(chance.randint(1, 6)):
        inner = node("Loop", ["trips", "yes", f"a{level}"], [f"b{level}"], body=graph)
        graph = _body([inner], f"{level}")
    constants = {"trips": np.int64(1000), "yes": np.bool_(True), "one": np.float32(1)}
    return _with_layer([node("Loop", ["trips", "yes", "h"], ["y"], body=graph)], constants)


def left_out_output(chance: random.Random) -> bytes:
    """An output that an operator leaves out before another: native code may look there all the same."""
    body = _body([node("Add", ["a", "a"], ["b"])])
    body.output.append(value("b", TensorProto.FLOAT, None))
    made = chance.choice(
        (
            [node("Split", ["h"], ["", "y"], axis=1, num_outputs=2)],
            [node("Split", ["h"], ["", "", "y"], axis=1, num_outputs=3)],
            [node("Loop", ["three", "yes", "h"], ["", "y"], body=body)],
            [node("TopK", ["h", "k"], ["", "p"]), node("Cast", ["p"], ["y"], to=1)],
            [node("LSTM", ["h3", "L", "R"], ["", "", "y"], hidden_size=2)],
            [node("Unique", ["h"], ["", "", "p"]), node("Cast", ["p"], ["y"], to=1)],
            [node("If", ["yes"], ["", "y"], then_branch=_branch(2), else_branch=_branch(2))],
        )
    )
    before = [node("Unsqueeze", ["h", "zero"], ["h3"])]
    constants = {"three": np.int64(3), "yes": np.bool_(True), "k": np.array([2]), "zero": np.array([0])}
    return _with_layer([*before, *made], {**constants, "L": _weight(1, 8, 4), "R": _weight(1, 8, 2)})


def _branch(outputs: int, nodes: Sequence[NodeProto] | None = None) -> GraphProto:
    names = [f"z{index}" for index in range(outputs)]
    made = list(nodes or [node("Identity", ["h"], [name]) for name in names])
    return helper.make_graph(made, "branch", [], [value(name, TensorProto.FLOAT, None) for name in names])


def many_nodes(chance: random.Random) -> bytes:
    count = chance.choice((20_000, 99_000, 100_000, 120_000))
    names = ["h", *(f"n{index}" for index in range(count - 1)), "y"]
    operator = chance.choice(("Relu", "Identity", "Neg", "Abs"))
    return _with_layer([node(operator, [a], [b]) for a, b in itertools.pairwise(names)])


def many_outputs(chance: random.Random) -> bytes:
    count = chance.choice((600, 5_000, 20_000))
    names = [f"y{index}" for index in range(count)]
    return _with_layer([node("Relu", ["h"], [name]) for name in names], outputs=names)


def many_sites(chance: random.Random) -> bytes:
    count = chance.choice((1_500, 3_000, 10_000))
    names = ["h", *(f"n{index}" for index in range(count - 1)), "y"]
    tied = chance.random() < 0.3
    weights = {f"V{index}": _weight(4, 4) / 2 for index in range(1 if tied else count)}
    layers = [
        node("MatMul", [a, f"V{0 if tied else index}"], [b]) for index, (a, b) in enumerate(itertools.pairwise(names))
    ]
    return _with_layer(layers, weights)


def huge_value(chance: random.Random) -> bytes:
    """Gigabytes, from a few numbers."""
    size = chance.choice((1 << 29, 1 << 31, 1 << 40, (1 << 63) - 1, -1))
    made = chance.choice(
        (
            [node("ConstantOfShape", ["s"], ["y"])],
            [node("Expand", ["one", "s"], ["y"])],
            [node("Tile", ["h", "s2"], ["y"])],
            [node("Pad", ["h", "pads"], ["y"])],
            [node("Range", ["zero", "end", "step"], ["r"]), node("Cast", ["r"], ["y"], to=1)],
            [node("OneHot", ["zero", "end", "pair"], ["y"])],
            [node("Resize", ["h", "", "", "s2"], ["y"])],
            [node("EyeLike", ["big"], ["y"]), node("ConstantOfShape", ["s"], ["big"])],
            [
                node("ConstantOfShape", ["s"], ["big"]),
                node("NonZero", ["big"], ["i"]),
                node("Cast", ["i"], ["y"], to=1),
            ],
            [node("Upsample", ["h", "scales"], ["y"])],
            [node("Reshape", ["h", "s"], ["y"])],
            [node("Trilu", ["t"], ["y"]), node("Expand", ["one", "s2"], ["t"])],
        )
    )
    constants = {"s": np.array([size]), "s2": np.array([1, size]), "pads": np.array([0, 0, 0, size]), "zero": 0}
    numbers = {"end": np.int64(size), "step": 1, "one": np.float32(1), "pair": np.array([0, 1], np.float32)}
    return _with_layer(made, {**constants, **numbers, "scales": np.array([1, 1e9], np.float32)})


def grows_at_run_time(chance: random.Random) -> bytes:
    """Doubled in every round of a loop, which no shape inference sees."""
    body = _body([node("Concat", ["a", "a"], ["b"], axis=chance.choice((0, 1)))])
    constants = {"trips": np.int64(chance.choice((20, 40))), "yes": np.bool_(True)}
    return _with_layer([node("Loop", ["trips", "yes", "h"], ["y"], body=body)], constants)


def slow_operator(chance: random.Random) -> bytes:
    """One node with much to do."""
    size = chance.choice((2_000, 12_000))
    square = [node("Expand", ["one", "ss"], ["big"])]
    made = chance.choice(
        (
            [*square, node("MatMul", ["big", "big"], ["z"])],
            [*square, node("Det", ["big"], ["z"])],
            [*square, node("Einsum", ["big", "big", "big"], ["z"], equation="ij,jk,kl->il")],
            [*square, node("CumSum", ["big", "zero"], ["z"])],
            [*square, node("TopK", ["big", "k"], ["z", "p"])],
            [node("Pow", ["h", "huge"], ["z"])],
        )
    )
    last = [node("ReduceMax", ["z"], ["m"], keepdims=0), node("Add", ["h", "m"], ["y"])]
    constants = {"ss": np.array([size, size]), "zero": np.int64(0), "k": np.array([size]), "huge": np.float32(1e38)}
    return _with_layer([*made, *last], {**constants, "one": np.float32(1)})


def deep_graphs(chance: random.Random) -> bytes:
    """If within If."""
    levels = chance.choice((5, 15, 30))
    inner = _branch(1)
    for level in range(levels):
        name = f"l{level}"
        made = node("If", ["yes"], [name], then_branch=inner, else_branch=_branch(1))
        inner = helper.make_graph([made], name, [], [value(name, TensorProto.FLOAT, None)])
    return _with_layer([node("If", ["yes"], ["y"], then_branch=inner, else_branch=_branch(1))], {"yes": np.bool_(True)})


def many_graphs(chance: random.Random) -> bytes:
    count = chance.choice((300, 3_000))
    names = ["h", *(f"n{index}" for index in range(count - 1)), "y"]
    branches = [
        helper.make_graph([node("Relu", [a], [f"{b}z"])], f"g{b}", [], [value(f"{b}z", TensorProto.FLOAT, None)])
        for a, b in itertools.pairwise(names)
    ]
    nodes = [
        node("If", ["yes"], [name], then_branch=branch, else_branch=branch)
        for name, branch in zip(names[1:], branches, strict=True)
    ]
    return _with_layer(nodes, {"yes": np.bool_(True)})


def doubling_functions(chance: random.Random) -> bytes:
    """Each calls the one before it twice; or all in a circle."""
    levels, circle = chance.choice((10, 14, 40, 100)), chance.random() < 0.3
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    functions = []
    for level in range(levels):
        callee = ("Relu", "") if level == 0 and not circle else (f"F{(level - 1) % levels}", "own")
        calls = [node(callee[0], ["a"], ["m"], domain=callee[1]), node(callee[0], ["m"], ["b"], domain=callee[1])]
        functions.append(helper.make_function("own", f"F{level}", ["a"], ["b"], calls, opsets))
    return _with_layer([node(f"F{levels - 1}", ["h"], ["y"], domain="own")], functions=functions)


def outside_data(chance: random.Random) -> bytes:
    """Weights in a file that the model names, or in the memory of the process."""
    model = ModelProto.FromString(_with_layer([node("Relu", ["h"], ["y"])]))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    places = ("/etc/passwd", "../../../etc/passwd", "W.bin", "*/_ORT_MEM_ADDR_/*", "/dev/zero", "/proc/self/mem", "")
    entries = {"location": chance.choice(places), "offset": chance.choice(("0", "-1", str(2**63))), "length": "64"}
    for key, text in entries.items():
        tensor.external_data.add(key=key, value=text)
    return bytes(model.SerializeToString())


def large_attribute(chance: random.Random) -> bytes:
    made = chance.choice(
        (
            node("Constant", [], ["c"], value_string=b"x" * 900_000),
            node("Constant", [], ["c"], value_ints=list(range(100_000))),
            node("Constant", [], ["c"], value=helper.make_tensor("t", TensorProto.STRING, [3], [b"\xff" * 9] * 3)),
            node("Constant", [], ["c"], value_floats=[float("nan")] * 100_000),
        )
    )
    return _with_layer([made, node("Relu", ["h"], ["y"], doc_string="x" * 100_000)])


def odd_numbers(chance: random.Random) -> bytes:
    """An operator on images with numbers that nobody means."""
    number = chance.choice((0, -1, 1 << 20, 1 << 31, (1 << 63) - 1, -(1 << 63)))
    image = [node("Reshape", ["h", "nchw"], ["c"])]
    made = chance.choice(
        (
            node("Conv", ["c", "K"], ["y"], strides=[number, 1]),
            node("Conv", ["c", "K"], ["y"], dilations=[1, number]),
            node("Conv", ["c", "K"], ["y"], pads=[number, 0, 0, 0]),
            node("Conv", ["c", "K"], ["y"], group=number),
            node("ConvTranspose", ["c", "K"], ["y"], strides=[number, number]),
            node("ConvTranspose", ["c", "K"], ["y"], output_padding=[number, 0]),
            node("MaxPool", ["c"], ["y"], kernel_shape=[number, 1]),
            node("AveragePool", ["c"], ["y"], kernel_shape=[1, 1], strides=[number, 1]),
            node("DepthToSpace", ["c"], ["y"], blocksize=number),
            node("SpaceToDepth", ["c"], ["y"], blocksize=number),
            node("Softmax", ["c"], ["y"], axis=number),
            node("Flatten", ["c"], ["y"], axis=number),
            node("LRN", ["c"], ["y"], size=number),
            node("GatherElements", ["c", "indices"], ["y"], axis=number),
        )
    )
    return _with_layer(
        [*image, made], {"nchw": np.array([-1, 1, 2, 2]), "K": _weight(1, 1, 1, 1), "indices": [[[[9]]]]}
    )


MADE: Mapping[str, Made] = {
    made.__name__: made
    for made in (
        *(einsum_dot, einsum_operands, einsum_ellipses, endless_loop, nested_loops, left_out_output),
        *(many_nodes, many_outputs, many_sites, huge_value, grows_at_run_time, slow_operator, deep_graphs),
        *(many_graphs, doubling_functions, outside_data, large_attribute, odd_numbers),
    )
}
