"""The sites of a normalised graph: which weights may be quantized, which layers use them, and what they cost."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Mapping

import onnx

from network.graph import Layer, Site

_SCOPES_KEY = "pkg.torch.onnx.name_scopes"
# Names that an exporter made up: `val_12`, `onnx::MatMul_31`, `const_5`, `fn_2`, `21`.
_MADE_UP = re.compile(r"^(onnx::\w+|val|const|t|fn|_val)?_*\d+$")


def find_sites(proto: onnx.ModelProto) -> tuple[Site, ...]:
    """All sites of the normalised graph, in the order of their first use.

    A weight that several nodes use is one site. A site is called like its weight without `.weight`; where the exporter
    made the weight's name up, like the module it says the node came from, else like the node.
    """
    graph = proto.graph
    weights = {t.name: tuple(t.dims) for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    shapes = _shapes_of_one_sample(proto)
    uses: dict[str, list[tuple[onnx.NodeProto, Layer]]] = {}
    for node in graph.node:
        rule = _RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        layer = rule(node, weights, shapes) if rule else None
        if layer is not None:
            uses.setdefault(layer.weight, []).append((node, layer))
    sites: list[Site] = []
    taken: set[str] = set()
    for weight, nodes in uses.items():
        layers = tuple(layer for _, layer in nodes)
        name = _site_name(weight, nodes[0][0])
        if name in taken:
            name = weight
        taken.add(name)
        sites.append(Site(name, weight, layers, weights[weight], layers[0].channel_axis))
    return tuple(sites)


def _site_name(weight: str, node: onnx.NodeProto) -> str:
    if not _MADE_UP.match(weight):
        return weight.removesuffix(".weight")
    scopes = next((p.value for p in node.metadata_props if p.key == _SCOPES_KEY), None)
    if scopes is not None:
        try:
            names = ast.literal_eval(scopes)
        except (ValueError, SyntaxError):
            names = []
        if isinstance(names, list) and len(names) > 1 and names[-2]:
            return str(names[-2])
    return node.name or weight


_Weights = Mapping[str, tuple[int, ...]]
_Shapes = Mapping[str, tuple[int, ...]]


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def _elements(shapes: _Shapes, name: str) -> int:
    """Elements of a value for one sample; 1 where inference does not know it, so that costs stay a lower bound."""
    return math.prod(shapes.get(name, (1,)))


def _convolution(node: onnx.NodeProto, weights: _Weights, shapes: _Shapes) -> Layer | None:
    weight = node.input[1]
    if weight not in weights:
        return None
    shape = weights[weight]
    if node.op_type == "Conv":  # [C_out, C_in / group, *kernel]
        channel_axis, positions = 0, _elements(shapes, node.output[0]) * math.prod(shape[1:])
    else:  # [C_in, C_out / group, *kernel]
        channel_axis, positions = 1, _elements(shapes, node.input[0]) * math.prod(shape[1:])
    return Layer(node.name, node.op_type, weight, channel_axis, positions, _attribute(node, "group", 1))


def _gemm(node: onnx.NodeProto, weights: _Weights, shapes: _Shapes) -> Layer | None:
    weight = node.input[1]
    if weight not in weights:
        return None
    transposed = _attribute(node, "transB", 0) == 1
    reduction = weights[weight][1 if transposed else 0]
    macs = _elements(shapes, node.output[0]) * reduction
    return Layer(node.name, node.op_type, weight, 0 if transposed else 1, macs)


def _matmul(node: onnx.NodeProto, weights: _Weights, shapes: _Shapes) -> Layer | None:
    left, right = node.input
    weight = right if right in weights else left
    if weight not in weights or len(weights[weight]) < 2 or (left in weights and right in weights):
        return None
    rank = len(weights[weight])
    reduction_axis, channel_axis = (rank - 2, rank - 1) if weight == right else (rank - 1, rank - 2)
    macs = _elements(shapes, node.output[0]) * weights[weight][reduction_axis]
    return Layer(node.name, node.op_type, weight, channel_axis, macs)


def _embedding(node: onnx.NodeProto, weights: _Weights, _shapes: _Shapes) -> Layer | None:
    table = node.input[0]
    if table not in weights or len(weights[table]) != 2 or _attribute(node, "axis", 0) != 0:
        return None
    return Layer(node.name, node.op_type, table, 0, 0)


_RULES: Mapping[str, Callable[[onnx.NodeProto, _Weights, _Shapes], Layer | None]] = {
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Gather": _embedding,
}


def _shapes_of_one_sample(proto: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Every shape that inference knows when the free batch axis is 1."""
    single = onnx.ModelProto()
    single.CopyFrom(proto)
    del single.graph.value_info[:]
    for value in single.graph.input:
        batch = value.type.tensor_type.shape.dim[0]
        if not batch.HasField("dim_value"):
            batch.dim_value = 1
    for value in single.graph.output:
        value.type.tensor_type.ClearField("shape")
    for tensor in single.graph.initializer:  # inference needs the values of shape arguments only, not of weights
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
    inferred = onnx.shape_inference.infer_shapes(single, data_prop=True)
    shapes: dict[str, tuple[int, ...]] = {}
    for value in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output):
        dims = value.type.tensor_type.shape.dim
        if all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes
