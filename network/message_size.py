"""How many bytes protobuf messages take. protobuf itself says so by writing them, in three times the memory.

Source of the encoding: https://protobuf.dev/programming-guides/encoding; of the numbers: onnx/onnx.proto.
"""

from __future__ import annotations

import math

from onnx import ModelProto

from network.onnx_graph import without_initializers

GRAPH, INITIALIZER = 7, 5  # numbers of fields, of ModelProto and of GraphProto


def size_bytes(model: ModelProto) -> tuple[int, int]:
    """Of a model, and of its graph; of initializers one at a time is written."""
    bare = without_initializers(model)
    bare_graph = int(bare.graph.ByteSize())
    graph = bare_graph + sum(field_size(INITIALIZER, int(own.ByteSize())) for own in model.graph.initializer)
    rest = int(bare.ByteSize()) - (field_size(GRAPH, bare_graph) if bare.HasField("graph") else 0)
    return rest + (field_size(GRAPH, graph) if model.HasField("graph") else 0), graph


def field_size(number: int, length: int) -> int:
    """Bytes of a field of `length` bytes: its number, its length as a varint, and itself."""
    return len(field_header(number, length)) + length


def field_header(number: int, length: int) -> bytes:
    """What stands before the bytes of a field: its number with the kind of field that has a length, and the length."""
    return _varint(number << 3 | 2) + _varint(length)


def _varint(value: int) -> bytes:
    """Seven bits in each byte, the lowest first; all but the last have the highest bit set."""
    groups = [value >> 7 * place & 127 for place in range(max(1, math.ceil(value.bit_length() / 7)))]
    return bytes([*(group | 128 for group in groups[:-1]), groups[-1]])
