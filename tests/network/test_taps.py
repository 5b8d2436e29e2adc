"""Tapped values are those of ONNX Runtime's own run, streamed, and nothing runs that no tap needs."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from network.graph import Network
from network.normalise import from_proto
from network.taps import Taps, output_name

RNG = np.random.default_rng(0)


def network() -> Network:
    """Two inputs, a branch whose graphs read a value from outside, and an integer output."""
    branches = [
        helper.make_graph(
            [helper.make_node(op, ["h"], [f"{op}_out"])],
            op,
            [],
            [helper.make_tensor_value_info(f"{op}_out", TensorProto.FLOAT, None)],
        )
        for op in ("Neg", "Exp")
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
        helper.make_node("Greater", ["switch", "zero"], ["positive"], name="greater"),
        helper.make_node("If", ["positive"], ["b"], then_branch=branches[0], else_branch=branches[1], name="if"),
        helper.make_node("MatMul", ["b", "v"], ["y"], name="second"),
        helper.make_node("ArgMax", ["y"], ["index"], axis=-1, name="arg"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4]),
            helper.make_tensor_value_info("switch", TensorProto.FLOAT, [1]),
        ],
        [helper.make_tensor_value_info("index", TensorProto.INT64, None)],
        [
            numpy_helper.from_array(RNG.standard_normal((4, 5)).astype(np.float32), "w"),
            numpy_helper.from_array(RNG.standard_normal((5, 3)).astype(np.float32), "v"),
            numpy_helper.from_array(np.float32(0), "zero"),
        ],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=13)
    return from_proto(onnx.shape_inference.infer_shapes(proto))


def expected(
    model: onnx.ModelProto, names: list[str], inputs: dict[str, NDArray[np.float32]]
) -> list[NDArray[np.generic]]:
    extended = onnx.ModelProto()
    extended.CopyFrom(model)
    del extended.graph.output[:]
    extended.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(extended.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(names, inputs))


@pytest.mark.parametrize("switch", [1.0, -1.0])
def test_values_are_those_of_the_run_in_the_order_named(switch: float) -> None:
    net = network()
    inputs = {"x": RNG.standard_normal((6, 4)).astype(np.float32), "switch": np.full(1, switch, np.float32)}
    names = ["index", "h", "b", "y"]
    seen: list[tuple[str, NDArray[np.generic]]] = []
    taps = Taps(net, [*names, "x", "h"], threads=1)
    taps.run(inputs, lambda name, values: seen.append((name, values)))
    assert [name for name, _ in seen] == [*names, "x"]
    for (_, values), reference in zip(seen, expected(net.proto, names, inputs), strict=False):
        np.testing.assert_allclose(values, reference, rtol=1e-6)
    assert seen[-1][1] is inputs["x"]


def test_what_no_tap_needs_does_not_run() -> None:
    """`h` needs neither the switch nor what comes behind it: an input of the wrong shape for those is not looked at."""
    seen: list[str] = []
    taps = Taps(network(), ["h"], threads=1)
    taps.run({"x": np.zeros((2, 4), np.float32)}, lambda name, _: seen.append(name))
    assert seen == ["h"]


def test_inputs_alone_need_no_run() -> None:
    seen: list[str] = []
    Taps(network(), ["x"], threads=1).run({"x": np.zeros((2, 9), np.float32)}, lambda name, _: seen.append(name))
    assert seen == ["x"]


@pytest.mark.parametrize(("names", "message"), [(["w"], "got 'w'"), (["h", "nothing"], "got 'nothing'"), ([], "none")])
def test_refuses_what_is_no_value_of_the_graph(names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Taps(network(), names, threads=1)


def test_an_output_that_a_node_leaves_out_is_shown_all_the_same() -> None:
    node = helper.make_node("RNN", ["x", "w", "r"], ["", "last"], name="cell", hidden_size=3)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [6, "N", 2])],
        [helper.make_tensor_value_info("last", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(RNG.standard_normal((1, 3, width)).astype(np.float32), name)
            for name, width in (("w", 2), ("r", 3))
        ],
    )
    of = from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=13))
    assert output_name(node, 1) == "last"
    inputs = {"x": RNG.standard_normal((6, 4, 2)).astype(np.float32)}
    found: dict[str, NDArray[np.generic]] = {}
    Taps(of, [output_name(node, 0), "last"], 1).run(inputs, lambda name, values: found.update({name: values}))
    assert found[output_name(node, 0)].shape == (6, 1, 4, 3)
    np.testing.assert_array_equal(found[output_name(node, 0)][-1], found["last"])
    assert list(of.proto.graph.node[0].output) == ["", "last"]  # the network is not changed
