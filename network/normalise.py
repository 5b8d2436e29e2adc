"""Normalisation: any admitted ONNX file becomes one dialect, so that everything behind it is written once.

In this order: initializers out of the inputs, model-local functions inlined, constants and shape arithmetic folded,
BatchNorm folded into the layer before it, identical initializers merged, the opset converted, all folded once more,
every node named, the declared interface restored (`network.interface`). At last it is lowered to an older opset, if a
request names one (`network.opset`).

An axis that the file leaves free stays free, and what depends on its length stays computed. The lengths that the data
has go beside the network (`Network.sample_shapes`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common_passes
from onnx import helper
from onnxscript import optimizer, version_converter
from onnxscript.rewriter import pattern

from network.errors import ModelInvalid, NothingToQuantize
from network.graph import Network, TensorSpec
from network.interface import Interface
from network.onnx_graph import own_inputs, shape_of
from network.opset import TARGET_OPSET, lower
from network.shapes import SampleShapes, float_shapes, inferred_values, known_shapes
from network.sites import find_sites

OLDEST_CONVERTED_OPSET = 18  # onnxscript converts from here on; what is older goes through onnx's own converter first
IR_VERSION = 13  # the IR version that belongs to opset 25
SAMPLE_SHAPES_KEY = "bitbudget.sample_shapes"
"""Of the metadata entry in the bytes of `dump`; no `Network.proto` has it, nor then a delivered file."""

# Folding may make a tensor larger than what it was made from (Expand, Tile, ConstantOfShape): then it stays computed.
LARGEST_FOLDED_OUTPUT = 1 << 16
LARGEST_FOLDED_INPUT = 1 << 30
MOST_FOLDING_ROUNDS = 8
LARGEST_CONVERTED = 1 << 10  # elements; what is larger is no argument of an operator
_WEIGHT_TYPES = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16)


def normalise(
    model: onnx.ModelProto, input_shapes: Mapping[str, tuple[int, ...]] | None = None, opset: int = TARGET_OPSET
) -> Network:
    """The normalised network of an admitted `model`.

    Args:
        model: what `admit` returned; not changed.
        input_shapes: for each graph input the shape of one sample, without the batch axis, as the data has it: the
            lengths of axes that the file leaves dynamic.
        opset: of the network, from 18 on.

    Raises:
        ShapesNotFixed: an input has a dynamic axis besides the batch axis, and `input_shapes` has no length for it.
        NothingToQuantize: no weight of the graph can be quantized.
        ModelInvalid: the file cannot be brought to `TARGET_OPSET`.
        OpsetNotReachable: it cannot be brought back from there to `opset`.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(model)
    _move_initializers_out_of_inputs(proto.graph)
    _pop_metadata(proto, SAMPLE_SHAPES_KEY)
    interface = Interface.of(proto.graph, input_shapes or {})
    interface.open(proto.graph)
    # What the exporter inferred is a claim, and names axes as the file does.
    del proto.graph.value_info[:]
    graph = ir.serde.deserialize_model(proto)
    common_passes.InlinePass()(graph)
    _fold(graph)
    graph = _convert_opset(graph)
    _fold(graph)
    common_passes.TopologicalSortPass()(graph)
    _name_nodes(graph)
    graph.ir_version = IR_VERSION
    normalised = ir.serde.serialize_model(graph)
    interface.restore(normalised.graph)
    lower(normalised, opset)
    network = from_proto(normalised, (input_shapes or {}) if interface.free else {})
    if not network.sites:
        raise NothingToQuantize(
            "no weight can be quantized: expected at least one Conv, ConvTranspose, Gemm, MatMul, Gather, LSTM, GRU or "
            "RNN node whose float32 weight is an initializer; export the network with its weights inside the file"
        )
    return network


def load(data: bytes, opset: int = TARGET_OPSET) -> Network:
    """The network that `dump` wrote of one at `TARGET_OPSET`, at an opset from 18 on.

    Raises:
        OpsetNotReachable: it has nodes that `opset` does not have.
    """
    proto = onnx.ModelProto.FromString(data)
    stored = _pop_metadata(proto, SAMPLE_SHAPES_KEY)
    sample_shapes = {name: tuple(shape) for name, shape in json.loads(stored or "{}").items()}
    if opset != TARGET_OPSET:
        lower(proto, opset)
    return from_proto(proto, sample_shapes)


def dump(network: Network) -> bytes:
    """The network as ONNX bytes; the same network gives the same bytes."""
    data = bytes(network.proto.SerializeToString(deterministic=True))
    if not network.sample_shapes:
        return data
    lengths = {name: list(shape) for name, shape in network.sample_shapes.items()}
    entry = onnx.StringStringEntryProto(key=SAMPLE_SHAPES_KEY, value=json.dumps(lengths, sort_keys=True))
    # messages of protobuf that follow each other are one; so the weights are not copied
    return data + bytes(onnx.ModelProto(metadata_props=[entry]).SerializeToString(deterministic=True))


def from_proto(proto: onnx.ModelProto, sample_shapes: SampleShapes = MappingProxyType({})) -> Network:
    """The network that a normalised `proto` holds, with its sites found.

    Args:
        proto: kept, not copied.
        sample_shapes: by graph input the shape of one sample, without the batch axis; none where `proto` fixes them.
    """
    values = inferred_values(proto, 1, sample_shapes)
    shapes = known_shapes(values)
    return Network(
        proto=proto,
        inputs=tuple(_tensor_spec(value, shapes) for value in proto.graph.input),
        outputs=tuple(_tensor_spec(value, shapes) for value in proto.graph.output),
        sites=find_sites(proto, float_shapes(proto, values)[0]),
        sample_shapes=sample_shapes,
    )


def _pop_metadata(proto: onnx.ModelProto, key: str) -> str:
    """The value of the last entry with this key, empty where there is none; no entry with it is left."""
    values = [entry.value for entry in proto.metadata_props if entry.key == key]
    if values:
        kept = [entry for entry in proto.metadata_props if entry.key != key]
        del proto.metadata_props[:]
        proto.metadata_props.extend(kept)
    return values[-1] if values else ""


def _move_initializers_out_of_inputs(graph: onnx.GraphProto) -> None:
    """Before IR version 4 every initializer was an input too; listed there it counts as variable, and nothing folds."""
    kept = own_inputs(graph)
    del graph.input[:]
    graph.input.extend(kept)


def _fold(graph: ir.Model) -> None:
    """Fold what is constant; onnxscript's rules also fold BatchNorm and Pad into Conv and merge what is identical.

    Each known dimension may make further shapes known, hence the repetition.
    """
    for _ in range(MOST_FOLDING_ROUNDS):
        optimizer.optimize_ir(
            graph,
            input_size_limit=LARGEST_FOLDED_INPUT,
            output_size_limit=LARGEST_FOLDED_OUTPUT,
            should_fold=_should_fold,
        )
        if not _ONE_DIMENSION.apply_to_model(graph):
            return


def _gather_of_shape(op: Any, x: ir.Value, index: ir.Value) -> Any:
    return op.Gather(op.Shape(x), index)


def _constant_dimension(op: Any, x: ir.Value, index: ir.Value, **_: Any) -> Any:
    """None, which keeps the node, where the dimension is not known."""
    if x.shape is None or index.const_value is None or index.const_value.shape.rank() != 0:
        return None
    position = int(index.const_value.numpy())
    dimension = x.shape[position] if -len(x.shape) <= position < len(x.shape) else None
    return op.Constant(value_int=dimension) if isinstance(dimension, int) else None


def _slice(op: Any, shape: ir.Value, start: ir.Value, end: ir.Value) -> Any:
    return op.Slice(shape, start, end)


def _constant_dimensions(op: Any, shape: ir.Value, start: ir.Value, end: ir.Value, **_: Any) -> Any:
    """None where not all dimensions are known."""
    node = shape.producer()
    if node is None or node.op_type != "Shape" or node.attributes.get_int("start") or "end" in node.attributes:
        return None
    of = node.inputs[0]
    if of is None or of.shape is None or start.const_value is None or end.const_value is None:
        return None
    first, last = (int(value.const_value.numpy().item()) for value in (start, end) if value.const_value is not None)
    dimensions = list(of.shape)[first:last]
    known = [dimension for dimension in dimensions if isinstance(dimension, int)]
    return op.Constant(value_ints=known) if known and len(known) == len(dimensions) else None


# `x.shape[i]` and `x.shape[i:j]` as exporters write them. onnxscript folds the first only for a list of indices and a
# stated axis; and folding the whole shape first is no way, because the batch axis is not known.
_ONE_DIMENSION = pattern.RewriteRuleSet(
    [
        pattern.RewriteRule(_gather_of_shape, _constant_dimension, name="one_dimension"),
        pattern.RewriteRule(_slice, _constant_dimensions, name="several_dimensions"),
    ]
)


def _should_fold(node: ir.Node) -> bool | None:
    """Rearranging a weight is always folded, so that the layer sees an initializer; but not a weight that others use
    too, because the copy would untie them. Everything else goes by size."""
    if node.op_type not in ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Cast"):
        return None
    weight = node.inputs[0]
    if weight is None or not weight.is_initializer() or weight.const_value is None:
        return None
    if any(value is not None and value.const_value is None for value in node.inputs):
        return None
    return len(weight.uses()) == 1 or weight.const_value.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE)


def _convert_opset(graph: ir.Model) -> ir.Model:
    version = graph.opset_imports.get("", 0)
    try:
        if version < OLDEST_CONVERTED_OPSET:
            graph = ir.serde.deserialize_model(_converted_by_onnx(ir.serde.serialize_model(graph)))
        version_converter.convert_version(graph, TARGET_OPSET)
        if graph.opset_imports.get("") != TARGET_OPSET:
            raise ValueError(f"the conversion ends at opset {graph.opset_imports.get('')}")
    except (ValueError, RuntimeError, onnx.version_converter.ConvertError) as error:
        raise ModelInvalid(
            f"opset {version} cannot be converted to {TARGET_OPSET}: {error}; export the model with a newer opset "
            f"({OLDEST_CONVERTED_OPSET} or above)"
        ) from error
    return graph


def _converted_by_onnx(proto: onnx.ModelProto) -> onnx.ModelProto:
    """At `OLDEST_CONVERTED_OPSET`. onnx's own converter takes less than two gigabytes, so it sees large weights as
    inputs; it never reads their values."""
    tensors = list(proto.graph.initializer)
    large = {t.name: t for t in tensors if math.prod(t.dims) > LARGEST_CONVERTED and t.data_type in _WEIGHT_TYPES}
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(tensor for tensor in tensors if tensor.name not in large)
    proto.graph.input.extend(helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in large.values())
    converted = onnx.version_converter.convert_version(proto, OLDEST_CONVERTED_OPSET)
    inputs = [value for value in converted.graph.input if value.name not in large]
    del converted.graph.input[:]
    converted.graph.input.extend(inputs)
    kept = {tensor.name: tensor for tensor in converted.graph.initializer}
    order = dict.fromkeys([*(tensor.name for tensor in tensors), *kept])
    restored = [large.get(name) or kept[name] for name in order if name in large or name in kept]
    del converted.graph.initializer[:]
    converted.graph.initializer.extend(restored)
    return converted


def _name_nodes(graph: ir.Model) -> None:
    taken: set[str] = set()
    for index, node in enumerate(graph.graph):
        name = node.name or f"{node.op_type}_{index}"
        while name in taken:
            name = f"{name}_{index}"
        taken.add(name)
        node.name = name


def _tensor_spec(value: onnx.ValueInfoProto, sample_shapes: Mapping[str, tuple[int, ...]]) -> TensorSpec:
    """`sample_shapes`: by value, with a batch axis of 1."""
    dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name
    known = sample_shapes.get(value.name, ())
    shape = shape_of(value)
    if shape is None:
        shape = (None,) * len(known)
    if len(known) == len(shape):
        shape = (*shape[:1], *(k if length is None else length for length, k in zip(shape[1:], known[1:], strict=True)))
    return TensorSpec(value.name, dtype, shape)
