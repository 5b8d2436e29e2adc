"""Whole networks in torch: values against ONNX Runtime, derivatives against finite differences and torch's modules."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from network.errors import ModelInvalid, UnsupportedOperators
from network.execution import TorchNetwork
from network.graph import Network
from network.normalise import from_proto

Array = NDArray[Any]


def build(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[int | str, ...]],
    outputs: Sequence[str],
    initializers: Mapping[str, Array],
    opset: int = 25,
) -> Network:
    """A network of float inputs with the batch axis first; the types of the outputs are inferred."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in initializers.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.example", 1)]
    return from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=10))


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def in_onnx_runtime(network: Network, inputs: Mapping[str, Array]) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        network.proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, dict(inputs)))


def tensors(inputs: Mapping[str, Array]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in inputs.items()}


def convolutional() -> Network:
    """Two convolutions (one grouped), a skip connection, pooling, and a Gemm."""
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu1"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], name="conv2", pads=[1, 1, 1, 1], group=2),
        helper.make_node("Sigmoid", ["c2"], ["s2"], name="sigmoid"),
        helper.make_node("Add", ["s2", "r1"], ["sum"], name="add"),
        helper.make_node("MaxPool", ["sum"], ["pool"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["pool"], ["flat"], name="flatten"),
        helper.make_node("Gemm", ["flat", "w3", "b3"], ["y"], name="gemm", transB=1),
    ]
    weights = {
        "w1": normal(4, 2, 3, 3),
        "b1": normal(4),
        "w2": normal(4, 2, 3, 3),
        "w3": normal(3, 36),
        "b3": normal(3),
    }
    return build(nodes, {"x": ("N", 2, 6, 6)}, ["y"], weights)


def resized() -> Network:
    """A convolution between two resizings; the scales are floats, which are read as numbers."""
    nodes = [
        helper.make_node("Resize", ["x", "", "scales"], ["r"], name="up", mode="linear"),
        helper.make_node("Conv", ["r", "w"], ["c"], name="conv"),
        helper.make_node("Resize", ["c", "", "", "sizes"], ["y"], name="down", mode="nearest"),
    ]
    initializers = {"scales": np.float32([1, 1, 2, 2]), "w": normal(3, 2, 3, 3), "sizes": np.array([2, 3, 3, 5])}
    return build(nodes, {"x": (2, 2, 4, 5)}, ["y"], initializers)


def tied() -> Network:
    """An autoencoder: one matrix is the embedding's table, and, not transposed, a MatMul's weight; used twice."""
    nodes = [
        helper.make_node("Gather", ["table", "index"], ["row"], name="embedding"),
        helper.make_node("Add", ["x", "row"], ["h"], name="add"),
        helper.make_node("MatMul", ["h", "table"], ["m"], name="matmul"),
        helper.make_node("Tanh", ["m"], ["y"], name="tanh"),
    ]
    initializers = {"table": normal(4, 4), "index": np.array([2, 0])}
    return build(nodes, {"x": (2, 4)}, ["y"], initializers)


@pytest.fixture(scope="module", params=[18, 25])
def encoder(request: pytest.FixtureRequest) -> tuple[torch.nn.Module, Network]:
    """A transformer encoder layer and what torch exports of it: attention from primitives, and as one node."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = torch.nn.TransformerEncoderLayer(
            16, 4, 32, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        ).eval()
    batch = torch.export.Dim("N")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter uses what torch itself has deprecated
        exported = torch.onnx.export(
            module,
            (torch.zeros(3, 5, 16),),
            dynamo=True,
            opset_version=request.param,
            dynamic_shapes=({0: batch},),
            input_names=["x"],
            output_names=["y"],
            verbose=False,
        )
    assert exported is not None
    return module, from_proto(exported.model_proto)


def test_convolutional_network_gives_what_onnx_runtime_gives() -> None:
    network, inputs = convolutional(), {"x": normal(5, 2, 6, 6)}
    [y] = TorchNetwork(network).run(tensors(inputs))
    np.testing.assert_allclose(y.detach().numpy(), in_onnx_runtime(network, inputs)[0], rtol=1e-5, atol=1e-5)


def test_exported_transformer_gives_what_onnx_runtime_gives(encoder: tuple[torch.nn.Module, Network]) -> None:
    network, inputs = encoder[1], {"x": normal(2, 5, 16)}
    [y] = TorchNetwork(network).run(tensors(inputs))
    np.testing.assert_allclose(y.detach().numpy(), in_onnx_runtime(network, inputs)[0], rtol=1e-5, atol=1e-5)


def test_exported_transformer_has_the_derivatives_of_its_module(encoder: tuple[torch.nn.Module, Network]) -> None:
    """The gradient and a Hessian-vector product in a weight that keeps its name, in float64."""
    module, network = encoder
    x, name = torch.from_numpy(normal(2, 5, 16)).double(), "self_attn.out_proj.weight"
    compiled = TorchNetwork(network, dtype=torch.float64)
    # The exporter stores the weight as Linear has it, and transposes it in the graph.
    weight = compiled.parameters[name].requires_grad_()
    module = module.double()
    assert isinstance(module.self_attn, torch.nn.MultiheadAttention)
    theirs = module.self_attn.out_proj.weight
    direction = torch.from_numpy(normal(16, 16)).double()

    def derivatives(y: torch.Tensor, variable: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        [gradient] = torch.autograd.grad(y.square().sum(), variable, create_graph=True)
        [product] = torch.autograd.grad(gradient, variable, direction)
        return gradient, product

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        expected = derivatives(module(x), theirs)
    for result, reference in zip(derivatives(compiled.run({"x": x})[0], weight), expected, strict=True):
        # The exporter stores constants in float32: the scale of the attention, an epsilon.
        torch.testing.assert_close(result, reference, rtol=1e-5, atol=1e-5)
    module.float()


def test_network_is_twice_differentiable_in_weights_and_inputs() -> None:
    network = TorchNetwork(convolutional(), dtype=torch.float64)
    names = ["w1", "w2", "w3"]

    def function(x: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        return network.run({"x": x}, dict(zip(names, weights, strict=True)))[0]

    x = torch.from_numpy(normal(1, 2, 6, 6)).double().requires_grad_()
    variables = (x, *(network.parameters[name] for name in names))
    assert torch.autograd.gradcheck(function, variables, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, variables, fast_mode=True)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # torch.func's own use
def test_dense_hessian_by_double_backward_is_that_of_torch_func() -> None:
    network = TorchNetwork(convolutional(), dtype=torch.float64)
    x = torch.from_numpy(normal(2, 2, 6, 6))
    weight = network.parameters["w1"]

    def loss(w: torch.Tensor) -> torch.Tensor:
        return network.run({"x": x}, {"w1": w})[0].square().sum()

    by_rows = torch.autograd.functional.hessian(loss, weight.detach())
    torch.testing.assert_close(torch.func.hessian(loss)(weight.detach()), by_rows)
    assert by_rows.abs().max() > 0


def test_tied_weight_is_one_parameter_whose_gradient_sums_its_uses() -> None:
    network = tied()
    [site] = network.sites
    assert [layer.op_type for layer in site.layers] == ["Gather", "MatMul"]
    compiled = TorchNetwork(network, dtype=torch.float64)
    table = compiled.parameters["table"]
    x = torch.from_numpy(normal(2, 4, seed=1)).double()
    [together] = torch.autograd.grad(compiled.run({"x": x})[0].sum(), table)
    one, two = (table.detach().clone().requires_grad_() for _ in range(2))
    apart = torch.autograd.grad(torch.tanh((x + one[[2, 0]]) @ two).sum(), (one, two))
    torch.testing.assert_close(together, sum(apart))


def test_outputs_keep_the_order_of_the_graph() -> None:
    """Not the order of computation; one is used further on, one is an input, one is an initializer."""
    nodes = [
        helper.make_node("Relu", ["x"], ["first"], name="a"),
        helper.make_node("Neg", ["first"], ["second"], name="b"),
        helper.make_node("Exp", ["second"], ["third"], name="c"),
    ]
    network = build(nodes, {"x": (2, 3)}, ["third", "x", "first", "w"], {"w": normal(2)})
    x = torch.from_numpy(normal(2, 3))
    third, same, first, w = TorchNetwork(network).run({"x": x})
    torch.testing.assert_close(first, x.relu())
    torch.testing.assert_close(third, (-x.relu()).exp())
    torch.testing.assert_close(same, x)
    np.testing.assert_array_equal(w.numpy(), normal(2))


def test_split_gives_its_outputs_and_drops_the_unused_one() -> None:
    nodes = [helper.make_node("Split", ["x"], ["a", "", "c"], name="split", axis=1, num_outputs=3)]
    network = build(nodes, {"x": (2, 6)}, ["c", "a"], {})
    x = torch.from_numpy(normal(2, 6))
    c, a = TorchNetwork(network).run({"x": x})
    torch.testing.assert_close(a, x[:, :2])
    torch.testing.assert_close(c, x[:, 4:])


def test_parameters_given_to_a_run_stand_in_for_those_of_the_network() -> None:
    network = TorchNetwork(tied())
    x = torch.from_numpy(normal(2, 4))
    before = network.run({"x": x})[0]
    zero = torch.zeros(4, 4, requires_grad=True)
    assert network.run({"x": x}, {"table": zero})[0].abs().max() == 0
    torch.testing.assert_close(network.run({"x": x})[0], before)


def test_a_value_sent_through_a_function_is_replaced_for_every_reader() -> None:
    """`r1` is read by a convolution and by the skip connection: the rest of the network sees the replaced one."""
    network, x = TorchNetwork(convolutional()), torch.from_numpy(normal(5, 2, 6, 6))
    seen: list[torch.Tensor] = []

    def halve(value: torch.Tensor) -> torch.Tensor:
        seen.append(value)
        return value / 2

    [y] = network.run({"x": x}, through={"r1": halve})
    weights, bias = network.parameters["w1"], network.parameters["b1"]
    [expected] = network.run({"x": x}, {"w1": weights / 2, "b1": bias / 2})  # relu(c / 2) = relu(c) / 2
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(seen[0], torch.relu(torch.nn.functional.conv2d(x, weights, bias, padding=1)))


def test_inputs_and_outputs_can_be_sent_through_a_function() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["first"], name="a"), helper.make_node("Neg", ["first"], ["y"], name="b")]
    network, x = TorchNetwork(build(nodes, {"x": (2, 3)}, ["y", "x"], {})), torch.from_numpy(normal(2, 3))
    y, same = network.run({"x": x}, through={"x": lambda v: -v, "y": lambda v: v + 1})
    torch.testing.assert_close(y, 1 - (-x).relu())
    torch.testing.assert_close(same, -x)


def test_a_zero_leaf_takes_the_gradient_in_an_activation() -> None:
    network, x = TorchNetwork(convolutional(), dtype=torch.float64), torch.from_numpy(normal(2, 2, 6, 6)).double()
    zero = torch.zeros(2, 4, 6, 6, dtype=torch.float64, requires_grad=True)

    def outputs(z: torch.Tensor) -> torch.Tensor:
        return network.run({"x": x}, through={"r1": lambda value: value + z})[0]

    assert torch.autograd.gradcheck(outputs, zero, fast_mode=True)


def test_a_value_that_is_not_made_cannot_be_sent_through_a_function() -> None:
    network, x = TorchNetwork(convolutional()), torch.zeros(1, 2, 6, 6)
    for name in ("w1", "missing", ""):
        with pytest.raises(ValueError, match=f"no value is called \\['{name}'\\]"):
            network.run({"x": x}, through={name: lambda value: value})


def test_only_the_weights_of_sites_require_a_gradient() -> None:
    network = TorchNetwork(convolutional(), dtype=torch.float64)
    assert {name for name, tensor in network.parameters.items() if tensor.requires_grad} == {"w1", "w2", "w3"}
    assert set(network.parameters) == {"w1", "b1", "w2", "w3", "b3"}
    assert all(tensor.is_leaf and tensor.dtype == torch.float64 for tensor in network.parameters.values())


def test_floats_of_every_width_become_the_one_dtype_and_integers_stay() -> None:
    nodes = [
        helper.make_node("Cast", ["half"], ["wide"], name="cast", to=TensorProto.DOUBLE),
        helper.make_node("Add", ["wide", "x"], ["sum"], name="add"),
        helper.make_node("Reshape", ["sum", "shape"], ["y"], name="reshape"),
    ]
    initializers = {"half": np.float16([1.5, 2.5]), "shape": np.array([2, 1])}
    network = TorchNetwork(build(nodes, {"x": (2,)}, ["y"], initializers), dtype=torch.float64)
    assert set(network.parameters) == {"half"}
    [y] = network.run({"x": torch.ones(2)})
    assert y.dtype == torch.float64
    assert y.tolist() == [[2.5], [3.5]]


def test_packed_and_short_initializers_are_read() -> None:
    codes = helper.make_tensor("codes", TensorProto.INT4, [3], [-8, 0, 7])
    brain = helper.make_tensor("brain", TensorProto.BFLOAT16, [3], [0.5, -2.0, 1.0])
    nodes = [
        helper.make_node("Cast", ["codes"], ["floats"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["floats", "brain"], ["scaled"], name="mul"),
        helper.make_node("Add", ["scaled", "x"], ["y"], name="add"),
    ]
    network = build(nodes, {"x": (3,)}, ["y"], {})
    network.proto.graph.initializer.extend([codes, brain])
    [y] = TorchNetwork(Network(network.proto, network.inputs, network.outputs, ())).run({"x": torch.zeros(3)})
    assert y.tolist() == [-4.0, 0.0, 7.0]


def test_values_are_freed_after_their_last_use() -> None:
    """When the third value is made, the first is gone, and the second still in use."""
    nodes = [helper.make_node("Exp", ["x"], ["h0"], name="exp")]
    nodes += [helper.make_node("MatMul", [f"h{i}", f"w{i}"], [f"h{i + 1}"], name=f"layer{i}") for i in range(3)]
    network = build(nodes, {"x": ("N", 4)}, ["h3"], {f"w{i}": normal(4, 4, seed=i) for i in range(3)})
    references: list[weakref.ref[torch.Tensor]] = []
    alive: list[list[bool]] = []

    def look(x: torch.Tensor) -> torch.Tensor:
        references.append(weakref.ref(x))
        alive.append([reference() is not None for reference in references])
        return x

    with torch.no_grad():
        TorchNetwork(network).run(
            {"x": torch.from_numpy(normal(2, 4))}, through=dict.fromkeys(("h0", "h1", "h2"), look)
        )
    assert alive == [[True], [True, True], [False, True, True]]


def test_every_operator_without_a_rule_is_named_with_its_nodes() -> None:
    nodes = [
        helper.make_node("RandomNormalLike", ["x"], ["a"], name="u1"),
        helper.make_node("RandomNormalLike", ["a"], ["b"], name="u2"),
        helper.make_node("Bernoulli", ["b"], ["c"]),
        helper.make_node("FastGelu", ["c"], ["d"], name="fast", domain="com.example"),
        helper.make_node("LRN", ["d"], ["e"], name="lrn", size=4),
        helper.make_node("Relu", ["e"], ["y"], name="relu"),
    ]
    network = build(nodes, {"x": (2, 2)}, ["y"], {})
    with pytest.raises(UnsupportedOperators) as caught:
        TorchNetwork(network)
    assert str(caught.value) == (
        "operators without a rule: Bernoulli (node 'c'), LRN with the even size 4 (node 'lrn'), "
        "RandomNormalLike (nodes 'u1', 'u2'), com.example.FastGelu (node 'fast'); "
        "export the model without them, or end its graph before them"
    )


def test_an_operator_older_than_its_rule_is_refused_with_its_opset() -> None:
    nodes = [helper.make_node("Softmax", ["x"], ["y"], name="softmax")]
    with pytest.raises(UnsupportedOperators, match=r"Softmax of opset 11 \(node 'softmax'\)"):
        TorchNetwork(build(nodes, {"x": (2, 2)}, ["y"], {}, opset=11))


def test_an_initializer_of_strings_is_refused() -> None:
    network = build([helper.make_node("Relu", ["x"], ["y"], name="relu")], {"x": (2,)}, ["y"], {})
    network.proto.graph.initializer.append(helper.make_tensor("text", TensorProto.STRING, [1], [b"a"]))
    with pytest.raises(UnsupportedOperators, match="element type STRING"):
        TorchNetwork(network)


def test_a_value_that_nothing_makes_is_refused() -> None:
    with pytest.raises(ModelInvalid, match=r"node 'relu' \(Relu\) reads 'missing'"):
        TorchNetwork(build([helper.make_node("Relu", ["missing"], ["y"], name="relu")], {"x": (2,)}, ["y"], {}))
    with pytest.raises(ModelInvalid, match="returns 'z'"):
        TorchNetwork(build([helper.make_node("Relu", ["x"], ["y"], name="relu")], {"x": (2,)}, ["z"], {}))


def test_wrong_names_are_refused() -> None:
    network, x = TorchNetwork(tied()), torch.zeros(2, 4)
    with pytest.raises(ValueError, match=r"inputs are \['image'\], expected \['x'\]"):
        network.run({"image": x})
    with pytest.raises(ValueError, match="no parameter is called"):
        network.run({"x": x}, {"index": x})


def test_an_error_inside_a_rule_names_the_node() -> None:
    network = TorchNetwork(tied())
    with pytest.raises(UnsupportedOperators, match=r"Add \(node 'add'\) is not computed from such values"):
        network.run({"x": torch.zeros(2, 3)})


def test_no_rule_reads_or_makes_a_tensor_elsewhere(encoder: tuple[torch.nn.Module, Network]) -> None:
    """On torch's device without memory, reading a value or mixing it with a CPU tensor is an error."""
    for network in (convolutional(), encoder[1], tied(), resized()):
        shape = [size or 3 for size in network.inputs[0].shape]
        compiled = TorchNetwork(network, device="meta")
        [y] = compiled.run({"x": torch.zeros(shape)})
        [expected] = TorchNetwork(network).run({"x": torch.zeros(shape)})
        assert y.device.type == "meta"
        assert y.shape == expected.shape


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_gives_what_the_cpu_gives(encoder: tuple[torch.nn.Module, Network]) -> None:
    for network in (convolutional(), encoder[1], tied(), resized()):
        x = torch.from_numpy(normal(*(size or 3 for size in network.inputs[0].shape)))
        [y] = TorchNetwork(network, device="cuda", dtype=torch.float64).run({"x": x})
        [expected] = TorchNetwork(network, dtype=torch.float64).run({"x": x})
        torch.testing.assert_close(y.cpu(), expected)
