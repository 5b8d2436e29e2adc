"""What a network takes and gives, and how large it is, read from its file without running it."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from onnx import TensorProto, ValueInfoProto

from network.admission import AdmissionLimits, bounded
from network.onnx_graph import graphs, nodes, opset_of, own_inputs, shape_of
from pipeline.archives import is_archive, unpacked

_BITS = {"FLOAT": 32, "DOUBLE": 64, "BOOL": 8, "BFLOAT16": 16, "STRING": 0, "COMPLEX64": 64, "COMPLEX128": 128}
_NAMES = {"FLOAT": "float32", "DOUBLE": "float64"}
_MOST = 1000
_MOST_CHARACTERS = 1000


def described_model(path: Path) -> dict[str, Any]:
    """The description of the model at `path`, an ONNX file or an archive of one with its data files.

    Raises:
        NetworkError: it is no ONNX file, damaged, or of more parts than a network of its size has.
        OSError: it cannot be read.
    """
    if is_archive(path):
        path = unpacked(path, path.with_name(f"{path.name}.unpacked"))
    model = bounded(path.read_bytes(), AdmissionLimits())
    initializers = [tensor for graph in graphs(model.graph) for tensor in graph.initializer]
    operators = Counter(_text(node.op_type) for node in nodes(model.graph))
    return {
        "inputs": _tensors(own_inputs(model.graph)),
        "outputs": _tensors(model.graph.output),
        "opset": opset_of(model),
        "producer": _text(f"{model.producer_name} {model.producer_version}".strip()),
        "weights": sum(math.prod(tensor.dims) for tensor in initializers),
        "weight_bytes": sum(_bytes(tensor) for tensor in initializers),
        "nodes": operators.total(),
        "operators": dict(operators.most_common(_MOST)),
    }


def _tensors(values: Iterable[ValueInfoProto]) -> list[dict[str, Any]]:
    described = []
    for value, _ in zip(values, range(_MOST), strict=False):
        shape = shape_of(value)
        lengths = None if shape is None else [length or None for length in shape]
        described.append({"name": _text(value.name), "dtype": _dtype(value), "shape": lengths})
    return described


def _dtype(value: ValueInfoProto) -> str:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return str(kind or "unknown").removesuffix("_type")
    name = str(TensorProto.DataType.Name(value.type.tensor_type.elem_type))
    return _NAMES.get(name, name.lower())


def _bytes(tensor: TensorProto) -> int:
    name = str(TensorProto.DataType.Name(tensor.data_type))
    digits = re.match(r"[A-Z]+(\d+)", name)  # FLOAT8E4M3FN has eight bits
    bits = _BITS[name] if name in _BITS else int(digits[1]) if digits else 0
    return int(math.prod(tensor.dims)) * bits // 8


def _text(text: str) -> str:
    return text.replace("\0", "\ufffd")[:_MOST_CHARACTERS]
