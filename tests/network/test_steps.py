"""Steps of graphs within graphs, of sequences and of codes; and what becomes of values that torch refuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from network.errors import UnsupportedOperators
from network.execution import TorchNetwork
from network.graph import Network
from network.normalise import from_proto

Array = NDArray[Any]
node = helper.make_node


def value(name: str, kind: int = TensorProto.FLOAT, shape: Sequence[int] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def floats(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def network_of(
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, Any],
    inputs: Sequence[onnx.ValueInfoProto] = (),
    outputs: Sequence[str] = ("y",),
    opset: int = 21,
) -> Network:
    """A network of an input x [2, 3] unless stated."""
    graph = helper.make_graph(
        nodes,
        "test",
        [*inputs] or [value("x", shape=[2, 3])],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    for inner, inferred in zip(model.graph.output, onnx.shape_inference.infer_shapes(model).graph.output, strict=True):
        inner.CopyFrom(inferred)
    return from_proto(model)


def in_runtime(network: Network, inputs: Mapping[str, Array]) -> list[Array]:
    session = onnxruntime.InferenceSession(network.proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(inputs)))


def check(network: Network, **inputs: Array) -> None:
    """Torch gives what ONNX Runtime gives."""
    results = TorchNetwork(network).run({name: torch.from_numpy(array) for name, array in inputs.items()})
    for result, expected in zip(results, in_runtime(network, inputs), strict=True):
        assert result.shape == expected.shape
        np.testing.assert_allclose(result.detach().numpy(), expected, rtol=1e-5, atol=1e-5)


def check_gradients(network: Network, *parameters: str, **inputs: Array) -> None:
    """First and second derivatives in parameters agree with finite differences."""
    compiled = TorchNetwork(network, dtype=torch.float64)
    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}

    def function(*values: torch.Tensor) -> torch.Tensor:
        return compiled.run(tensors, dict(zip(parameters, values, strict=True)))[0]

    variables = [compiled.parameters[name].detach().requires_grad_() for name in parameters]
    assert torch.autograd.gradcheck(function, variables)
    assert torch.autograd.gradgradcheck(function, variables)


def body(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    **constants: Any,
) -> onnx.GraphProto:
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    return helper.make_graph(nodes, "body", inputs, outputs, tensors)


def chosen() -> Network:
    """If the mean of x is positive x W, else tanh(x V): W and V lie in the main graph, which reads V itself too."""
    product = body([node("MatMul", ["x", "W"], ["p"], "product")], [], [value("p")])
    squashed = body([node("MatMul", ["x", "V"], ["q"], "other"), node("Tanh", ["q"], ["t"])], [], [value("t")])
    nodes = [
        node("ReduceMean", ["x"], ["m"], "mean", keepdims=0),
        node("Greater", ["m", "zero"], ["c"], "positive"),
        node("MatMul", ["x", "V"], ["r"], "before"),
        node("If", ["c"], ["i"], "choice", then_branch=product, else_branch=squashed),
        node("Add", ["i", "r"], ["y"], "sum"),
    ]
    return network_of(nodes, {"W": floats(3, 4), "V": floats(3, 4, seed=1), "zero": np.float32(0)})


@pytest.mark.parametrize("sign", [1, -1])
def test_if_runs_the_branch_that_the_values_choose(sign: int) -> None:
    x = sign * np.abs(floats(2, 3))
    check(chosen(), x=x)
    check_gradients(chosen(), "W", "V", x=x)


def recurrent(condition: str = "c", trips: str = "trips") -> Network:
    """h = tanh(h W + k b) as long as its norm exceeds a limit, at most five times; b is a constant of the body."""
    nodes = [
        node("MatMul", ["h", "W"], ["p"], "product"),
        node("Cast", ["k"], ["f"], "number", to=TensorProto.FLOAT),
        node("Mul", ["f", "b"], ["s"], "scaled"),
        node("Add", ["p", "s"], ["a"], "added"),
        node("Tanh", ["a"], ["next"], "squashed"),
        node("ReduceL2", ["next"], ["norm"], "norm", keepdims=0),
        node("Greater", ["norm", "limit"], ["more"], "compared"),
    ]
    inputs = [value("k", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("h", shape=[2, 3])]
    outputs = [value("more", TensorProto.BOOL), value("next"), value("a")]
    loop = node(
        "Loop", [trips, condition, "x"], ["last", "all"], "loop", body=body(nodes, inputs, outputs, b=floats(3))
    )
    constants = {"W": floats(3, 3), "limit": np.float32(1.0), "trips": np.array(5), "c": np.array(True)}
    return network_of([loop, node("ReduceSum", ["all"], ["y"], "sum", keepdims=0)], constants, outputs=["y", "last"])


@pytest.mark.parametrize(("condition", "trips"), [("c", "trips"), ("", "trips"), ("c", "")])
def test_loop_runs_as_often_as_its_condition_holds(condition: str, trips: str) -> None:
    # The condition ends it after one iteration for the small x; nothing but the number of trips for the other.
    for x in (floats(2, 3), 0.01 * floats(2, 3)) if trips else (0.01 * floats(2, 3),):
        check(recurrent(condition, trips), x=x)


def test_loop_is_differentiated_through() -> None:
    check_gradients(recurrent(), "W", x=floats(2, 3))


def test_loop_that_never_runs_has_no_shapes() -> None:
    network = recurrent()
    network.initializers["trips"].CopyFrom(numpy_helper.from_array(np.array(0), "trips"))
    with pytest.raises(UnsupportedOperators, match=r"Loop \(node 'loop'\) never runs its body"):
        TorchNetwork(network).run({"x": torch.zeros(2, 3)})


def test_scan_runs_over_slices_in_either_direction() -> None:
    nodes = [
        node("MatMul", ["s", "W"], ["p"], "product"),
        node("Add", ["p", "u"], ["a"], "added"),
        node("Mul", ["a", "v"], ["next"], "scaled"),
        node("Identity", ["next"], ["shown"], "same"),
    ]
    inner = body(
        nodes, [value("s", shape=[3]), value("u", shape=[3]), value("v", shape=[3])], [value("next"), value("shown")]
    )
    scan = node(
        "Scan",
        ["start", "x", "z"],
        ["last", "y"],
        "scan",
        body=inner,
        num_scan_inputs=2,
        scan_input_axes=[0, 1],
        scan_input_directions=[1, 0],
        scan_output_axes=[1],
        scan_output_directions=[1],
    )
    inputs = [value("x", shape=[4, 3]), value("z", shape=[3, 4])]
    network = network_of([scan], {"W": floats(3, 3), "start": floats(3)}, inputs, ["y", "last"])
    x, z = floats(4, 3), floats(3, 4)
    check(network, x=x, z=z)
    check_gradients(network, "W", "start", x=x, z=z)


def test_graphs_within_graphs_read_what_lies_around_both() -> None:
    doubled = body([node("Mul", ["h", "two"], ["d"], "double")], [], [value("d")])
    product = body([node("MatMul", ["h", "W"], ["e"], "product")], [], [value("e")])
    nodes = [
        node("Mod", ["k", "pair"], ["rest"], "rest"),
        node("Equal", ["rest", "nothing"], ["even"], "even"),
        node("If", ["even"], ["next"], "choice", then_branch=doubled, else_branch=product),
        node("Identity", ["go"], ["more"], "same"),
    ]
    inputs = [value("k", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("h", shape=[2, 3])]
    inner = body(nodes, inputs, [value("more", TensorProto.BOOL), value("next")])
    loop = node("Loop", ["trips", "", "x"], ["y"], "loop", body=inner)
    constants = {"W": floats(3, 3), "two": np.float32(2), "pair": np.array(2), "nothing": np.array(0)}
    network = network_of([loop], constants | {"trips": np.array(4)})
    check(network, x=floats(2, 3))
    check_gradients(network, "W", "two", x=floats(2, 3))


def test_a_node_within_a_graph_that_has_no_rule_is_named() -> None:
    random = body([node("RandomNormalLike", ["x"], ["p"], "noise")], [], [value("p")])
    same = body([node("Identity", ["x"], ["q"], "same")], [], [value("q")])
    network = network_of([node("If", ["c"], ["y"], "if", then_branch=random, else_branch=same)], {"c": np.array(True)})
    with pytest.raises(UnsupportedOperators, match=r"RandomNormalLike \(node 'noise'\)"):
        TorchNetwork(network)


def test_sequences_are_collected_in_a_loop() -> None:
    nodes = [
        node("MatMul", ["h", "W"], ["next"], "product"),
        node("SequenceInsert", ["parts", "next"], ["more_parts"], "insert"),
        node("Identity", ["go"], ["more"], "same"),
    ]
    tensors = helper.make_tensor_sequence_value_info("parts", TensorProto.FLOAT, None)
    after = helper.make_tensor_sequence_value_info("more_parts", TensorProto.FLOAT, None)
    inputs = [value("k", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("h", shape=[2, 3]), tensors]
    inner = body(nodes, inputs, [value("more", TensorProto.BOOL), value("next"), after])
    outer = [
        node("SequenceEmpty", [], ["none"], "empty"),
        node("Loop", ["trips", "", "x", "none"], ["last", "all"], "loop", body=inner),
        node("ConcatFromSequence", ["all"], ["y"], "concat", axis=1),
        node("ConcatFromSequence", ["all"], ["stacked"], "stack", axis=0, new_axis=1),
        node("SequenceLength", ["all"], ["count"], "length"),
    ]
    network = network_of(outer, {"W": floats(3, 3), "trips": np.array(3)}, outputs=["y", "stacked", "count"])
    check(network, x=floats(2, 3))
    check_gradients(network, "W", x=floats(2, 3))


def test_sequences_are_made_and_taken_apart() -> None:
    nodes = [
        node("SequenceConstruct", ["x", "w", "x"], ["s"], "construct"),
        node("SequenceInsert", ["s", "v", "second"], ["t"], "insert"),
        node("SequenceErase", ["t", "last"], ["u"], "erase"),
        node("SequenceErase", ["u"], ["v_first"], "erase_last"),
        node("SequenceAt", ["u", "second"], ["inserted"], "at"),
        node("ConcatFromSequence", ["v_first"], ["joined"], "concat", axis=0),
        node("SplitToSequence", ["x", "sizes"], ["parts"], "split", axis=1),
        node("SequenceAt", ["parts", "last"], ["part"], "part"),
        node("SplitToSequence", ["x"], ["columns"], "columns", axis=1, keepdims=0),
        node("SequenceAt", ["columns", "second"], ["column"], "column"),
        node("SplitToSequence", ["x", "pair"], ["pairs"], "pairs", axis=1),
        node("SequenceAt", ["pairs", "second"], ["rest"], "rest"),
    ]
    constants = {
        "w": floats(2, 3),
        "v": floats(2, 3, seed=1),
        "second": np.array(1),
        "last": np.array(-1),
        "sizes": np.array([1, 2]),
        "pair": np.array(2),
    }
    check(network_of(nodes, constants, outputs=["inserted", "joined", "part", "column", "rest"]), x=floats(2, 3))


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError(), RuntimeError("DefaultCPUAllocator: not enough memory")]
)
def test_too_little_memory_is_no_property_of_a_node(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise error

    network = TorchNetwork(network_of([node("MatMul", ["x", "w"], ["y"], "product")], {"w": floats(3, 3)}))
    monkeypatch.setattr(torch, "matmul", fails)
    with pytest.raises(type(error)) as caught:
        network.run({"x": torch.zeros(2, 3)})
    assert caught.value is error


def test_outputs_that_nothing_reads_need_not_be_computed() -> None:
    """Attention before opset 25 orders two of the products that it can show in another way."""
    outputs = ["y", "keys", "values", "products"]
    nodes = [node("Attention", ["x", "x", "x"], outputs, "attention", qk_matmul_output_mode=1)]
    inputs = [value("x", shape=[1, 2, 4, 3])]
    check(network_of(nodes, {}, inputs, opset=23), x=floats(1, 2, 4, 3))
    with pytest.raises(UnsupportedOperators, match="qk_matmul_output"):
        TorchNetwork(network_of(nodes, {}, inputs, ["y", "products"], opset=23))


def fake_quantized(between: Sequence[onnx.NodeProto] = (), read: str = "codes") -> Network:
    nodes = [
        node("MatMul", ["x", "W"], ["h"], "product"),
        node("QuantizeLinear", ["h", "scale", "zero"], ["codes"], "quantize"),
        *between,
        node("DequantizeLinear", [read, "scale", "zero"], ["d"], "dequantize"),
        node("Mul", ["d", "d"], ["y"], "square"),
    ]
    constants = {"W": floats(3, 3), "scale": np.float32(0.25), "zero": np.uint8(100)}
    return network_of(nodes, constants | {"turned": np.array([3, 2])})


@pytest.mark.parametrize(
    ("between", "read"), [((), "codes"), ((node("Reshape", ["codes", "turned"], ["moved"], "move"),), "moved")]
)
def test_gradients_pass_straight_through_codes(between: Sequence[onnx.NodeProto], read: str) -> None:
    network, x = fake_quantized(between, read), floats(2, 3)
    check(network, x=x)
    compiled = TorchNetwork(network)
    weight = compiled.parameters["W"].requires_grad_()
    [y] = compiled.run({"x": torch.from_numpy(x)})
    [gradient] = torch.autograd.grad(y.sum(), weight)
    rounded = torch.round(torch.from_numpy(x) @ weight.detach() / 0.25) * 0.25
    torch.testing.assert_close(gradient, torch.from_numpy(x).T @ (2 * rounded))


def test_gradients_pass_through_products_of_codes() -> None:
    nodes = [
        node("MatMul", ["x", "W"], ["h"], "product"),
        node("DynamicQuantizeLinear", ["h"], ["codes", "scale", "zero"], "quantize"),
        node("MatMulInteger", ["codes", "B", "zero"], ["sums"], "integers"),
        node("Cast", ["sums"], ["floats"], "cast", to=TensorProto.FLOAT),
        node("Mul", ["floats", "scale"], ["y"], "scaled"),
    ]
    codes = np.random.default_rng(0).integers(0, 100, (3, 2)).astype(np.uint8)
    network, x = network_of(nodes, {"W": floats(3, 3), "B": codes}), floats(2, 3)
    check(network, x=x)
    compiled = TorchNetwork(network)
    weight = compiled.parameters["W"].requires_grad_()
    [y] = compiled.run({"x": torch.from_numpy(x)})
    [gradient] = torch.autograd.grad(y.sum(), weight)
    expected = torch.from_numpy(x).T @ torch.from_numpy(codes.astype(np.float32)).sum(1).expand(2, 3)
    # the scale depends on the largest element too: its rounding errors count, which are half a step at most
    assert torch.nn.functional.cosine_similarity(gradient.flatten(), expected.flatten(), dim=0) > 0.99


def test_codes_that_are_read_as_integers_have_no_gradient() -> None:
    network = fake_quantized([node("Div", ["codes", "zero"], ["moved"], "divide")], "moved")
    with pytest.raises(UnsupportedOperators, match=r"QuantizeLinear with codes that are read as integers"):
        TorchNetwork(network)


def test_integers_of_four_bits_are_not_made() -> None:
    small = helper.make_tensor("small", TensorProto.INT4, [1], [3])
    for nodes in (
        [node("CastLike", ["x", "small"], ["i"], "like")],
        [node("Reshape", ["small", "shape"], ["s"], "shaped"), node("CastLike", ["x", "s"], ["i"], "like")],
    ):
        cast = node("Cast", ["i"], ["y"], "cast", to=TensorProto.FLOAT)
        network = network_of([*nodes, cast], {"shape": np.array([1]), "small": np.array([3])})
        network.initializers["small"].CopyFrom(small)
        with pytest.raises(UnsupportedOperators, match=r"CastLike with a type of 4 bits or less \(node 'like'\)"):
            TorchNetwork(network)
