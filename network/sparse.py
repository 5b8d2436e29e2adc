"""Sparse tensors made dense: what reads a network then knows one kind of constant."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, SparseTensorProto, TensorProto, numpy_helper

from network.errors import ModelTooLarge
from network.onnx_graph import graphs


def make_dense(model: ModelProto, max_bytes: int) -> None:
    """Turn the sparse initializers and sparse Constants of a checked `model` into dense ones, in place.

    Raises:
        ModelTooLarge: dense they take more than `max_bytes`.
        ValueError, IndexError: indices that do not lie in the tensor.
    """
    left = max_bytes
    for graph in graphs(model.graph):
        for sparse in graph.sparse_initializer:
            left = _take(sparse, left, max_bytes)
            graph.initializer.append(_dense(sparse, sparse.values.name))
        del graph.sparse_initializer[:]
        for node in graph.node:
            for attribute in node.attribute if node.op_type == "Constant" else ():
                if attribute.name == "sparse_value":
                    left = _take(attribute.sparse_tensor, left, max_bytes)
                    tensor = _dense(attribute.sparse_tensor, "")
                    attribute.Clear()
                    attribute.name, attribute.type = "value", attribute.TENSOR
                    attribute.t.CopyFrom(tensor)


def _take(sparse: SparseTensorProto, left: int, max_bytes: int) -> int:
    """What is left of the bytes."""
    size: int = math.prod(sparse.dims) * numpy_helper.to_array(sparse.values).itemsize
    if size > left:
        raise ModelTooLarge(
            f"the sparse tensor {sparse.values.name!r} of shape {list(sparse.dims)} takes {size:,} bytes when it is "
            f"dense, as it is when it runs; at most {max_bytes:,} are allowed for such tensors"
        )
    return left - size


def _dense(sparse: SparseTensorProto, name: str) -> TensorProto:
    """Indices are flat `[NNZ]`, or one row for each value `[NNZ, rank]`."""
    shape = tuple(sparse.dims)
    values: NDArray[Any] = numpy_helper.to_array(sparse.values).reshape(-1)
    indices: NDArray[Any] = numpy_helper.to_array(sparse.indices)
    if indices.ndim == 2:
        indices = np.ravel_multi_index(tuple(indices.T), shape)
    dense = np.zeros(math.prod(shape), values.dtype)
    dense[indices] = values
    return numpy_helper.from_array(dense.reshape(shape), name)
