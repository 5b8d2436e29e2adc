"""The memory that a network takes at least: bombs are refused without running them, and small networks are exact."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from network.admission import AdmissionLimits
from network.errors import ModelTooLarge
from network.memory import estimate_memory
from tests.network.models import build, refusal, value


def bomb(*lengths: int) -> ModelProto:
    return build(
        [helper.make_node("ConstantOfShape", ["s"], ["y"])],
        [value("x", [1])],
        [value("y", [f"d{i}" for i in range(len(lengths))])],
        {"s": np.array(lengths, np.int64)},
    )


def test_a_tiny_model_that_makes_gigabytes_is_refused_without_running_it() -> None:
    model = bomb(1 << 29)
    assert len(model.SerializeToString()) < 148
    text = refusal(model, ModelTooLarge, AdmissionLimits())
    assert f"'y' with {1 << 31:,}" in text


def test_sizes_beyond_64_bits_do_not_wrap_around() -> None:
    assert estimate_memory(bomb(1 << 40, 1 << 40), 1).total_bytes > 1 << 80


def test_the_size_may_come_from_shape_arithmetic() -> None:
    model = bomb(1 << 15)
    model.graph.node.insert(0, helper.make_node("Mul", ["s", "s"], ["t"]))
    model.graph.node[1].input[0] = "t"
    assert f"'y' with {1 << 32:,}" in refusal(model, ModelTooLarge, AdmissionLimits())


@pytest.mark.parametrize("constant", [False, True])
def test_values_inside_subgraphs_count(constant: bool) -> None:
    inner = helper.make_graph(
        [
            helper.make_node("ConstantOfShape", ["s"], ["big"]),
            helper.make_node("ReduceSum", ["big"], ["z"], keepdims=0),
        ],
        "inner",
        [],
        [value("z", [])],
    )
    model = build(
        [helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)],
        [value("x", [1]), value("c", [], TensorProto.BOOL)],
        [value("y", [])],
        {"s": np.array([1 << 30], np.int64)},
    )
    if constant:
        model.graph.node.insert(0, helper.make_node("Constant", [], ["s"], value=model.graph.initializer.pop()))
    assert "'big'" in refusal(model, ModelTooLarge, AdmissionLimits())


def test_the_peak_is_that_of_the_live_values() -> None:
    """Chain of Relu over [N, 100] floats: the input stays, and at each node one value comes while one is still held."""
    nodes = [helper.make_node("Relu", [f"v{i}"], [f"v{i + 1}"]) for i in range(10)]
    model = build(nodes, [value("v0", ["N", 100])], [value("v10", ["N", 100])])
    assert estimate_memory(model, 1).total_bytes == 3 * 400
    assert estimate_memory(model, 7).total_bytes == 7 * 3 * 400


def test_a_value_held_for_a_late_use_counts_all_the_time() -> None:
    """v0 -> a; a -> c -> d; d + a: `a` is alive beside v0, c and d."""
    nodes = [
        helper.make_node("Relu", ["v0"], ["a"]),
        helper.make_node("Relu", ["a"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("Add", ["d", "a"], ["y"]),
    ]
    model = build(nodes, [value("v0", ["N", 100])], [value("y", ["N", 100])])
    assert estimate_memory(model, 1).total_bytes == 4 * 400


def test_weights_count_once_and_at_their_type() -> None:
    half = build(
        [helper.make_node("MatMul", ["x", "W"], ["y"])],
        [value("x", ["N", 4], TensorProto.FLOAT16)],
        [value("y", ["N", 3], TensorProto.FLOAT16)],
        {"W": np.eye(4, 3, dtype=np.float16)},
    )
    estimate = estimate_memory(half, 1)
    assert estimate.weight_bytes == 4 * 3 * 2
    assert estimate.activation_bytes == (4 + 3) * 2
    packed = helper.make_tensor("P", TensorProto.INT4, [5], bytes(3), raw=True)
    half.graph.initializer.append(packed)
    assert estimate_memory(half, 1).weight_bytes == 24 + 3


def test_unknown_axes_are_assumed_unless_the_data_fixes_them() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    model = build(nodes, [value("x", ["N", "T", 8])], [value("y", ["N", "T", 8])])
    assert estimate_memory(model, 2).total_bytes == 2 * (2 * 64 * 8 * 4)
    assert estimate_memory(model, 2, {"x": (5, 8)}).total_bytes == 2 * (2 * 5 * 8 * 4)


def test_a_value_of_unknown_shape_counts_as_the_largest_known() -> None:
    nodes = [helper.make_node("NonZero", ["x"], ["i"]), helper.make_node("Cast", ["i"], ["y"], to=1)]
    model = build(nodes, [value("x", ["N", 100])], [value("y", [2, "K"])])
    estimate = estimate_memory(model, 1)
    assert estimate.unknown == 2
    assert estimate.activation_bytes == 3 * 400


def test_a_batch_that_the_graph_fixes_stays() -> None:
    model = build([helper.make_node("Relu", ["x"], ["y"])], [value("x", [3, 10])], [value("y", [3, 10])])
    assert estimate_memory(model, 100).total_bytes == 2 * 3 * 10 * 4
    with pytest.raises(ValueError, match="batch"):
        estimate_memory(model, 0)
