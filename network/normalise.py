"""Normalisation: any admitted ONNX file becomes one dialect, so that everything behind it is written once.

In this order: initializers out of the inputs, input shapes fixed by the data (the batch axis stays free where the file
leaves it free), operators of old opsets written in their newer form (`network.upgrade`), constants and shape arithmetic
folded, BatchNorm folded into the layer before it, identical initializers merged (`network.folding`), the opset
converted, all folded once more, every node named. At last it is lowered to an older opset, if a request names one
(`network.opset`).

Whether the outputs are still those of the file is for `network.faithful` to find out, which asks for less where they
are not.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common_passes
from onnx import helper
from onnxscript import version_converter

from network.errors import ModelInvalid, NothingToQuantize, ShapesNotFixed
from network.folding import Folding, fold
from network.graph import Network, TensorSpec
from network.onnx_graph import opset_of, own_inputs, shape_of
from network.opset import TARGET_OPSET, lower
from network.outputs import put_back, set_aside
from network.sites import find_sites
from network.upgrade import upgrade

BATCH_AXIS = "N"


def normalise(
    model: onnx.ModelProto,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    opset: int = TARGET_OPSET,
    *,
    converted: int = TARGET_OPSET,
    folding: Folding = Folding.RULES,
) -> Network:
    """The normalised network of an admitted `model`.

    Args:
        model: what `admit` returned; not changed.
        input_shapes: for each graph input the shape of one sample, without the batch axis, as the data has it. An axis
            that the file leaves dynamic is fixed by it.
        opset: of the network, from 18 on.
        converted: the opset that the file is converted to, from its own on, before it is lowered to `opset`.
        folding: how much is rewritten.

    Raises:
        ShapesNotFixed: an input has a dynamic axis besides the batch axis, and `input_shapes` does not fix it.
        NothingToQuantize: no weight of the graph can be quantized.
        ModelInvalid: the file cannot be brought to the opset `converted`, or not be folded.
        OpsetNotReachable: it cannot be brought back from there to `opset`.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(model)
    _move_initializers_out_of_inputs(proto.graph)
    for value in proto.graph.input:
        _fix_shape(value, (input_shapes or {}).get(value.name))
    # What the exporter inferred for other shapes must not survive the shapes just fixed.
    del proto.graph.value_info[:]
    outputs = set_aside(proto.graph)
    upgrade(proto)
    graph = ir.serde.deserialize_model(proto)
    common_passes.InlinePass()(graph)
    _fold(graph, folding)
    _convert_opset(graph, converted)
    _fold(graph, folding)
    common_passes.TopologicalSortPass()(graph)
    _name_nodes(graph)
    graph.ir_version = helper.find_min_ir_version_for([helper.make_opsetid("", converted)])
    normalised = ir.serde.serialize_model(graph)
    put_back(normalised.graph, outputs)
    if opset < converted:
        lower(normalised, opset)
    network = from_proto(normalised)
    if not network.sites:
        raise NothingToQuantize(
            "no weight can be quantized: expected at least one Conv, ConvTranspose, Gemm, MatMul, Gather, LSTM, GRU or "
            "RNN node whose float32 weight is an initializer; export the network with its weights inside the file"
        )
    return network


def load(data: bytes, opset: int = TARGET_OPSET) -> Network:
    """The network that `dump` wrote, at an opset from 18 on, or at its own where that is older.

    Raises:
        OpsetNotReachable: it has nodes that `opset` does not have.
    """
    proto = onnx.ModelProto.FromString(data)
    if opset < opset_of(proto):
        lower(proto, opset)
    return from_proto(proto)


def dump(network: Network) -> bytes:
    """The network as ONNX bytes; the same network gives the same bytes."""
    return bytes(network.proto.SerializeToString(deterministic=True))


def from_proto(proto: onnx.ModelProto) -> Network:
    """The network that a normalised `proto` holds, with its sites found."""
    return Network(
        proto=proto,
        inputs=tuple(_tensor_spec(value) for value in proto.graph.input),
        outputs=tuple(_tensor_spec(value) for value in proto.graph.output),
        sites=find_sites(proto),
    )


def _move_initializers_out_of_inputs(graph: onnx.GraphProto) -> None:
    """Before IR version 4 every initializer was an input too; listed there it counts as variable, and nothing folds."""
    kept = own_inputs(graph)
    del graph.input[:]
    graph.input.extend(kept)


def _fix_shape(value: onnx.ValueInfoProto, sample_shape: tuple[int, ...] | None) -> None:
    dims = value.type.tensor_type.shape.dim
    if not dims:
        raise ShapesNotFixed(
            f"input {value.name!r} has no shape or is a scalar; expected a batch axis first: export it with its shape"
        )
    if dims[0].dim_value <= 0:  # some exporters write a free axis as 0 or -1
        dims[0].Clear()
        dims[0].dim_param = BATCH_AXIS
    for axis, dim in enumerate(list(dims)[1:], start=1):
        if dim.HasField("dim_value") and dim.dim_value > 0:
            continue
        if sample_shape is None or len(sample_shape) != len(dims) - 1:
            raise ShapesNotFixed(
                f"axis {axis} of input {value.name!r} is dynamic ({dim.dim_param or 'unnamed'}) and no data fixes it; "
                f"add a dataset with an array {value.name!r}, or export the model with this axis fixed"
            )
        dim.Clear()
        dim.dim_value = sample_shape[axis - 1]


def _fold(graph: ir.Model, folding: Folding) -> None:
    """What fails in the library on a graph of an odd kind is no reason to refuse it: less may be folded."""
    try:
        fold(graph, folding)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ModelInvalid(f"folding constants fails: {error}; export the model with constants folded") from error


def _convert_opset(graph: ir.Model, opset: int) -> None:
    """From opset 18 or above."""
    version = graph.opset_imports.get("", 0)
    try:
        version_converter.convert_version(graph, opset)
        if graph.opset_imports.get("") != opset:
            raise ValueError(f"the conversion ends at opset {graph.opset_imports.get('')}")
    except (ValueError, RuntimeError) as error:
        raise ModelInvalid(
            f"opset {version} cannot be converted to {opset}: {error}; export the model with a newer opset"
        ) from error


def _name_nodes(graph: ir.Model) -> None:
    taken: set[str] = set()
    for index, node in enumerate(graph.graph):
        name = node.name or f"{node.op_type}_{index}"
        while name in taken:
            name = f"{name}_{index}"
        taken.add(name)
        node.name = name


def _tensor_spec(value: onnx.ValueInfoProto) -> TensorSpec:
    dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name
    return TensorSpec(value.name, dtype, shape_of(value) or ())
