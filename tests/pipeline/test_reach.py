"""Which weights and activations any measured output depends on."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from network.graph import Network
from network.normalise import from_proto
from pipeline.reach import measured_outputs, measured_values, planned_activations, unmeasured_sites

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def network_of(outputs: dict[str, int]) -> Network:
    """A trunk `t` with heads: `scores` and `boxes` of floats, `choice` an ArgMax of a layer of its own."""
    nodes = [
        helper.make_node("MatMul", ["x", "trunk"], ["h"], name="trunk"),
        helper.make_node("Relu", ["h"], ["t"], name="relu"),
        helper.make_node("MatMul", ["t", "head"], ["scores"], name="head"),
        helper.make_node("MatMul", ["t", "box"], ["b"], name="box"),
        helper.make_node("Relu", ["b"], ["boxes"], name="positive"),
        helper.make_node("MatMul", ["t", "choose"], ["votes"], name="choose"),
        helper.make_node("ArgMax", ["votes"], ["choice"], axis=1, keepdims=0, name="argmax"),
    ]
    rng = np.random.default_rng(0)
    return from_proto(
        helper.make_model(
            helper.make_graph(
                nodes,
                "heads",
                [helper.make_tensor_value_info("x", FLOAT, ["N", 4])],
                [helper.make_tensor_value_info(n, t, ["N"] if t == INT64 else ["N", 4]) for n, t in outputs.items()],
                [
                    numpy_helper.from_array(rng.normal(size=(4, 4)).astype(np.float32), name)
                    for name in ("trunk", "head", "box", "choose")
                ],
            ),
            opset_imports=[helper.make_opsetid("", 18)],
            ir_version=8,
        )
    )


@pytest.fixture
def heads() -> Network:
    return network_of({"scores": FLOAT, "choice": INT64, "boxes": FLOAT})


def test_every_output_of_floats_counts(heads):
    assert measured_outputs(heads) == ("scores", "boxes")
    assert unmeasured_sites(heads) == {"choose"}
    assert {"trunk", "head", "box", "t", "x"} < measured_values(heads)
    assert not {"choose", "votes", "choice"} & measured_values(heads)


def test_only_the_outputs_that_are_named_count(heads):
    assert unmeasured_sites(heads, ["boxes"]) == {"head", "choose"}
    assert unmeasured_sites(heads, ["choice"]) == {"head", "box"}
    assert unmeasured_sites(heads, ["scores", "boxes", "choice"]) == frozenset()


def test_activations_are_planned_before_any_measured_output(heads):
    def tensors(*outputs: str) -> set[str]:
        return {name for site in planned_activations(heads, outputs or None) for name in site.tensors}

    assert "t" in tensors()
    assert tensors("choice") <= tensors()
    assert tensors("scores") <= tensors()


def test_where_no_output_is_of_floats_all_count():
    network = network_of({"choice": INT64})
    assert measured_outputs(network) == ("choice",)
    assert unmeasured_sites(network) == {"head", "box"}


def test_what_an_inner_graph_reads_by_name_is_reached():
    """A layer whose result only a branch of an If reads."""
    branch = helper.make_graph(
        [helper.make_node("Identity", ["h"], ["p"])], "then", [], [helper.make_tensor_value_info("p", FLOAT, None)]
    )
    other = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["q"])], "else", [], [helper.make_tensor_value_info("q", FLOAT, None)]
    )
    network = from_proto(
        helper.make_model(
            helper.make_graph(
                [
                    helper.make_node("MatMul", ["x", "w"], ["h"], name="w"),
                    helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0, name="sum"),
                    helper.make_node("Cast", ["sum"], ["yes"], to=TensorProto.BOOL, name="cast"),
                    helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=other, name="if"),
                ],
                "branches",
                [helper.make_tensor_value_info("x", FLOAT, ["N", 4])],
                [helper.make_tensor_value_info("y", FLOAT, ["N", 4])],
                [numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")],
            ),
            opset_imports=[helper.make_opsetid("", 18)],
            ir_version=8,
        )
    )
    assert [site.name for site in network.sites] == ["w"]
    assert unmeasured_sites(network) == frozenset()
