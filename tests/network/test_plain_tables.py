"""Large constants that no layer multiplies are sites, along the right axis, unless something needs all their digits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from network.graph import Network
from network.normalise import dump, load, normalise
from network.plain_tables import NoTable, PlainTables, TableUse
from network.sites import readers_of

RNG = np.random.default_rng(3)
LENGTH, WIDTH = 40, 32
node = helper.make_node
READ = [
    node("MatMul", ["x", "W"], ["h"]),
    node("Shape", ["x"], ["lengths"], start=1, end=2),
    node("ReduceL1", ["h"], ["total"], keepdims=0),
]


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.normal(size=shape).astype(np.float32)


def made(nodes: Sequence[onnx.NodeProto], free: bool = False, **constants: Any) -> onnx.ModelProto:
    """x [N, LENGTH, WIDTH] -> h = x W, which `nodes` make y of."""
    graph = helper.make_graph(
        [*READ, *nodes],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "L" if free else LENGTH, WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in ({"W": floats(WIDTH, WIDTH)} | constants).items()],
    )
    domains = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=8)


def normalised(nodes: Sequence[onnx.NodeProto], **constants: Any) -> Network:
    """The network, of which `x` has any length."""
    return normalise(made(nodes, True, **constants), {"x": (LENGTH, WIDTH)})


def tables(network: Network) -> dict[str, Any]:
    return {site.name: site.channel_axis for site in network.sites if site.is_table}


READERS = {
    "added": ([node("Add", ["h", "P"], ["y"])], (1, LENGTH, WIDTH)),
    "sliced": (
        [node("Slice", ["P", "zero", "lengths", "axes"], ["p"]), node("Add", ["h", "p"], ["y"])],
        (1, 90, WIDTH),
    ),
    "multiplied": ([node("Mul", ["P", "h"], ["y"])], (LENGTH, WIDTH)),
    "chosen": (
        [node("Greater", ["h", "half"], ["c"]), node("Where", ["c", "h", "P"], ["y"])],
        (1, LENGTH, WIDTH),
    ),
    "joined": (
        [
            node("Shape", ["x"], ["samples"], end=1),
            node("Concat", ["samples", "ones"], ["shape"], axis=0),
            node("Expand", ["P", "shape"], ["p"]),
            node("Concat", ["p", "h"], ["y"], axis=1),
        ],
        (1, LENGTH, WIDTH),
    ),
    "scaled and multiplied": (
        [
            node("ReduceL2", ["P"], ["norm"], keepdims=1),
            node("Add", ["norm", "total"], ["some"]),
            node("Div", ["P", "some"], ["w"]),
            node("MatMul", ["h", "w"], ["y"]),
        ],
        (WIDTH, 64),
    ),
}
CONSTANTS = {
    "zero": np.array([0]),
    "axes": np.array([1]),
    "half": np.float32(0.5),
    "flat": np.array([-1]),
    "ones": np.array([1, 1]),
}


@pytest.mark.parametrize("name", READERS)
def test_a_table_is_a_site_without_products(name: str) -> None:
    nodes, shape = READERS[name]
    network = normalised(nodes, P=floats(*shape), **CONSTANTS)
    site = next(site for site in network.sites if site.name == "P")
    assert (site.is_table, site.macs, site.outer_layers, site.is_inner) == (True, 0, (), False)
    assert [layer.name for layer in network.layers()].count(site.layers[0].name) == 0
    again = load(dump(network), 18)
    assert [(own.name, own.channel_axis) for own in again.sites] == [(o.name, o.channel_axis) for o in network.sites]


def test_a_part_that_is_cut_out_in_each_run_and_multiplied_counts_as_a_weight_does() -> None:
    """Exporters cut a packed weight at bounds that they compute from shapes."""
    nodes = [
        node("Shape", ["h"], ["length"], start=1, end=2),
        node("Slice", ["P", "zero", "length", "axes"], ["cut"]),
        node("MatMul", ["h", "cut"], ["y"]),
    ]
    network = normalised(nodes, P=floats(WIDTH, LENGTH), **CONSTANTS)
    site = next(site for site in network.sites if site.name == "P")
    assert (site.is_table, site.macs, site.macs_known) == (True, LENGTH * WIDTH * LENGTH, True)


def test_sites_stand_in_the_order_of_their_first_use() -> None:
    nodes = [node("Add", ["h", "P"], ["s"]), node("MatMul", ["s", "V"], ["y"])]
    network = normalised(nodes, P=floats(1, LENGTH, WIDTH), V=floats(WIDTH, 4))
    assert [site.name for site in network.sites] == ["W", "P", "V"]


@pytest.mark.parametrize(
    ("nodes", "shape", "axis"),
    [
        # rows that are cut out have scales of their own, however many they are
        ([node("Slice", ["P", "zero", "lengths", "axes"], ["p"])], (1, 48, 2000), 1),
        ([node("Identity", ["P"], ["p"])], (1, 80, 2000), 2),
        ([node("Identity", ["P"], ["p"])], (300, 16), 1),  # sixteen weights do not pay for a scale
        ([node("Slice", ["P", "zero", "lengths", "first"], ["p"])], (300, 16), 0),
        ([node("Identity", ["P"], ["p"])], (1, 128, 16, 16), 1),
        ([node("Identity", ["P"], ["p"])], (1, 3, 1200), 1),
    ],
)
def test_the_axis_of_scales(nodes: list[onnx.NodeProto], shape: tuple[int, ...], axis: int) -> None:
    tensor = numpy_helper.from_array(floats(*shape), "P")
    given = [numpy_helper.from_array(own, name) for name, own in {**CONSTANTS, "first": np.array([0])}.items()]
    graph = helper.make_graph([*nodes, node("Add", ["x", "p"], ["y"])], "g", [], [], [tensor, *given])
    use = PlainTables(graph, readers_of(graph)).look_at(tensor)
    assert isinstance(use, TableUse)
    assert use.channel_axis == axis


ADD = [node("Add", ["h", "P"], ["y"])]
CAUSAL = np.triu(np.full((LENGTH, WIDTH), -1e9, np.float32)) + floats(LENGTH, WIDTH)
WITH_INFINITY = np.where(CAUSAL < -1, -np.inf, CAUSAL).astype(np.float32)
KEPT = {
    "is an output": ([node("Reshape", ["P", "flat"], ["y"])], floats(LENGTH, WIDTH)),
    "a mask": (ADD, CAUSAL),
    "only zeros and ones": (ADD, np.tril(np.ones((LENGTH, WIDTH), np.float32))),
    "not finite": (ADD, WITH_INFINITY),
    "divides": ([node("Div", ["h", "P"], ["y"])], floats(LENGTH, WIDTH)),
    "is compared": (
        [node("Less", ["h", "P"], ["c"]), node("Cast", ["c"], ["y"], to=TensorProto.FLOAT)],
        floats(LENGTH, WIDTH),
    ),
    "is an exponent": ([node("Exp", ["h"], ["e"]), node("Pow", ["e", "P"], ["y"])], floats(LENGTH, WIDTH)),
    "divides once cut": (
        [node("Slice", ["P", "zero", "lengths", "zero"], ["p"]), node("Div", ["h", "p"], ["y"])],
        floats(90, WIDTH),
    ),
    "few": (ADD, floats(31, 32)[:1]),
    "a vector": (ADD, floats(1, WIDTH)),
    "a wide vector": ([node("MatMul", ["h", "V"], ["v"]), node("Add", ["v", "P"], ["y"])], floats(1, 2048)),
    "a share of nothing": (
        [
            node("MatMul", ["h", "V"], ["v"]),
            node("Slice", ["P", "zero", "lengths", "zero"], ["p"]),
            node("Add", ["h", "p"], ["a"]),
            node("MatMul", ["a", "V"], ["b"]),
            node("Add", ["v", "b"], ["y"]),
        ],
        floats(LENGTH, WIDTH),
    ),
    "of an operator that is not ONNX's": (
        [node("BiasGelu", ["h", "P"], ["y"], domain="com.microsoft")],
        floats(64, 32),
    ),
}
REASONS = {
    "is an output": "an output of the network",
    "a mask": "a mask",
    "only zeros and ones": "a mask",
    "not finite": "not finite: it holds infinities or NaN",
    "divides": "read by Div, which takes no rounded values",
    "is compared": "read by Less, which takes no rounded values",
    "is an exponent": "read by Pow, which takes no rounded values",
    "divides once cut": "read by Div, which takes no rounded values",
    "few": "too small to pay: biases, norms and other small constants",
    "a vector": "too small to pay: biases, norms and other small constants",
    "a wide vector": "too small to pay: biases, norms and other small constants",
    "a share of nothing": "less than 1% of the weights",
    "of an operator that is not ONNX's": "read by com.microsoft.BiasGelu, which has no format here",
}


@pytest.mark.parametrize("name", KEPT)
def test_what_is_no_table_says_why(name: str) -> None:
    nodes, values = KEPT[name]
    wide = 2048 if name == "a wide vector" else 4096
    model = made(nodes, True, P=values, V=floats(WIDTH, wide), **CONSTANTS)
    graph = model.graph
    tensor = next(own for own in graph.initializer if own.name == "P")
    use = PlainTables(graph, readers_of(graph)).look_at(tensor)
    assert use == NoTable(REASONS[name], is_small=name in ("few", "a vector", "a wide vector"))
    if name not in ("of an operator that is not ONNX's", "is an output"):  # which have no layer left, or no rule
        assert not tables(normalise(model, {"x": (LENGTH, WIDTH)}))


def test_scales_of_codes_are_no_table() -> None:
    nodes = [node("DequantizeLinear", ["codes", "P"], ["w"], axis=0), node("MatMul", ["h", "w"], ["y"])]
    graph = made(nodes, P=floats(64, 32), codes=np.zeros((64, 32), np.int8)).graph
    tensor = next(own for own in graph.initializer if own.name == "P")
    use = PlainTables(graph, readers_of(graph)).look_at(tensor)
    assert use == NoTable("already quantized: read by DequantizeLinear")


def test_a_table_that_a_body_reads_is_one() -> None:
    body = helper.make_graph(
        [node("Add", ["h", "P"], ["inside"])],
        "then",
        [],
        [helper.make_tensor_value_info("inside", TensorProto.FLOAT, None)],
    )
    other = helper.make_graph(
        [node("Identity", ["h"], ["plain"])],
        "else",
        [],
        [helper.make_tensor_value_info("plain", TensorProto.FLOAT, None)],
    )
    nodes = [
        node("Greater", ["total", "half"], ["c"]),
        node("If", ["c"], ["y"], then_branch=body, else_branch=other),
    ]
    network = normalised(nodes, P=floats(LENGTH, WIDTH), **CONSTANTS)
    site = next(site for site in network.sites if site.name == "P")
    assert (site.is_inner, site.is_table) == (True, True)
