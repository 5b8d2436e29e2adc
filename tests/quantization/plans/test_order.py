from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from network.graph import Network
from network.normalise import normalise
from quantization.plans.order import stages

MakeNetwork = Callable[..., Network]


def test_layers_whose_inputs_exist_go_together(make_network: MakeNetwork) -> None:
    """Query and key; then what reads their product together with a late reader of the input."""
    square = np.eye(4, dtype=np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w_q"], ["q"], name="query"),
        helper.make_node("MatMul", ["x", "w_k"], ["k"], name="key"),
        helper.make_node("Mul", ["q", "k"], ["m"]),
        helper.make_node("MatMul", ["m", "w_o"], ["o"], name="out"),
        helper.make_node("MatMul", ["x", "w_late"], ["l"], name="late"),
        helper.make_node("MatMul", ["o", "w_q"], ["o2"], name="again"),
        helper.make_node("Add", ["o2", "l"], ["y"]),
    ]
    weights = dict.fromkeys(("w_q", "w_k", "w_o", "w_late"), square)
    network = make_network(nodes, {"x": np.ones((2, 4), np.float32)}, weights)

    def names(*wanted: str) -> list[tuple[int, list[str]]]:
        return [(stage.cut, [use.layer.name for use in stage.uses]) for stage in stages(network, wanted)]

    assert names(*weights) == [(0, ["query", "key", "late"]), (3, ["out"]), (5, ["again"])]
    assert names("w_o") == [(3, ["out"])]
    assert names() == []


def test_what_has_no_inputs_before_its_node_is_left_out() -> None:
    """An embedding, and the matrix of a recurrent node that meets the node's own states."""
    new = np.random.default_rng(0).standard_normal
    tensors = {"table": new((5, 3)), "input": new((1, 4, 3)), "back": new((1, 4, 4))}
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "ids"], ["e"], name="gather"),
            helper.make_node("Transpose", ["e"], ["t"], perm=[1, 0, 2], name="turn"),
            helper.make_node("RNN", ["t", "input", "back"], ["y"], hidden_size=4, name="rnn"),
        ],
        "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(values.astype(np.float32), name) for name, values in tensors.items()],
    )
    network = normalise(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), {"ids": (6,)})
    assert {site.weight for site in network.sites} == set(tensors)
    assert [use.site.weight for stage in stages(network, tensors) for use in stage.uses] == ["input"]
