"""A model in a file, read part by part: an initializer is in memory while it is looked at, and not before.

protobuf itself needs the file twice at once, as bytes and as messages.

Source of the encoding: https://protobuf.dev/programming-guides/encoding; of the numbers: onnx/onnx.proto.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from onnx import GraphProto, TensorProto

from network.message_size import GRAPH, INITIALIZER

_FIXED = {1: 8, 5: 4}
"""Bytes of a value, by the kind of its field."""
_VARINT, _WITH_LENGTH, _GROUP_BEGINS, _GROUP_ENDS = 0, 2, 3, 4


@dataclass(frozen=True, slots=True)
class _Field:
    """A field of a message in a file: where it begins, where its value begins, and where both end."""

    number: int
    kind: int
    begin: int
    value: int
    end: int


class ModelFile:
    """The model in a file, which protobuf parsed before: its `graph` without initializers, and these by name.

    Raises:
        EOFError: the file is cut off.
        OSError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.graph = GraphProto()
        self._places: dict[str, _Field] = {}
        with path.open("rb") as file:
            for graph in _fields(file, 0, file.seek(0, os.SEEK_END)):
                if graph.number == GRAPH:
                    self._read_graph(file, graph)

    def __contains__(self, initializer: str) -> bool:
        return initializer in self._places

    def initializer(self, name: str) -> TensorProto:
        """It with its values, read now.

        Raises:
            KeyError: the graph has none of this name.
        """
        with self._path.open("rb") as file:
            return _tensor(file, self._places[name])

    def _read_graph(self, file: IO[bytes], graph: _Field) -> None:
        """Of several graphs in one message protobuf makes one, too."""
        rest = []
        for field in _fields(file, graph.value, graph.end):
            if field.number == INITIALIZER:
                self._places[_tensor(file, field).name] = field
            else:
                rest.append(_read(file, field.begin, field.end))
        self.graph.MergeFromString(b"".join(rest))


def _tensor(file: IO[bytes], field: _Field) -> TensorProto:
    tensor: TensorProto = TensorProto.FromString(_read(file, field.value, field.end))
    return tensor


def _fields(file: IO[bytes], begin: int, end: int) -> Iterator[_Field]:
    """Of the message between two places in the file."""
    while begin < end:
        file.seek(begin)
        field = _field(file, begin)
        yield field
        begin = field.end


def _field(file: IO[bytes], begin: int) -> _Field:
    """The one that begins here, where the file stands."""
    tag = _varint(file)
    number, kind = tag >> 3, tag & 7
    length = _varint(file) if kind == _WITH_LENGTH else _FIXED.get(kind, 0)
    value = file.tell()
    end = value + length
    if kind == _VARINT:
        _varint(file)
        end = file.tell()
    elif kind == _GROUP_BEGINS:  # ONNX has none, but protobuf takes fields that it does not know
        while (inner := _field(file, end)).kind != _GROUP_ENDS:
            end = inner.end
            file.seek(end)
        end = inner.end
    return _Field(number, kind, begin, value, end)


def _varint(file: IO[bytes]) -> int:
    """Seven bits in each byte, the lowest first; all but the last have the highest bit set."""
    number = shift = 0
    while True:
        byte = _exactly(file, 1)[0]
        number |= (byte & 127) << shift
        if byte < 128:
            return number
        shift += 7


def _read(file: IO[bytes], begin: int, end: int) -> bytes:
    file.seek(begin)
    return _exactly(file, end - begin)


def _exactly(file: IO[bytes], count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise EOFError("the file ends within a part of its model")
    return data
