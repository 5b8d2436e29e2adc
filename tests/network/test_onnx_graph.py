"""Walks over graphs within graphs, and what a node reads from outside."""

from __future__ import annotations

from onnx import TensorProto, helper

from network.onnx_graph import graphs, label, names_read, nodes, opset_of, shape_of
from tests.network.models import linear, value

node = helper.make_node
INNERMOST = helper.make_graph(
    [node("Add", ["own", "far"], ["sum"], name="add")],
    "innermost",
    [],
    [value("sum", None), value("far", None)],
    [helper.make_tensor("own", TensorProto.FLOAT, [1], [1.0])],
)
INNER = helper.make_graph(
    [node("Relu", ["near"], ["made"], name="relu"), node("If", ["made"], ["y"], name="if", then_branch=INNERMOST)],
    "inner",
    [],
    [value("y", None)],
)
OUTER = node("Loop", ["trips", "", "start"], ["end"], name="loop", body=INNER)


def test_walks_see_every_graph_and_every_node_once() -> None:
    graph = helper.make_graph([OUTER, node("Relu", ["end"], ["z"], name="last")], "outer", [], [])
    assert [inner.name for inner in graphs(graph)] == ["outer", "inner", "innermost"]
    assert [label(inner) for inner in nodes(graph)] == ["loop", "relu", "if", "add", "last"]


def test_a_node_reads_what_its_graphs_take_from_outside_as_often_as_they_do() -> None:
    assert list(names_read(OUTER)) == ["trips", "start", "near", "far", "far"]


def test_a_node_without_a_name_is_called_like_its_first_output() -> None:
    assert label(node("Split", ["x"], ["", "second"])) == "second"


def test_a_shape_says_which_axes_are_known() -> None:
    assert shape_of(value("x", ["N", 3, -1, 0])) == (None, 3, None, 0)
    assert shape_of(value("x", None)) is None


def test_the_standard_operator_set_has_two_spellings() -> None:
    model = linear()
    assert opset_of(model) == 18
    model.opset_import[0].domain = "ai.onnx"
    assert opset_of(model) == 18
    del model.opset_import[:]
    assert opset_of(model) == 0
