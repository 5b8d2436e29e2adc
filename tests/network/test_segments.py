"""Every network cut at every node gives what ONNX Runtime gives for the whole, whatever its operators are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from network.graph import Network
from network.normalise import from_proto
from network.onnx_graph import names_read
from network.segments import SegmentedNetwork

Array = NDArray[Any]
FLOAT = TensorProto.FLOAT
BATCH = 3


def build(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, tuple[int | str, ...]]],
    outputs: Mapping[str, int],
    initializers: Mapping[str, Array],
) -> Network:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in initializers.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=10))


def weights(rng: np.random.Generator, **shapes: tuple[int, ...]) -> dict[str, Array]:
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def recurrent(rng: np.random.Generator) -> tuple[Network, dict[str, Array]]:
    """Tokens, their embedding, an LSTM whose initial state is left out, the last hidden state, a linear layer."""
    network = build(
        [
            helper.make_node("Gather", ["table", "tokens"], ["embedded"]),
            helper.make_node("Transpose", ["embedded"], ["by_time"], perm=[1, 0, 2]),
            helper.make_node("LSTM", ["by_time", "W", "R", "B"], ["", "last", ""], hidden_size=3),
            helper.make_node("Squeeze", ["last", "zero"], ["state"]),
            helper.make_node("MatMul", ["state", "out"], ["y"]),
        ],
        {"tokens": (TensorProto.INT64, ("N", 5))},
        {"y": FLOAT},
        weights(rng, table=(7, 4), W=(1, 12, 4), R=(1, 12, 3), B=(1, 24), out=(3, 2)) | {"zero": np.array([0])},
    )
    return network, {"tokens": rng.integers(7, size=(BATCH, 5))}


def branching(rng: np.random.Generator) -> tuple[Network, dict[str, Array]]:
    """An If whose branches take `h`, made early, and the weight `inner` from outside; one of them holds a second If."""

    def value(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, FLOAT, None)

    double = helper.make_graph([helper.make_node("Add", ["h", "h"], ["twice"])], "double", [], [value("twice")])
    once = helper.make_graph([helper.make_node("Identity", ["h"], ["same"])], "once", [], [value("same")])
    then_branch = helper.make_graph([helper.make_node("MatMul", ["h", "inner"], ["p"])], "then", [], [value("p")])
    else_branch = helper.make_graph(
        [helper.make_node("If", ["always"], ["q"], then_branch=double, else_branch=once)], "else", [], [value("q")]
    )
    network = build(
        [
            helper.make_node("MatMul", ["x", "first"], ["h"]),
            helper.make_node("Tanh", ["h"], ["t"]),
            helper.make_node("ReduceMax", ["t"], ["largest"], keepdims=0),
            helper.make_node("Less", ["largest", "limit"], ["small"]),
            helper.make_node("If", ["small"], ["chosen"], then_branch=then_branch, else_branch=else_branch),
            helper.make_node("Mul", ["chosen", "t"], ["y"]),
        ],
        {"x": (FLOAT, ("N", 4))},
        {"y": FLOAT},
        {**weights(rng, first=(4, 4), inner=(4, 4)), "limit": np.float32(2), "always": np.array(True)},
    )
    return network, {"x": rng.normal(size=(BATCH, 4)).astype(np.float32)}


def looping(rng: np.random.Generator) -> tuple[Network, dict[str, Array]]:
    """Three rounds of a Loop that reads the outer `scale` and the weight `step`; a Scan behind it."""
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state_in", "step"], ["moved"]),
            helper.make_node("Mul", ["moved", "scale"], ["state_out"]),
            helper.make_node("Identity", ["go_in"], ["go_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state_in", FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state_out", FLOAT, None),
        ],
    )
    sums = helper.make_graph(
        [helper.make_node("Add", ["sum_in", "row"], ["sum_out"]), helper.make_node("Mul", ["sum_out", "s"], ["scan"])],
        "sums",
        [helper.make_tensor_value_info("sum_in", FLOAT, [4]), helper.make_tensor_value_info("row", FLOAT, [4])],
        [helper.make_tensor_value_info("sum_out", FLOAT, [4]), helper.make_tensor_value_info("scan", FLOAT, [4])],
    )
    network = build(
        [
            helper.make_node("Tanh", ["x"], ["scale"]),
            helper.make_node("Loop", ["rounds", "", "x"], ["walked"], body=body),
            helper.make_node("ReduceMean", ["scale"], ["s"], keepdims=0),
            helper.make_node("Scan", ["start", "walked"], ["final", "y"], body=sums, num_scan_inputs=1),
        ],
        {"x": (FLOAT, ("N", 4))},
        {"y": FLOAT},
        {**weights(rng, step=(4, 4), start=(4,)), "rounds": np.array(3)},
    )
    return network, {"x": rng.normal(size=(BATCH, 4)).astype(np.float32)}


def odd_outputs(rng: np.random.Generator) -> tuple[Network, dict[str, Array]]:
    """Returns a value made early, a graph input, and an initializer; keeps a list of tensors; an operator of ONNX
    Runtime whose result onnx cannot type."""
    network = build(
        [
            helper.make_node("MatMul", ["x", "a"], ["early"]),
            helper.make_node("SequenceConstruct", ["early", "x"], ["list"]),
            helper.make_node("FastGelu", ["early"], ["g"], domain="com.microsoft"),
            helper.make_node("ConcatFromSequence", ["list"], ["joined"], axis=1),
            helper.make_node("MatMul", ["g", "a"], ["late"]),
            helper.make_node("Concat", ["joined", "late", "mask"], ["y"], axis=1),
        ],
        {"x": (FLOAT, ("N", 4)), "mask": (FLOAT, ("N", 2))},
        {"y": FLOAT, "early": FLOAT, "x": FLOAT, "a": FLOAT},
        weights(rng, a=(4, 4)),
    )
    return network, {name: rng.normal(size=(BATCH, n)).astype(np.float32) for name, n in (("x", 4), ("mask", 2))}


NETWORKS = [recurrent, branching, looping, odd_outputs]


def whole(proto: onnx.ModelProto, inputs: Mapping[str, Array]) -> list[Array]:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, dict(inputs))


def same(found: Mapping[str, Array], expected: Sequence[Array]) -> None:
    for one, other in zip(found.values(), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", NETWORKS)
def test_two_parts_make_the_whole_wherever_the_cut_is(make, rng):
    network, inputs = make(rng)
    segments = SegmentedNetwork(network, 1)
    expected = whole(network.proto, inputs)
    for cut in range(len(network.proto.graph.node) + 1):
        live = segments.between(0, cut).run(inputs)
        assert list(live) == segments.live_values(cut)
        found = segments.after(cut).run(live)
        assert list(found) == [spec.name for spec in network.outputs]
        same(found, expected)


@pytest.mark.parametrize("make", NETWORKS)
def test_one_node_at_a_time_makes_the_whole(make, rng):
    network, inputs = make(rng)
    segments = SegmentedNetwork(network, 1)
    live = inputs
    for cut in range(len(network.proto.graph.node)):
        live = segments.between(cut, cut + 1).run(live)
    same(segments.after(len(network.proto.graph.node)).run(live), whole(network.proto, inputs))


@pytest.mark.parametrize("make", NETWORKS)
def test_every_weight_can_be_fed_from_its_first_use_on(make, rng):
    network, inputs = make(rng)
    segments = SegmentedNetwork(network, 1)
    floats = [name for name, tensor in network.initializers.items() if tensor.data_type == FLOAT]
    for name in floats:
        cut = segments.first_use(name)
        live = segments.between(0, cut).run(inputs)
        changed = onnx.ModelProto()
        changed.CopyFrom(network.proto)
        tensor = next(t for t in changed.graph.initializer if t.name == name)
        value = np.asarray(1.5 * numpy_helper.to_array(tensor), dtype=np.float32)
        tensor.CopyFrom(numpy_helper.from_array(value, name))
        same(segments.after(cut, (name,)).run({**live, name: value}), whole(changed, inputs))


def test_names_read_within_inner_graphs_are_seen(rng):
    network, _ = branching(rng)
    node = next(node for node in network.proto.graph.node if node.op_type == "If")
    assert sorted(names_read(node)) == ["always", "h", "h", "h", "h", "inner", "small"]
    segments = SegmentedNetwork(network, 1)
    cut = segments.first_use("inner")
    assert network.proto.graph.node[cut].op_type == "If"
    assert segments.live_values(cut) == ["h", "t", "small"]


def test_a_value_exists_behind_the_node_that_makes_it(rng):
    network, _ = branching(rng)
    segments = SegmentedNetwork(network, 1)
    assert [segments.made_at(name) for name in ("x", "h", "t", "y")] == [0, 1, 2, 6]


@pytest.mark.parametrize(
    ("method", "name", "message"),
    [
        ("made_at", "p", "no node makes a value 'p'"),
        ("made_at", "first", "no node makes a value 'first'"),
        ("first_use", "h", "no node reads an initializer 'h'"),
        ("first_use", "nowhere", "no node reads an initializer 'nowhere'"),
    ],
)
def test_names_that_cannot_be_cut_at_are_refused(method, name, message, rng):
    network, _ = branching(rng)
    with pytest.raises(ValueError, match=message):
        getattr(SegmentedNetwork(network, 1), method)(name)


def test_a_segment_runs_with_other_values_of_an_initializer(rng):
    """The network keeps its own."""
    tensors = weights(rng, a=(4, 4), b=(4, 4))
    network = build(
        [helper.make_node("MatMul", ["x", "a"], ["h"]), helper.make_node("MatMul", ["h", "b"], ["y"])],
        {"x": (FLOAT, ("N", 4))},
        {"y": FLOAT},
        tensors,
    )
    x, other = rng.standard_normal((3, 4), dtype=np.float32), rng.standard_normal((4, 4), dtype=np.float32)
    segments = SegmentedNetwork(network, 1)
    changed = segments.between(0, 1, replaced={"a": other, "b": other}).run({"x": x})
    np.testing.assert_allclose(changed["h"], x @ other, rtol=1e-5, atol=1e-6)
    plain = segments.between(0, 1).run({"x": x})
    np.testing.assert_allclose(plain["h"], x @ network.weight("a"), rtol=1e-5, atol=1e-6)


def test_a_value_that_nothing_reads_is_refused(rng):
    network = build(
        [helper.make_node("Tanh", ["x"], ["unread"]), helper.make_node("MatMul", ["x", "a"], ["y"])],
        {"x": (FLOAT, ("N", 4))},
        {"y": FLOAT},
        weights(rng, a=(4, 4)),
    )
    with pytest.raises(ValueError, match="nothing reads the value 'unread'"):
        SegmentedNetwork(network, 1).made_at("unread")


def test_types_are_found_without_copies_of_the_weights(rng, monkeypatch):
    """What is inferred on has the weights' types and none of their values."""
    sizes = []
    infer = onnx.shape_inference.infer_shapes

    def measured(proto, *args, **kwargs):
        sizes.append(proto.ByteSize())
        return infer(proto, *args, **kwargs)

    network = build(
        [helper.make_node("MatMul", ["x", "a"], ["h"]), helper.make_node("MatMul", ["h", "b"], ["y"])],
        {"x": (FLOAT, ("N", 256))},
        {"y": FLOAT},
        weights(rng, a=(256, 256), b=(256, 16)),
    )
    x = rng.standard_normal((3, 256), dtype=np.float32)
    with monkeypatch.context() as patches:
        patches.setattr("onnx.shape_inference.infer_shapes", measured)
        segments = SegmentedNetwork(network, 1)
    assert sizes
    assert max(sizes) < 1000
    same(
        segments.after(1, ("b",)).run({"h": x @ network.weight("a"), "b": network.weight("b")}),
        whole(network.proto, {"x": x}),
    )


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)
