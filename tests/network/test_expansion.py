"""Operators that an opset does not have, written as older ones.

The oracles are ONNX Runtime with the operator itself at opset 25, torch with the operator's rule, onnx's checker, and
for the form the kernels that ONNX Runtime's optimiser makes of it.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from network.activations import find_activations
from network.errors import OpsetNotReachable
from network.execution import TorchNetwork
from network.expansion import is_expanded
from network.normalise import dump, from_proto, load, normalise
from network.opset import TARGET_OPSET, lower
from quantization.activations.quantized import QuantizedActivation
from quantization.export.export import export, simulate
from quantization.formats import UnsignedFormat
from tests.network.lowering import lowered

F = TensorProto.FLOAT
OPSETS = range(18, TARGET_OPSET)
Arrays = dict[str, NDArray[Any]]
node = helper.make_node


def made(nodes: list[NodeProto], inputs: Arrays, constants: Arrays | None = None, batch: bool = False) -> ModelProto:
    """A graph of opset 25 whose outputs are those of the last node; with `batch` the first axes of its inputs stay
    free."""
    shapes = {name: [*(["N"] if batch else array.shape[:1]), *array.shape[1:]] for name, array in inputs.items()}
    types = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in inputs.items()}
    # onnx's checker wants the ranks of outputs, and infers none of some of these operators
    type_, rank = next((types[name], len(shapes[name])) for name in inputs)
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, types[name], shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info(name, type_, [None] * rank) for name in nodes[-1].output if name],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", TARGET_OPSET)], ir_version=13)
    return onnx.shape_inference.infer_shapes(model)


def computed(model: ModelProto, inputs: Arrays, optimised: Path | None = None) -> list[NDArray[Any]]:
    """What ONNX Runtime computes; the graph is optimised only to be written to `optimised`."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_DISABLE_ALL if optimised is None else levels.ORT_ENABLE_EXTENDED
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(array) for array in session.run(None, inputs)]


def numbers(*shape: int, type_: str = "f4") -> NDArray[Any]:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(type_)


X = numbers(2, 4, 3, 6)
ANGLE = np.random.default_rng(4).uniform(-3, 3, (8, 3)).astype(np.float32)
POSITIONS = np.array([[0, 1, 2], [5, 7, 3]])
Q, K, V = numbers(2, 4, 3, 6), numbers(2, 4, 5, 6), numbers(2, 4, 5, 2)
PACKED = [numbers(2, 3, 8), numbers(2, 5, 8), numbers(2, 5, 4)]
HEADS = {"q_num_heads": 2, "kv_num_heads": 2}
SEEN = np.random.default_rng(3).random((3, 5)) < 0.6
SEEN[:, 0] = True
SHORT = numbers(3, 4)

CASES: dict[str, tuple[str, list[NDArray[Any] | None], dict[str, Any], int]] = {
    "Gelu": ("Gelu", [4 * X], {}, 1),
    "Gelu none": ("Gelu", [X], {"approximate": "none"}, 1),
    "Gelu tanh": ("Gelu", [4 * X], {"approximate": "tanh"}, 1),
    "Swish": ("Swish", [4 * X], {}, 1),
    "Swish alpha": ("Swish", [X], {"alpha": -1.7}, 1),
    "Swish alpha 0": ("Swish", [X], {"alpha": 0.0}, 1),
    "RMS": ("RMSNormalization", [X, numbers(6)], {}, 1),
    "RMS epsilon": ("RMSNormalization", [0.01 * X, numbers(6)], {"epsilon": 0.1}, 1),
    "RMS axis 1": ("RMSNormalization", [X, numbers(4, 3, 6)], {"axis": 1}, 1),
    "RMS axis -2": ("RMSNormalization", [X, numbers(3, 6)], {"axis": -2, "stash_type": 1}, 1),
    **{
        f"Group {groups} of {shape}": (
            "GroupNormalization",
            [0.5 + numbers(*shape), numbers(4), numbers(4)],
            {"num_groups": groups},
            1,
        )
        for groups, shape in itertools.product((1, 2, 4), ((2, 4, 3, 6), (2, 4, 3), (1, 4, 2, 3, 2), (3, 4, 7)))
    },
    "Group epsilon": ("GroupNormalization", [X, numbers(4), numbers(4)], {"num_groups": 2, "epsilon": 0.5}, 1),
    "Rotary": ("RotaryEmbedding", [X, np.cos(ANGLE), np.sin(ANGLE), POSITIONS], {}, 1),
    "Rotary no positions": ("RotaryEmbedding", [X, np.cos(ANGLE[POSITIONS]), np.sin(ANGLE[POSITIONS])], {}, 1),
    "Rotary interleaved": ("RotaryEmbedding", [X, np.cos(ANGLE), np.sin(ANGLE), POSITIONS], {"interleaved": 1}, 1),
    **{
        f"Rotary packed {interleaved} {size}": (
            "RotaryEmbedding",
            [numbers(2, 3, 16), np.cos(ANGLE[:, : size // 2 or 3]), np.sin(ANGLE[:, : size // 2 or 3]), POSITIONS],
            {"num_heads": 2, "interleaved": interleaved, "rotary_embedding_dim": size},
            1,
        )
        for interleaved, size in itertools.product((0, 1), (2, 6))
    },
    "Attention": ("Attention", [Q, K, V], {}, 1),
    "Attention scale": ("Attention", [Q, K, V], {"scale": 0.3}, 1),
    "Attention packed": ("Attention", PACKED, HEADS, 1),
    "Attention packed scale": ("Attention", PACKED, HEADS | {"scale": 0.7}, 1),
    "Attention softcap": ("Attention", [Q, K, V], {"scale": 0.3, "softcap": 1.5}, 1),
    "Attention mask": ("Attention", [Q, K, V, numbers(3, 5)], {}, 1),
    "Attention mask 4D": ("Attention", [Q, K, V, numbers(2, 1, 3, 5)], {}, 1),
    "Attention mask bool": ("Attention", [Q, K, V, SEEN], {}, 1),
    "Attention short mask": ("Attention", [Q, K, V, SHORT], {}, 1),
    "Attention causal": ("Attention", [Q, K, V], {"is_causal": 1}, 1),
    "Attention packed causal": ("Attention", PACKED, HEADS | {"is_causal": 1}, 1),
    "Attention groups": ("Attention", [Q, numbers(2, 2, 5, 6), numbers(2, 2, 5, 6)], {}, 1),
    "Attention groups scale": ("Attention", [Q, numbers(2, 2, 5, 6), numbers(2, 2, 5, 6)], {"scale": 0.3}, 1),
    "Attention packed groups": (
        "Attention",
        [numbers(2, 3, 8), numbers(2, 5, 4), numbers(2, 5, 4)],
        {"q_num_heads": 4, "kv_num_heads": 2},
        1,
    ),
    "Attention past": ("Attention", [Q, Q, Q, None, numbers(2, 4, 2, 6), numbers(2, 4, 2, 6)], {"is_causal": 1}, 3),
    "Attention padding": ("Attention", [Q, K, V, None, None, None, np.array([4, 5])], {}, 1),
    "Attention padding causal": ("Attention", [Q, K, V, None, None, None, np.array([4, 5])], {"is_causal": 1}, 1),
    "Attention present": ("Attention", [Q, K, V], {}, 3),
    "Attention scores": ("Attention", [Q, K, V], {}, 4),
    "Attention window": ("Attention", [Q, K, V], {"left_window_size": 1, "right_window_size": 1}, 1),
}
WITHOUT_RULE = ("Attention window", "Attention scores")
"""Torch has none."""
WITHOUT_KERNEL = ("Swish", "Swish alpha", "Swish alpha 0", "Attention short mask", "Attention window")
"""ONNX Runtime 1.31 has none at opset 25."""
BAND = np.abs(np.arange(3)[:, None] - np.arange(5)) <= 1


def case(name: str, batch: bool = False) -> tuple[ModelProto, Arrays]:
    op_type, arrays, attributes, outputs = CASES[name]
    names = [f"x{position}" if array is not None else "" for position, array in enumerate(arrays)]
    inputs = {key: array for key, array in zip(names, arrays, strict=True) if array is not None}
    nodes = [node(op_type, names, [f"y{i}" for i in range(outputs)], name="node", **attributes)]
    return made(nodes, inputs, batch=batch), inputs


def assert_close(result: list[NDArray[Any]], reference: list[NDArray[Any]], rtol: float = 2e-5) -> None:
    for one, other in zip(result, reference, strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol / 4 * max(1, np.abs(other).max()))


def in_torch(model: ModelProto, inputs: Arrays) -> list[NDArray[Any]]:
    run = TorchNetwork(from_proto(model)).run({name: torch.from_numpy(array) for name, array in inputs.items()})
    return [one.detach().numpy() for one in run]


@pytest.mark.parametrize("name", CASES)
def test_the_values_are_those_of_the_operator_at_every_opset(name: str) -> None:
    model, inputs = case(name)
    rule = None if name in WITHOUT_RULE else in_torch(model, inputs)
    reference = rule if name in WITHOUT_KERNEL else computed(model, inputs)
    if reference is None:  # the window as a mask
        reference = in_torch(
            made([node("Attention", ["x0", "x1", "x2", "x3"], ["y"])], inputs | {"x3": BAND}), inputs | {"x3": BAND}
        )
    for opset in OPSETS:
        older = lowered(model, opset)
        if opset == 18:
            assert CASES[name][0] not in {one.op_type for one in older.graph.node}
            assert is_expanded(older.graph.node[0])
        assert [value.name for value in older.graph.output] == [value.name for value in model.graph.output]
        if name not in WITHOUT_KERNEL or is_expanded(older.graph.node[0]):
            assert_close(computed(older, inputs), reference)
        if rule is not None:
            assert_close(in_torch(older, inputs), rule)


@pytest.mark.parametrize(
    "name", ["Gelu", "RMS axis 1", "Group 2 of (2, 4, 3, 6)", "Attention packed", "Rotary packed 0 6"]
)
def test_the_number_of_samples_stays_free(name: str) -> None:
    model, inputs = case(name, batch=True)
    constant = {"x1", "x2"} if "Attention" not in name else set()
    older = lowered(model, 18)
    for samples in (1, 2):
        some = {key: array if key in constant else array[:samples] for key, array in inputs.items()}
        assert_close(computed(older, some), computed(model, some))


@pytest.mark.parametrize("type_", [TensorProto.FLOAT16, TensorProto.DOUBLE])
@pytest.mark.parametrize("name", ["Gelu", "Gelu tanh", "Swish alpha", "RMS", "RMS axis 1", "Group epsilon"])
def test_other_element_types(name: str, type_: int) -> None:
    """Against the operator in single precision, run by onnx's own evaluator: ONNX Runtime lacks kernels for some."""
    op_type, arrays, attributes, _ = CASES[name]
    dtype = helper.tensor_dtype_to_np_dtype(type_)
    inputs = {f"x{i}": np.asarray(array).astype(dtype) for i, array in enumerate(arrays)}
    model = made([node(op_type, list(inputs), ["y0"], name="node", **attributes)], inputs)
    [result] = ReferenceEvaluator(lowered(model, 18)).run(None, inputs)
    assert result.dtype == dtype
    reference = in_torch(case(name)[0], {key: array.astype("f4") for key, array in inputs.items()})
    assert_close([result.astype("f4")], reference, 1e-2 if type_ == TensorProto.FLOAT16 else 2e-5)


def test_numbers_that_are_far_from_zero_keep_their_digits() -> None:
    """ONNX's own function of GroupNormalization takes the difference of two large squares."""
    x, one, zero = 1000 + numbers(1, 4, 64), np.ones(4, "f4"), np.zeros(4, "f4")
    model = made([node("GroupNormalization", ["x", "c", "b"], ["y"], num_groups=2)], {"x": x}, {"c": one, "b": zero})
    grouped = x.astype("f8").reshape(1, 2, -1)
    centred = grouped - grouped.mean(-1, keepdims=True)
    expected = (centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)).reshape(x.shape)
    np.testing.assert_allclose(computed(lowered(model, 18), {"x": x})[0], expected, rtol=1e-3, atol=1e-3)


SCALE = np.float32(np.linspace(0.5, 2, 6))


@pytest.mark.parametrize("opset", [18, 19, 20, 21, 23])
@pytest.mark.parametrize(
    ("new", "kernel"),
    [
        (node("Gelu", ["m"], ["y"]), "Gelu"),
        (node("Swish", ["m"], ["y"]), "QuickGelu"),
        (node("Swish", ["m"], ["y"], alpha=1.7), "QuickGelu"),
        (node("RMSNormalization", ["m", "s"], ["y"]), "SimplifiedLayerNormalization"),
    ],
)
def test_onnx_runtime_makes_one_kernel_of_it(new: NodeProto, kernel: str, opset: int, tmp_path: Path) -> None:
    constants = {"w": numbers(6, 6), "s": SCALE}
    model = made([node("MatMul", ["x", "w"], ["m"]), new], {"x": X}, constants, batch=True)
    older = lowered(model, opset)
    if not any(map(is_expanded, older.graph.node)):
        return
    [result] = computed(older, {"x": X}, tmp_path / "optimised.onnx")
    optimised = [one.op_type for one in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert optimised == ["MatMul", kernel]
    np.testing.assert_allclose(result, in_torch(model, {"x": X})[0], rtol=1e-5, atol=1e-5)


def _network() -> ModelProto:
    """What a transformer and a convolutional network have, with all operators that are expanded between its layers."""
    size = 8
    constants: Arrays = {f"w{i}": (i + 1) * numbers(size, size) / 9 for i in range(7)}
    constants |= {"norm.weight": np.linspace(0.5, 1.5, size).astype("f4"), "bias": numbers(size)}
    constants |= {"cos": np.cos(ANGLE[:, :2]), "sin": np.sin(ANGLE[:, :2]), "at": POSITIONS[:1]}
    constants |= {"c": numbers(4), "split": np.array([0, 4, 2, -1]), "flat": np.array([0, 4, size])}
    nodes = [
        node("RMSNormalization", ["x", "norm.weight"], ["n"], name="norm"),
        *(node("MatMul", ["n", f"w{i}"], [name], name=f"to_{name}") for i, name in enumerate("qkv")),
        *(
            node("RotaryEmbedding", [name, "cos", "sin", "at4"], [f"{name}r"], name=f"turn_{name}", num_heads=2)
            for name in "qk"
        ),
        node("Attention", ["qr", "kr", "v"], ["a"], name="plain", q_num_heads=2, kv_num_heads=2),
        node("Attention", ["q", "k", "v"], ["b"], name="causal", q_num_heads=2, kv_num_heads=2, is_causal=1),
        node("Add", ["a", "b"], ["sum"], name="sum"),
        node("MatMul", ["sum", "w3"], ["p"], name="proj"),
        node("Add", ["p", "x"], ["r"], name="residual"),
        node("MatMul", ["r", "w4"], ["up"], name="up"),
        node("Gelu", ["up"], ["g"], name="act"),
        node("Swish", ["up"], ["s"], name="gate", alpha=1.5),
        node("Mul", ["g", "s"], ["gs"], name="gated"),
        node("MatMul", ["gs", "w5"], ["down"], name="down"),
        node("Add", ["down", "bias"], ["d"], name="down_bias"),
        node("GroupNormalization", ["d", "c", "c"], ["gn"], name="group", num_groups=2),
        node("Relu", ["gn"], ["re"], name="relu"),
        node("Reshape", ["re", "split"], ["heads"], name="reshape"),
        node("Reshape", ["heads", "flat"], ["back"], name="reshape_back"),
        node("MatMul", ["back", "w6"], ["y"], name="head"),
    ]
    constants["at4"] = np.arange(4)[None]
    return made(nodes, {"x": numbers(1, 4, size)}, constants, batch=False)


def test_weights_and_activations_to_quantize_are_the_same_at_every_opset() -> None:
    network = normalise(_network())
    stored = dump(network)
    assert {node.op_type for node in network.proto.graph.node} >= {
        *("RMSNormalization", "RotaryEmbedding", "Attention", "Gelu", "Swish", "GroupNormalization")
    }
    x = {"x": numbers(1, 4, 8)}
    reference, activations = in_torch(network.proto, x), find_activations(network)
    assert {"n", "a", "b", "sum", "r", "g", "s", "gs", "re", "p"} <= {site.name for site in activations}
    assert all(layer.macs > 0 for layer in network.layers())
    for opset in OPSETS:
        older = load(stored, opset)
        assert dump(older) == dump(normalise(_network(), opset=opset))
        onnx.checker.check_model(older.proto, full_check=True)
        assert any(map(is_expanded, older.proto.graph.node)) == (opset < 24)
        assert older.sites == network.sites
        assert find_activations(older) == activations
        assert_close(in_torch(older.proto, x), reference)
        if opset < 24:  # there ONNX Runtime has no Swish
            assert_close(computed(older.proto, x), reference)


def _branches(inner: NodeProto) -> NodeProto:
    branch = helper.make_graph([inner], "branch", [], [helper.make_tensor_value_info("inner", F, None)])
    return node("If", ["condition"], ["y"], then_branch=branch, else_branch=branch, name="if")


def test_names_are_those_of_the_node_and_no_others_in_all_graphs() -> None:
    """Of nodes without a name those of their outputs; names that are there already are left alone."""
    nodes = [
        node("Relu", ["x"], ["act/Erf_1"], name="relu"),
        node("Gelu", ["act/Erf_1"], ["g"], name="act"),
        node("Gelu", ["g"], ["h"]),
        _branches(node("Gelu", ["h"], ["inner"], name="act")),
    ]
    model = made(nodes, {"x": X}, {"condition": np.array(True)})
    older = lowered(model, 18)
    graphs = [older.graph, *(attribute.g for attribute in older.graph.node[-1].attribute)]
    names = [one.name for graph in graphs for one in graph.node if is_expanded(one)]
    assert len(names) == len(set(names)) == 4 * 5
    assert {name.split("/")[0] for name in names} == {"act_2", "h", "act_3", "act_4"}
    values = [name for graph in graphs for one in graph.node for name in one.output] + [
        tensor.name for graph in graphs for tensor in graph.initializer
    ]
    assert sorted(name for name in values if values.count(name) > 1) == ["inner", "inner"]
    # ONNX Runtime has an older kernel for Gelu's parts, whose erf differs in its last digits
    assert_close(computed(older, {"x": X}), computed(model, {"x": X}))


def test_types_and_shapes_that_are_not_known_are_asked_for_at_run_time() -> None:
    nodes = [
        node("NonZero", ["x"], ["where"]),
        node("GatherND", ["x", "rows"], ["some"]),
        node("RMSNormalization", ["some", "s"], ["r"], name="rms", axis=1),
        node("Gelu", ["r"], ["y"], name="gelu"),
    ]
    model = made(nodes[1:], {"x": X}, {"rows": np.array([[0], [1], [0]]), "s": numbers(4, 3, 6)})
    reference = in_torch(model, {"x": X})
    del model.graph.value_info[:]
    older = lowered(model, 18)
    assert {"CastLike", "Range"} <= {one.op_type for one in older.graph.node}
    assert_close(computed(older, {"x": X}), reference)


def test_attention_of_unknown_types_is_refused() -> None:
    model = made([node("Relu", ["q"], ["r"]), node("Attention", ["r", "q", "q"], ["y"], name="one")], {"q": Q})
    del model.graph.value_info[:]
    before = model.SerializeToString()
    with pytest.raises(OpsetNotReachable, match=r"Attention is new in opset 23 .node 'one'.. The oldest .* is 23"):
        lower(model, 22)
    assert model.SerializeToString() == before


def test_outputs_that_nothing_asks_for_cost_nothing() -> None:
    """ONNX's functions compute all that the operator may return."""
    nodes = [node("Attention", ["q", "k", "v"], ["y", "", "present"], is_causal=1)]
    older = lowered(made(nodes, {"q": Q, "k": K, "v": V}), 18)
    read = {name for one in older.graph.node for name in one.input} | {"y", "present"}
    assert all(read.intersection(one.output) for one in older.graph.node)
    assert {tensor.name for tensor in older.graph.initializer} <= read
    assert {one.output[0] for one in older.graph.node if one.op_type == "Identity"} <= {"y", "present"}


def test_quantized_activations_around_it_give_the_same_at_every_opset() -> None:
    """ONNX Runtime moves and fuses what is quantized; what it makes of the new nodes must not change a value."""
    stored, x = dump(normalise(_network())), {"x": numbers(1, 4, 8)}
    found = find_activations(load(stored, 24))
    rounded = {name: QuantizedActivation(UnsignedFormat(8), 0.0625, 128) for site in found for name in site.tensors}
    [reference] = computed(ModelProto.FromString(simulate(load(stored, 24), {}, rounded)), x)
    for opset in OPSETS:
        file = export(load(stored, opset), {}, {}, rounded)
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        np.testing.assert_allclose(session.run(None, x)[0], reference, rtol=1e-5, atol=1e-5)
