"""More small networks: the layers and the places of samples that those of the traces do not have."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from network.graph import Network
from network.normalise import from_proto


def _network(nodes, initializers, name, element_type, shape) -> Network:
    """As the file has it: folding would take away what reads nothing but initializers."""
    for number, node in enumerate(nodes):
        node.name = f"node{number}"
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(name, element_type, ["N", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(a.astype(np.float32) if a.dtype == np.float64 else a, key)
            for key, a in initializers.items()
        ],
    )
    return from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))


@pytest.fixture
def sequence(rng) -> Network:
    """A 1-D convolution, a grouped transposed one with a bias, a skip connection, a linear layer."""
    return _network(
        [
            helper.make_node("Conv", ["x", "a", "ab"], ["h"], pads=[1, 1]),
            helper.make_node("Tanh", ["h"], ["t"]),
            helper.make_node("ConvTranspose", ["t", "b", "bb"], ["g"], group=2, pads=[1, 1]),
            helper.make_node("Add", ["g", "t"], ["s"]),
            helper.make_node("Sigmoid", ["s"], ["r"]),
            helper.make_node("Flatten", ["r"], ["f"]),
            helper.make_node("Gemm", ["f", "c", "cb"], ["y"], alpha=0.5, beta=2.0),
        ],
        {
            "a": rng.normal(size=(4, 2, 3)),
            "ab": rng.normal(size=4),
            "b": rng.normal(size=(4, 2, 3)),
            "bb": rng.normal(size=4),
            "c": rng.normal(size=(16, 3)),
            "cb": rng.normal(size=3),
        },
        "x",
        TensorProto.FLOAT,
        (2, 4),
    )


@pytest.fixture
def tokens(rng) -> Network:
    """Embeddings of words and of positions, the sequence before the batch, both merged in one axis, then apart again.

    The positions are the same for all samples: no axis of `p` is that of the samples. In `h` it is the second, in `m`
    it is merged *behind* the positions.
    """
    return _network(
        [
            helper.make_node("Gather", ["words", "ids"], ["e"]),
            helper.make_node("Gather", ["positions", "places"], ["p"]),
            helper.make_node("Add", ["e", "p"], ["sum"]),
            helper.make_node("Transpose", ["sum"], ["h"], perm=[1, 0, 2]),
            helper.make_node("MatMul", ["h", "a"], ["q"]),
            helper.make_node("Tanh", ["q"], ["t"]),
            helper.make_node("Reshape", ["t", "merged"], ["m"]),
            helper.make_node("Gemm", ["m", "b"], ["g"]),
            helper.make_node("Tanh", ["g"], ["u"]),
            helper.make_node("Reshape", ["u", "apart"], ["v"]),
            helper.make_node("ReduceMean", ["v", "first"], ["w"], keepdims=0),
            helper.make_node("MatMul", ["w", "c"], ["y"]),
        ],
        {
            "words": rng.normal(size=(5, 3)),
            "positions": rng.normal(size=(3, 3)),
            "places": np.array([2, 0, 1]),
            "a": rng.normal(size=(3, 4)),
            "merged": np.array([-1, 4]),
            "b": rng.normal(size=(4, 3)),
            "apart": np.array([3, -1, 3]),
            "first": np.array([0]),
            "c": rng.normal(size=(3, 3)),
        },
        "ids",
        TensorProto.INT64,
        (3,),
    )


@pytest.fixture
def transposed(rng) -> Network:
    """A weight that a layer reads as it is, and another MatMul scaled and transposed, by nodes that are no layers."""
    return _network(
        [
            helper.make_node("MatMul", ["x", "a"], ["h"]),
            helper.make_node("Tanh", ["h"], ["t"]),
            helper.make_node("Mul", ["a", "factors"], ["scaled"]),
            helper.make_node("Transpose", ["scaled"], ["turned"], perm=[1, 0]),
            helper.make_node("MatMul", ["t", "turned"], ["u"]),
            helper.make_node("Tanh", ["u"], ["v"]),
            helper.make_node("MatMul", ["v", "b"], ["y"]),
        ],
        {"a": rng.normal(size=(4, 4)), "b": rng.normal(size=(4, 3)), "factors": rng.normal(size=(4, 1))},
        "x",
        TensorProto.FLOAT,
        (4,),
    )
