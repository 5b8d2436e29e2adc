"""Activation sites: what ONNX Runtime's integer kernels read and write, and nothing else."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from network.activations import find_activations
from network.normalise import from_proto

WEIGHTS: dict[str, NDArray[np.generic]] = {
    "conv": np.ones((4, 4, 1, 1), np.float32),
    "gemm": np.ones((16, 3), np.float32),
    "matmul": np.ones((4, 5), np.float32),
    "square": np.ones((4, 4), np.float32),
    "five": np.ones(5, np.float32),
    "half": np.array(0.5, np.float32),
    "zero": np.array(0, np.float32),
    "six": np.array(6, np.float32),
    "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    "flat": np.array([-1, 16]),
    "two": np.array([2, 2]),
    "first": np.array(0),
    "lowest": np.array(np.finfo(np.float32).min, np.float32),
    "causal": np.triu(np.full((4, 4), -1e4, np.float32), 1),
    "infinity": np.array(-np.inf, np.float32),
    "doubled": np.array([1, 1, 2, 2], np.float32),
}
IMAGE, ROWS = [None, 4, 2, 2], [None, 4]


def sites(nodes: list[onnx.NodeProto], outputs: list[str], shape: list[int | None]) -> dict[str, tuple[str, ...]]:
    """Site names and tensors of a graph with the inputs x and z, both of `shape`."""
    for number, node in enumerate(nodes):
        node.name = f"n{number}"
    read = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", *shape[1:]]) for n in ("x", "z") if n in read],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in WEIGHTS.items() if name in read],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=13)
    proto = onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    return {site.name: site.tensors for site in find_activations(from_proto(proto))}


def alone(*names: str) -> dict[str, tuple[str, ...]]:
    return {name: (name,) for name in names}


def node(op_type: str, inputs: str, output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs.split(), output.split(), **attributes)


@pytest.mark.parametrize("activation", ["Relu", "Clip"])
def test_what_lies_between_a_layer_and_its_relu_is_no_site(activation: str) -> None:
    bounds = " zero six" if activation == "Clip" else ""
    nodes = [
        node("Conv", "x conv", "c"),
        node(activation, "c" + bounds, "r"),
        node("Conv", "r conv", "d"),
        node("Add", "d x", "s"),
        node(activation, "s" + bounds, "y"),
    ]
    assert sites(nodes, ["y"], IMAGE) == alone("x", "r", "d", "y")


def test_a_relu_that_is_not_alone_is_not_folded() -> None:
    nodes = [node("Conv", "x conv", "c"), node("Relu", "c", "r"), node("Add", "c r", "y")]
    assert sites(nodes, ["y"], IMAGE) == alone("x", "c", "r", "y")
    assert sites(nodes[:2], ["r", "c"], IMAGE) == alone("x", "c")


def test_moved_values_go_with_what_they_are_moved_from() -> None:
    nodes = [
        node("Conv", "x conv", "c"),
        node("MaxPool", "c", "m", kernel_shape=[1, 1]),
        node("Pad", "m pads", "p"),
        helper.make_node("Resize", ["p", "", "doubled"], ["u"], mode="nearest"),
        node("Transpose", "u", "t", perm=[0, 1, 3, 2]),
        node("GlobalAveragePool", "t", "g"),
        node("Split", "g", "s1 s2", num_outputs=2, axis=1),
        node("Concat", "s1 s2", "y", axis=1),
    ]
    assert sites(nodes, ["y"], IMAGE) == {
        **alone("x"),
        "c": ("c", "m", "p", "u", "t"),
        "g": ("g", "s1", "s2"),
        **alone("y"),
    }


@pytest.mark.parametrize(
    "mover",
    [
        node("Pad", "c pads half", "m"),
        helper.make_node("Resize", ["c", "", "doubled"], ["m"], mode="linear"),
        node("ReduceMean", "c", "m"),
        node("Neg", "c", "m"),
    ],
)
def test_what_changes_values_is_no_mover(mover: onnx.NodeProto) -> None:
    assert sites([node("Conv", "x conv", "c"), mover], ["m"], IMAGE) == alone("x", "c")


def test_values_that_are_only_moved_into_a_kernel_are_quantized_before_the_move() -> None:
    nodes = [
        node("MatMul", "x square", "h"),
        node("Transpose", "h", "t", perm=[1, 0]),
        node("MatMul", "t square", "y"),
    ]
    assert sites(nodes, ["y"], [None, 4]) == {"x": ("x",), "h": ("h", "t")}
    # somebody else reads h too, who may want it as it is
    assert sites([*nodes, node("Softmax", "h", "p")], ["y", "p"], [None, 4]) == {"x": ("x",), "t": ("t",)}


def test_outputs_of_gemm_and_matmul_may_stay_float() -> None:
    nodes = [node("Reshape", "x flat", "f"), node("Gemm", "f gemm", "g"), node("Softmax", "g", "y")]
    assert sites(nodes, ["y"], IMAGE) == {"x": ("x", "f")}
    assert sites([node("MatMul", "x matmul", "h"), node("Add", "h five", "y")], ["y"], ROWS) == alone("x")


def test_constants_integers_and_shapes_are_no_sites() -> None:
    nodes = [
        node("Mul", "x half", "h"),
        node("Shape", "h", "shape"),
        node("Gather", "shape first", "n"),
        node("ArgMax", "h", "index"),
        node("MatMul", "square square", "k"),
        node("Add", "k square", "k2"),
        node("Identity", "k2", "y"),
    ]
    assert sites(nodes, ["index", "n", "y"], ROWS) == {}


def test_products_of_values_need_both_and_a_weight_on_the_left_has_no_kernel() -> None:
    nodes = [node("Transpose", "z", "t", perm=[1, 0]), node("MatMul", "x t", "y")]
    assert sites(nodes, ["y"], ROWS) == {"x": ("x",), "z": ("z", "t")}
    assert sites([nodes[0], node("MatMul", "square t", "y")], ["y"], [None, 4]) == {}
    assert sites([node("ConvTranspose", "x conv", "y")], ["y"], IMAGE) == {}


def test_elements_count_one_sample() -> None:
    nodes = [node("Conv", "x conv", "c"), node("MaxPool", "c", "y", kernel_shape=[2, 2])]
    nodes[0].name, nodes[1].name = "a", "b"
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4, 5, 5])],
        [numpy_helper.from_array(WEIGHTS["conv"], "conv")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=13)
    assert [(site.name, site.elements) for site in find_activations(from_proto(proto))] == [("x", 144), ("c", 144)]


def test_a_branch_reads_values_of_the_graph_around_it() -> None:
    """The Relu is not the only reader: a branch of the If reads the convolution's output too."""
    branch = [
        helper.make_graph([node("Neg", "c", f"b{i}")], f"g{i}", [], [onnx.ValueInfoProto(name=f"b{i}")]) for i in (0, 1)
    ]
    nodes = [
        node("Conv", "x conv", "c"),
        node("Relu", "c", "r"),
        node("ReduceSum", "r", "s", keepdims=0),
        node("Greater", "s zero", "p"),
        node("If", "p", "y", then_branch=branch[0], else_branch=branch[1]),
    ]
    assert sites(nodes, ["y"], IMAGE) == alone("x", "c")


def scores(*joined: onnx.NodeProto) -> list[onnx.NodeProto]:
    """q and k, their products s, what is `joined` with these to m, and its Softmax p times v."""
    made = [node("MatMul", "x square", "q"), node("Transpose", "q", "k", perm=[1, 0]), node("MatMul", "q k", "s")]
    return [*made, *joined, node("Softmax", "m", "p"), node("MatMul", "p q", "y")]


@pytest.mark.parametrize(
    ("joined", "wanted"),
    [
        ([node("Add", "s q", "m")], {"s", "m"}),  # what layers make is no mask
        ([node("Add", "s causal", "m")], set()),
        ([node("Where", "c s lowest", "m")], set()),
        ([node("Add", "s z", "m")], set()),  # a mask that the network is given
        ([node("Mul", "z lowest", "mask"), node("Add", "s mask", "m")], set()),
        ([node("Add", "s causal", "t"), node("Add", "t q", "m")], set()),
    ],
)
def test_scores_with_a_mask_stay_float_up_to_their_softmax(joined: list[onnx.NodeProto], wanted: set[str]) -> None:
    before = [node("Not", "b", "c")] if joined[0].op_type == "Where" else []
    before = [node("IsInf", "x", "b"), *before] if before else []
    assert sites([*before, *scores(*joined)], ["y"], [4, 4]).keys() - {"x", "q", "p"} == wanted


def test_a_residual_before_a_softmax_takes_no_input_from_a_layer() -> None:
    nodes = [node("MatMul", "x square", "h"), node("Add", "h x", "m"), node("Softmax", "m", "y")]
    assert sites(nodes, ["y"], ROWS) == alone("x")


def test_what_may_become_nan_stays_float_where_the_network_looks_for_it() -> None:
    nodes = scores(node("Where", "c s infinity", "m"))
    nodes = [node("IsInf", "x", "b"), node("Not", "b", "c"), *nodes[:-1], node("MatMul", "p q", "o")]
    looking = [node("IsNaN", "o", "n"), node("Where", "n zero o", "r"), node("MatMul", "r square", "y")]
    assert sites([*nodes, *looking], ["y"], [4, 4]).keys() & {"s", "m", "p", "o", "r"} == {"r"}
    assert "p" in sites([*nodes, node("MatMul", "o square", "y")], ["y"], [4, 4])
