"""Values of tensors that lie in a file beside the model's, as ONNX's external data.

Source: https://onnx.ai/onnx/repo-docs/ExternalData.html
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import onnx
from onnx import TensorProto

from network.onnx_graph import graphs, subgraphs
from quantization.errors import FileNotAudited


def place_outside(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    """Let a tensor without values say that they are `length` bytes of the file `location`, from `offset` on."""
    place = {"location": location, "offset": offset, "length": length}
    tensor.external_data.extend(onnx.StringStringEntryProto(key=key, value=str(value)) for key, value in place.items())
    tensor.data_location = TensorProto.EXTERNAL


def is_outside(tensor: TensorProto) -> bool:
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def values_size(tensor: TensorProto) -> int:
    """Bytes of the values, wherever they are."""
    return _number(tensor, "length") if is_outside(tensor) else len(tensor.raw_data)


def values_bytes(tensor: TensorProto, folder: Path | None) -> bytes:
    """The values, wherever they are; `check_outside` has found no fault with them."""
    if folder is None or not is_outside(tensor):
        return bytes(tensor.raw_data)
    with (folder / _entry(tensor, "location")).open("rb") as file:
        file.seek(_number(tensor, "offset"))
        return file.read(_number(tensor, "length"))


def check_outside(model: onnx.ModelProto, folder: Path | None) -> int:
    """That all values outside of the model lie in files of `folder`, each in bytes of its own; the bytes of those
    files.

    Raises:
        FileNotAudited: they lie elsewhere, there is no folder, a file ends before its values, or two tensors share
            bytes.
    """
    sizes: dict[str, int] = {}
    places: dict[str, list[tuple[int, int, str]]] = {}
    for tensor in filter(is_outside, _tensors(model)):
        location = _entry(tensor, "location")
        if folder is None or not location or Path(location).name != location or not (folder / location).is_file():
            raise FileNotAudited(
                f"tensor {tensor.name}: its values lie in {location!r}, which is no file beside the model; audit the "
                "model by its path, with that file in the same folder"
            )
        size = sizes.setdefault(location, (folder / location).stat().st_size)
        start, length = _number(tensor, "offset"), _number(tensor, "length")
        if start + length > size:
            raise FileNotAudited(f"tensor {tensor.name}: {location} has {size} bytes and ends before its values")
        if length:
            places.setdefault(location, []).append((start, start + length, tensor.name))
    for found in places.values():
        for (_, end, first), (start, _, second) in pairwise(sorted(found)):
            if start < end:
                raise FileNotAudited(f"tensors {first} and {second} share bytes of the file beside the model")
    return sum(sizes.values())


def _tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every tensor of the model: in its graphs, their nodes' attributes, and its functions."""
    for graph in graphs(model.graph):
        yield from graph.initializer
        yield from _dense(graph.sparse_initializer)
        yield from _of_attributes(graph.node)
    for function in model.functions:
        yield from _of_attributes(function.node)
        for inner in (inner for node in function.node for inner in subgraphs(node)):
            yield from _tensors(onnx.ModelProto(graph=inner))


def _of_attributes(nodes: Iterable[onnx.NodeProto]) -> Iterator[TensorProto]:
    for attribute in (attribute for node in nodes for attribute in node.attribute):
        yield from (attribute.t, *attribute.tensors)  # an attribute that is no tensor has an empty one
        yield from _dense([attribute.sparse_tensor, *attribute.sparse_tensors])


def _dense(tensors: Iterable[onnx.SparseTensorProto]) -> Iterator[TensorProto]:
    for tensor in tensors:
        yield from (tensor.values, tensor.indices)


def _entry(tensor: TensorProto, key: str) -> str:
    """Of the entries that say where the values are; empty where there is none."""
    values = [entry.value for entry in tensor.external_data if entry.key == key]
    if len(values) > 1:
        raise FileNotAudited(f"tensor {tensor.name}: the {key} of its values is given {len(values)} times")
    return values[0] if values else ""


def _number(tensor: TensorProto, key: str) -> int:
    value = _entry(tensor, key)
    if not value.isascii() or not value.isdigit():
        raise FileNotAudited(f"tensor {tensor.name}: the {key} of its values is {value!r}, expected a number")
    return int(value)
