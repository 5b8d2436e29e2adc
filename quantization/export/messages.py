"""Protobuf messages of ONNX, without the large values that they may hold: copies, and sizes with the values.

Source of the encoding and of the numbers: https://protobuf.dev/programming-guides/encoding, onnx/onnx.proto.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

import onnx

from network.message_size import field_size
from network.onnx_graph import without_initializers

LARGEST_MESSAGE = (1 << 31) - 1
"""Bytes that a protobuf message may have."""

# numbers of fields
GRAPH, FUNCTIONS = 7, 25  # of ModelProto
NODE, INITIALIZER = 1, 5  # of GraphProto
RAW_DATA = 9  # of TensorProto


def draft_without(
    model: onnx.ModelProto, initializers: Container[str], valueless: Container[str] = frozenset()
) -> onnx.ModelProto:
    """A copy of `model` that lacks some initializers, and the values of those in `valueless`, made without copying
    either."""
    copy = without_initializers(model)
    for tensor in model.graph.initializer:
        if tensor.name in valueless:
            copy.graph.initializer.append(without_values(tensor.name, tensor.data_type, tensor.dims))
        elif tensor.name not in initializers:
            copy.graph.initializer.append(tensor)
    return copy


def without_values(name: str, data_type: int, dims: Sequence[int]) -> onnx.TensorProto:
    """A tensor that gets its values as `raw_data` later."""
    return onnx.TensorProto(name=name, data_type=data_type, dims=dims)


def file_size(model: onnx.ModelProto, missing: Mapping[str, int]) -> int:
    """Bytes of the file once the initializers named in `missing` have so many bytes of values."""
    graph = int(model.graph.ByteSize())
    rest = int(model.ByteSize()) - field_size(GRAPH, graph)
    for tensor in model.graph.initializer:
        if tensor.name in missing:
            header = int(tensor.ByteSize())
            whole = header + field_size(RAW_DATA, missing[tensor.name])
            graph += field_size(INITIALIZER, whole) - field_size(INITIALIZER, header)
    return rest + field_size(GRAPH, graph)
