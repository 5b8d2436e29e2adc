"""What a file leaves free is proved at other lengths than that of the samples, as far as the file itself takes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from network import folding, normalise
from network.admission import AdmissionLimits, admit
from network.batching import Batching
from network.faithful import faithful, undone
from network.folding import Folding
from network.interface import free_axes
from network.lengths import MOST_ELEMENTS, at_other_lengths
from network.proof import Feed, Reference

node = helper.make_node
W = np.random.default_rng(4).normal(size=(3, 2)).astype(np.float32)
X = {"x": np.random.default_rng(5).normal(size=(4, 6, 3)).astype(np.float32)}


def made(nodes: list[onnx.NodeProto], shape: tuple[Any, ...] = ("N", "T", 3), y: Any = None, **constants: Any) -> bytes:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in {"W": W, **constants}.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return bytes(model.SerializeToString())


MEAN = [
    node("MatMul", ["x", "W"], ["h"], "layer"),
    node("Shape", ["h"], ["all"], "shape", start=1, end=2),
    node("Cast", ["all"], ["length"], "cast", to=TensorProto.FLOAT),
    node("ReduceSum", ["h", "axis"], ["s"], "sum", keepdims=0),
    node("Div", ["s", "length"], ["y"], "mean"),
]
AXIS = np.array([1])


def reference(model: bytes) -> Reference:
    """On the first sample, and at other lengths."""
    first = Feed("the first sample", {"x": X["x"][:1]})
    inputs = onnx.ModelProto.FromString(model).graph.input
    return Reference(model, [first, *at_other_lengths(first, free_axes(inputs, Batching()))], 1)


def test_a_length_that_became_a_number_is_told() -> None:
    free = made(MEAN, axis=AXIS)
    frozen = made([*MEAN[:1], *MEAN[3:]], axis=AXIS, length=np.array([6], np.float32))
    assert reference(free).difference(free) is None
    said = reference(free).difference(frozen)
    assert said is not None
    assert said.endswith("on the first sample at twice its lengths")
    only = Reference(free, [Feed("the first sample", {"x": X["x"][:1]})], 1)
    assert only.difference(frozen) is None  # what a proof at one length sees


def test_a_shape_that_became_constant_is_told() -> None:
    layer = node("MatMul", ["x", "W"], ["h"])
    free = made([layer, node("Reshape", ["h", "to"], ["y"])], to=np.array([0, -1]))
    frozen = made([layer, node("Reshape", ["h", "to"], ["y"])], to=np.array([-1, 12]))
    said = reference(free).difference(frozen)
    assert said is not None
    assert said.endswith("has the shape [2, 12] in place of [1, 24] on the first sample at twice its lengths")


def test_lengths_that_the_file_itself_fails_on_are_left_out() -> None:
    table = made([node("Add", ["x", "places"], ["h"]), node("MatMul", ["h", "W"], ["y"])], places=np.ones((6, 3), "f4"))
    assert [feed.name for feed in reference(table).feeds] == ["the first sample"]
    assert reference(table).difference(table) is None


def test_a_fixed_axis_keeps_its_length() -> None:
    assert free_axes(onnx.ModelProto.FromString(made(MEAN, ("N", 6, 3), axis=AXIS)).graph.input, Batching()) == {
        "x": {}
    }
    assert at_other_lengths(Feed("a sample", {"x": X["x"]}), {"x": {}}) == []


def test_lengths_change_together_and_one_by_one() -> None:
    ids, cache, mask = np.array([[5, 7, 9]]), np.zeros((1, 2, 0, 4), np.float32), np.ones((1, 3), np.int64)
    free = {"ids": {1: "tokens"}, "cache": {2: "past"}, "mask": {1: "past + tokens"}}
    feeds = at_other_lengths(Feed("a sample", {"ids": ids, "cache": cache, "mask": mask}), free)
    assert all(feed.edge for feed in feeds)
    lengths = {f.name: tuple(f.arrays[n].shape[a] for n, a in (("ids", 1), ("cache", 2), ("mask", 1))) for f in feeds}
    assert lengths == {
        "a sample at twice its lengths": (6, 0, 6),
        "a sample at half its lengths": (2, 0, 2),
        "a sample at twice the length 'tokens'": (6, 0, 3),
        "a sample at twice the length 'past'": (3, 2, 3),
        "a sample at twice the length 'past + tokens'": (3, 0, 6),
    }
    assert feeds[0].arrays["ids"].tolist() == [[5, 7, 9, 5, 7, 9]]
    assert feeds[1].arrays["ids"].tolist() == [[5, 7]]
    assert feeds[3].arrays["cache"].dtype == np.float32


def test_large_samples_get_no_longer() -> None:
    large = Feed("a sample", {"x": np.zeros((1, MOST_ELEMENTS // 2 + 1, 1), np.float32)})
    assert [feed.name for feed in at_other_lengths(large, {"x": {1: "T"}})] == ["a sample at half its lengths"]


def test_folding_that_freezes_a_length_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = folding.fold
    uploaded = made(MEAN, y=["N", 2], axis=AXIS)

    def brought() -> Any:
        return undone(faithful(uploaded, admit(uploaded, AdmissionLimits()), X, {"x": (6, 3)}))

    def freezing(graph: Any, how: Folding) -> None:
        shapes = [own for own in graph.graph if own.op_type == "Shape"]
        if how is not Folding.NOTHING and shapes:
            length = folding.ir.Value(name="frozen", const_value=folding.ir.tensor(np.array([6])))
            graph.graph.initializers["frozen"] = length
            shapes[0].outputs[0].replace_all_uses_with(length)
        whole(graph, how)

    assert brought() is None
    monkeypatch.setattr(normalise, "fold", freezing)
    said = brought()
    assert said.folding is Folding.NOTHING
    assert said.why.endswith("on the first sample at twice its lengths")
