"""Small networks whose whole Hessian can be written down."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from network.graph import Network
from network.normalise import from_proto, normalise


def _network(nodes, initializers, shape, opset=18) -> Network:
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in initializers.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return normalise(model, {"x": shape})


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture
def mlp(rng) -> Network:
    """Two Gemm layers with tanh between, 5 classes."""
    return _network(
        [
            helper.make_node("Gemm", ["x", "a", "ab"], ["h"], transB=1),
            helper.make_node("Tanh", ["h"], ["t"]),
            helper.make_node("Gemm", ["t", "b", "bb"], ["y"], transB=1),
        ],
        {
            "a": rng.normal(size=(6, 4)),
            "ab": rng.normal(size=6),
            "b": rng.normal(size=(5, 6)),
            "bb": rng.normal(size=5),
        },
        (4,),
    )


@pytest.fixture
def convolutions(rng) -> Network:
    """A grouped convolution behind a dense one, global pooling, a linear layer."""
    return _network(
        [
            helper.make_node("Conv", ["x", "a"], ["h"], pads=[1, 1, 1, 1]),
            helper.make_node("Sigmoid", ["h"], ["s"]),
            helper.make_node("Conv", ["s", "b"], ["g"], group=2),
            helper.make_node("GlobalAveragePool", ["g"], ["p"]),
            helper.make_node("Flatten", ["p"], ["f"]),
            helper.make_node("MatMul", ["f", "c"], ["y"]),
        ],
        {
            "a": 0.5 * rng.normal(size=(4, 2, 3, 3)),
            "b": 0.5 * rng.normal(size=(4, 2, 3, 3)),
            "c": rng.normal(size=(4, 3)),
        },
        (2, 5, 5),
    )


@pytest.fixture
def tied(rng) -> Network:
    """One weight used by two layers."""
    return _network(
        [
            helper.make_node("MatMul", ["x", "a"], ["h"]),
            helper.make_node("Tanh", ["h"], ["t"]),
            helper.make_node("MatMul", ["t", "a"], ["u"]),
            helper.make_node("Tanh", ["u"], ["v"]),
            helper.make_node("MatMul", ["v", "b"], ["y"]),
        ],
        {"a": rng.normal(size=(4, 4)), "b": rng.normal(size=(4, 3))},
        (4,),
    )


@pytest.fixture
def attention(rng) -> Network:
    """One head of attention over 3 tokens, mean pooling, a linear layer."""
    return _network(
        [
            helper.make_node("MatMul", ["x", "q"], ["Q"]),
            helper.make_node("MatMul", ["x", "k"], ["K"]),
            helper.make_node("MatMul", ["x", "v"], ["V"]),
            helper.make_node("Transpose", ["K"], ["KT"], perm=[0, 2, 1]),
            helper.make_node("MatMul", ["Q", "KT"], ["S"]),
            helper.make_node("Softmax", ["S"], ["P"], axis=-1),
            helper.make_node("MatMul", ["P", "V"], ["A"]),
            helper.make_node("ReduceMean", ["A"], ["m"], keepdims=0, axes=[1]),
            helper.make_node("MatMul", ["m", "o"], ["y"]),
        ],
        {name: rng.normal(size=(4, 4)) for name in "qkvo"},
        (3, 4),
        opset=17,  # the last in which ReduceMean takes its axes as an attribute
    )


@pytest.fixture
def softmaxed(rng) -> Network:
    """A classifier that ends in a softmax."""
    return _network(
        [
            helper.make_node("MatMul", ["x", "a"], ["h"]),
            helper.make_node("Tanh", ["h"], ["t"]),
            helper.make_node("MatMul", ["t", "b"], ["z"]),
            helper.make_node("Softmax", ["z"], ["y"], axis=-1),
        ],
        {"a": rng.normal(size=(4, 5)), "b": rng.normal(size=(5, 3))},
        (4,),
    )


@pytest.fixture
def detector(rng) -> Network:
    """Logits of classes, boxes and scores past a sigmoid, at 3 positions: three outputs, one of them integers.

    `classes` `[N, 3, positions]`, `best` `[N, positions]`, `found` `[N, 4 + 2, positions]`: pixels, then scores.
    """
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"], name="a"),
        helper.make_node("Tanh", ["h"], ["t"], name="tanh"),
        helper.make_node("MatMul", ["t", "b"], ["z"], name="b"),
        helper.make_node("Transpose", ["z"], ["classes"], perm=[0, 2, 1], name="classes_last"),
        helper.make_node("MatMul", ["t", "c"], ["boxes"], name="c"),
        helper.make_node("MatMul", ["t", "d"], ["s"], name="d"),
        helper.make_node("Sigmoid", ["s"], ["scores"], name="sigmoid"),
        helper.make_node("Concat", ["boxes", "scores"], ["both"], axis=2, name="both"),
        helper.make_node("Transpose", ["both"], ["found"], perm=[0, 2, 1], name="found_last"),
        helper.make_node("ArgMax", ["classes"], ["best"], axis=1, keepdims=0, name="best"),
    ]
    weights = {"a": rng.normal(size=(2, 4)), "b": rng.normal(size=(4, 3)), "c": 40 * rng.normal(size=(4, 4))}
    weights["d"] = 2 * rng.normal(size=(4, 2))
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 2])],
        [
            helper.make_tensor_value_info("classes", TensorProto.FLOAT, ["N", 3, 3]),
            helper.make_tensor_value_info("best", TensorProto.INT64, ["N", 3]),
            helper.make_tensor_value_info("found", TensorProto.FLOAT, ["N", 6, 3]),
        ],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    return from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))
