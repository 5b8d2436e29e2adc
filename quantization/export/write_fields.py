"""An ONNX file field after field, without a message that holds all of it.

The large tensors of a draft lack their values (`Payload` gives them, one at a time). The rest is small and is
serialized as it is; lengths are known before anything is written. What comes out are the bytes that protobuf gives for
the whole message: fields in the order of their numbers.

Source of the encoding and of the numbers: https://protobuf.dev/programming-guides/encoding, onnx/onnx.proto.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import onnx

LARGEST_MESSAGE = (1 << 31) - 1
"""Bytes that a protobuf message may have."""

GRAPH = 7  # of ModelProto
INITIALIZER = 5  # of GraphProto
RAW_DATA = 9  # of TensorProto
_LENGTH_DELIMITED = 2

Bytes = bytes | memoryview

_Message = TypeVar("_Message", onnx.ModelProto, onnx.GraphProto)


@dataclass(frozen=True, slots=True)
class Payload:
    """The values of a tensor: `size_bytes` of them, made by `read`."""

    size_bytes: int
    read: Callable[[], Bytes]


def file_size(draft: onnx.ModelProto, payloads: Mapping[str, Payload]) -> int:
    """Bytes of the file that `file_fields` gives."""
    without = int(draft.ByteSize()) - field_size(GRAPH, draft.graph.ByteSize())
    return without + field_size(GRAPH, _graph_size(draft, payloads))


def file_fields(draft: onnx.ModelProto, payloads: Mapping[str, Payload]) -> Iterator[Bytes]:
    """The file in pieces: `draft` with the values of the initializers that `payloads` names as their `raw_data`.

    Args:
        draft: not changed. Initializers with a payload have a name, a type and dimensions, and nothing else.
    """
    yield _serialized(_part(draft, lambda number: number < GRAPH))
    yield _prefix(GRAPH, _graph_size(draft, payloads))
    yield _serialized(_part(draft.graph, lambda number: number < INITIALIZER))
    for tensor in draft.graph.initializer:
        header, payload = _serialized(tensor), payloads.get(tensor.name)
        if payload is None:
            yield _prefix(INITIALIZER, len(header)) + header
            continue
        values = _prefix(RAW_DATA, payload.size_bytes)
        yield _prefix(INITIALIZER, len(header) + len(values) + payload.size_bytes) + header + values
        yield payload.read()
    yield _serialized(_part(draft.graph, lambda number: number > INITIALIZER))
    yield _serialized(_part(draft, lambda number: number > GRAPH))


def field_size(number: int, length: int) -> int:
    """Bytes of a field of `length` bytes: its number, its length as a varint, and itself."""
    return _varint_size(number << 3) + _varint_size(length) + length


def _varint_size(value: int) -> int:
    return max(1, math.ceil(value.bit_length() / 7))


def _graph_size(draft: onnx.ModelProto, payloads: Mapping[str, Payload]) -> int:
    size = int(draft.graph.ByteSize())
    for tensor in draft.graph.initializer:
        if (payload := payloads.get(tensor.name)) is not None:
            header = int(tensor.ByteSize())
            whole = header + field_size(RAW_DATA, payload.size_bytes)
            size += field_size(INITIALIZER, whole) - field_size(INITIALIZER, header)
    return size


def _prefix(number: int, length: int) -> bytes:
    """What comes before the `length` bytes of a field."""
    found = bytearray([number << 3 | _LENGTH_DELIMITED])
    while length > 0x7F:
        found.append(length & 0x7F | 0x80)
        length >>= 7
    found.append(length)
    return bytes(found)


def _serialized(message: Any) -> bytes:
    return bytes(message.SerializeToString(deterministic=True))


def _part(message: _Message, wanted: Callable[[int], bool]) -> _Message:
    """A copy of the fields whose numbers are wanted."""
    part = type(message)()
    copy_fields(message, part, wanted)
    return part


def copy_fields(source: _Message, target: _Message, wanted: Callable[[int], bool]) -> None:
    """Add the fields of `source` whose numbers are wanted to `target`."""
    for field, value in source.ListFields():
        if not wanted(field.number):
            continue
        if isinstance(value, (str, bytes, int, float, bool)):
            setattr(target, field.name, value)
        else:
            getattr(target, field.name).MergeFrom(value)
