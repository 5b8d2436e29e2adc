"""Reads a written file back and says how every weight is stored."""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from quantization.dequantize import DOMAIN, call, function
from quantization.errors import FileNotAudited
from quantization.packing import digits
from quantization.passes import graphs

# the inputs of these operators that may be weights
_WEIGHT_INPUTS = {"Conv": (1,), "ConvTranspose": (1,), "Gemm": (1,), "MatMul": (0, 1), "Gather": (0,)}


@dataclass(frozen=True, slots=True)
class StoredWeight:
    """How the weight called `name` is stored: `bits` for each of its `elements`.

    `size_bytes` is what its values take in the file and `scale_bytes` what its scales take, without names and shapes.
    """

    name: str
    shape: tuple[int, ...]
    bits: int
    size_bytes: int
    scale_bytes: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Audit:
    """Every weight of a file, in the order of the nodes that make or use them, and the size of the whole file."""

    weights: tuple[StoredWeight, ...]
    total_bytes: int


def audit(file: bytes) -> Audit:
    """What a file written by `quantization.export` stores, from its tensors alone: no name is believed.

    Raises:
        FileNotAudited: a call is not to the function that its tensors need, the function is not ours to the byte, or a
            tensor does not hold what its type and shape say.
    """
    try:
        model = onnx.ModelProto.FromString(file)
    except DecodeError as error:
        raise FileNotAudited("these bytes are no ONNX file") from error
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    functions = {f.name: f.SerializeToString(deterministic=True) for f in model.functions if f.domain == DOMAIN}
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    weights: dict[str, StoredWeight] = {}
    for node in (node for graph in graphs(model.graph) for node in graph.node):
        if node.domain == DOMAIN:
            stored = _packed(node, tensors)
            expected = call(stored.bits, stored.shape, node.input, stored.name)
            body = function(stored.bits, stored.shape, opset)
            if node != expected or functions.get(node.op_type) != body:
                raise FileNotAudited(
                    f"weight {stored.name}: {node.op_type} is not the call that {stored.bits} bits need"
                )
            weights[stored.name] = stored
            continue
        for place in _WEIGHT_INPUTS.get(node.op_type, ()):
            tensor = tensors.get(node.input[place])
            if tensor is not None and tensor.data_type == onnx.TensorProto.FLOAT:
                weights.setdefault(tensor.name, _plain(tensor))
    return Audit(tuple(weights.values()), len(file))


def _packed(node: onnx.NodeProto, tensors: dict[str, onnx.TensorProto]) -> StoredWeight:
    """The weight that a call makes from digits and a scale."""
    name = node.output[0]
    if missing := [part for part in node.input if part not in tensors]:
        raise FileNotAudited(f"weight {name}: {', '.join(missing)} is no tensor of the file")
    *parts, scale = (tensors[part] for part in node.input)
    shape = tuple(parts[0].dims) if parts else ()
    for bits in range(2, 9):
        layout = digits(bits)
        if [(p.data_type, tuple(p.dims)) for p in parts] == [(d.data_type, d.dims(shape)) for d in layout]:
            break
    else:
        raise FileNotAudited(f"weight {name}: its tensors are the digits of no width from 2 to 8")
    for part, digit in zip(parts, layout, strict=True):
        if len(part.raw_data) != digit.size_bytes(shape):
            raise FileNotAudited(
                f"weight {name}: {part.name} holds {len(part.raw_data)} bytes, expected {digit.size_bytes(shape)}"
            )
    if scale.data_type != onnx.TensorProto.FLOAT or len(scale.raw_data) != 4 * math.prod(scale.dims):
        raise FileNotAudited(f"weight {name}: {scale.name} is not a float32 scale")
    return StoredWeight(name, shape, bits, sum(len(part.raw_data) for part in parts), len(scale.raw_data))


def _plain(tensor: onnx.TensorProto) -> StoredWeight:
    shape = tuple(tensor.dims)
    return StoredWeight(tensor.name, shape, 32, 4 * math.prod(shape), 0)
