"""Files of ai.onnx.ml alone: trees, support vectors and linear models hold their parameters as attributes of a node."""

from __future__ import annotations

import math
from collections.abc import Iterator

from onnx import ModelProto, NodeProto, TensorProto

from network.errors import NothingToQuantize, listing
from network.onnx_graph import graphs, nodes

_MODELS = frozenset(
    {"LinearClassifier", "LinearRegressor", "SVMClassifier", "SVMRegressor", "TreeEnsemble"}
    | {"TreeEnsembleClassifier", "TreeEnsembleRegressor"}
)
_DOMAIN = "ai.onnx.ml"


def require_layers(model: ModelProto) -> None:
    """Refuse a model of ai.onnx.ml that has no matrix of floats beside it.

    Raises:
        NothingToQuantize: names its operators.
    """
    models = [node for node in nodes(model.graph) if is_model(node)]
    if models and not any(_is_matrix(tensor) for tensor in _tensors(model)):
        raise NothingToQuantize(f"valid ONNX, but nothing here can be quantized: {parameters_elsewhere(models)}")


def is_model(node: NodeProto) -> bool:
    """Whether the node is a whole classifier or regressor of ai.onnx.ml."""
    return node.domain == _DOMAIN and node.op_type in _MODELS


def parameters_elsewhere(models: list[NodeProto]) -> str:
    """Where the parameters of these nodes are, for a text."""
    kinds = listing(sorted({node.op_type for node in models}))
    return (
        f"it has no Conv, Gemm, MatMul or other layer with a weight; its parameters are attributes of {kinds}, which "
        "have no format of fewer bits"
    )


def _is_matrix(tensor: TensorProto) -> bool:
    floats = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
    return len(tensor.dims) > 1 and math.prod(tensor.dims) > 1 and tensor.data_type in floats


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    for graph in graphs(model.graph):
        yield from graph.initializer
        for node in graph.node:
            yield from (attribute.t for attribute in node.attribute if attribute.HasField("t"))
