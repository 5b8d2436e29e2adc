"""A quantized ONNX file written to a path, one weight at a time, in two files where one would be too large.

With `quantization.export.on_demand.RoundedOnDemand` a weight is rounded, packed, written and forgotten before the next
one.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

from network.graph import Network
from quantization.activations.quantized import QuantizedActivation
from quantization.export.export import Drafted, draft_file
from quantization.export.external_data import place_outside
from quantization.export.matmul_nbits import Products
from quantization.export.write_fields import LARGEST_MESSAGE
from quantization.storage.weights import QuantizedWeight

DATA_SUFFIX = ".data"
ALIGNMENT = 4096  # bytes; with it ONNX Runtime maps tensors into memory instead of reading them
SMALLEST_EXTERNAL = 4096  # bytes; shorter tensors stay in the model's file
_NO_ACTIVATIONS: Mapping[str, QuantizedActivation] = MappingProxyType({})


def write(
    network: Network,
    weights: Mapping[str, QuantizedWeight],
    path: Path,
    metadata: Mapping[str, str],
    activations: Mapping[str, QuantizedActivation] = _NO_ACTIVATIONS,
    *,
    products: Products = Products.FLOAT,
    halves: Collection[str] = (),
    largest_file: int = LARGEST_MESSAGE,
) -> int:
    """Write what `quantization.export.export.export` returns to `path`, and give the bytes written.

    Takes the memory of one weight, its rounding and its packed tensors. A model of more than `largest_file` bytes
    keeps the values of its tensors in a second file beside it, `path` with `.data` behind its name (ONNX's external
    data); the two must stay together, under their names.

    Both are written beside their places first and then take their names. Whoever is stopped in between leaves the old
    model, no model, or the new one, each with its own values; a process that is killed may leave files that end in
    `.part`, and the next `write` to this path replaces them.

    Args:
        weights: as for `export`, by initializer name; `RoundedOnDemand` holds none of them.
        path: of the `.onnx` file; what is there is replaced. So is the second file, or removed where none is needed.
        products: how layers multiply with weights in blocks.
        halves: other initializers that are stored as float16 (`quantization.export.leftovers`).
        largest_file: bytes that the model's own file may have, at most what protobuf reads.

    Raises:
        QuantizationError: as `export`.
        OSError: the path cannot be written.
        ValueError: `largest_file` is more than protobuf reads.
    """
    if largest_file > LARGEST_MESSAGE:
        raise ValueError(f"a protobuf message has at most {LARGEST_MESSAGE} bytes, got a limit of {largest_file}")
    drafted = draft_file(network, weights, metadata, activations, products=products, halves=halves)
    data = path.with_name(path.name + DATA_SUFFIX)
    if drafted.size_bytes <= largest_file:
        with _part(path) as file:
            size = sum(file.write(piece) for piece in drafted.fields())
            file.close()
            _take_name(path)
            data.unlink(missing_ok=True)
            return size
    with _part(data) as values, _part(path) as file:
        size, rest = _write_data(values, drafted, data.name)
        size += sum(file.write(piece) for piece in rest.fields())
        values.close()
        file.close()
        path.unlink(missing_ok=True)  # before the values that it may speak of
        _take_name(data)
        _take_name(path)
        return size


def _write_data(file: BinaryIO, drafted: Drafted, name: str) -> tuple[int, Drafted]:
    """Write the values of large tensors to the file called `name`: its size, and the draft that says where they are."""
    position = 0
    rest = dict(drafted.payloads)
    for tensor in drafted.model.graph.initializer:
        payload = rest.get(tensor.name)
        if payload is None or payload.size_bytes < SMALLEST_EXTERNAL:
            continue
        position += file.write(bytes(-position % ALIGNMENT))
        place_outside(tensor, name, position, payload.size_bytes)
        position += file.write(payload.read())
        del rest[tensor.name]
    return position, Drafted(drafted.model, rest)


@contextmanager
def _part(path: Path) -> Iterator[BinaryIO]:
    """A file beside `path`, which `_take_name` moves there; removed if it was not."""
    try:
        with _beside(path).open("wb") as file:
            yield file
    finally:
        _beside(path).unlink(missing_ok=True)


def _take_name(path: Path) -> None:
    os.replace(_beside(path), path)


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".part")
