"""Normalisation: any admitted ONNX file becomes one dialect, so that everything behind it is written once.

In this order: initializers out of the inputs, operators of old opsets written in their newer form (`network.upgrade`),
fused operators of ONNX Runtime as those that they stand for (`network.fused`), model-local functions inlined, constants
and shape arithmetic folded, BatchNorm folded into the layer before it, identical initializers merged
(`network.folding`), the opset converted, all folded once more, every node named, the declared interface restored
(`network.interface`). At last it is lowered to an older opset, if a request names one (`network.opset`).

An axis that the file leaves free stays free, and what depends on its length stays computed. The lengths that the data
has go beside the network (`Network.sample_shapes`).

Whether the outputs are still those of the file is for `network.faithful` to find out, which asks for less where they
are not.
"""

from __future__ import annotations

import dataclasses
import gc
import itertools
import json
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common_passes
from onnx import helper
from onnxscript import version_converter

from network.batching import Batching
from network.codes import READERS
from network.errors import ModelNotTaken, NothingToQuantize, listing
from network.finite import FLOAT_TYPES
from network.folding import Folding, fold, forget_matches
from network.fused import unfuse
from network.graph import Network
from network.interface import Interface
from network.message_size import GRAPH, INITIALIZER, field_header
from network.onnx_graph import is_standard, nodes, opset_of, own_inputs, shape_of, without_initializers
from network.opset import TARGET_OPSET, lower
from network.outputs import put_back, set_aside
from network.shapes import NOTHING, Observation, Observed, SampleShapes, inferred_values, known_shapes
from network.sites import find_sites
from network.tensor_spec import TensorSpec
from network.upgrade import upgrade

SAMPLE_SHAPES_KEY, BATCHING_KEY = "bitbudget.sample_shapes", "bitbudget.batching"
OBSERVED_KEY, HALVES_KEY = "bitbudget.observed", "bitbudget.of_halves"
"""Of the metadata entries in the bytes of `dump`; no `Network.proto` has them, nor then a delivered file."""


def normalise(
    model: onnx.ModelProto,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    opset: int = TARGET_OPSET,
    *,
    converted: int = TARGET_OPSET,
    folding: Folding = Folding.RULES,
    batching: Batching | None = None,
) -> Network:
    """The normalised network of an admitted `model`.

    Args:
        model: what `admit` returned; not changed.
        input_shapes: for each graph input the shape of one sample, without the batch axis, as the data has it: the
            lengths of axes that the file leaves dynamic.
        opset: of the network, from 18 on.
        converted: the opset that the file is converted to, from its own on, before it is lowered to `opset`.
        folding: how much is rewritten.
        batching: how samples become calls; None: along the first axis of every input.

    Raises:
        ShapesNotFixed: an input has a dynamic axis besides the batch axis, and `input_shapes` has no length for it.
        NothingToQuantize: no weight of the graph can be quantized.
        ModelNotTaken: the file cannot be brought to the opset `converted`, or not be folded.
        OpsetNotReachable: it cannot be brought back from there, or from its own, to `opset`.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(model)
    _move_initializers_out_of_inputs(proto.graph)
    _leave_out_devices(proto)
    for key in (SAMPLE_SHAPES_KEY, BATCHING_KEY, OBSERVED_KEY, HALVES_KEY):
        _pop_metadata(proto, key)
    batching = batching or Batching.first_axis(proto.graph.input)
    interface = Interface.of(proto.graph, input_shapes or {}, batching)
    interface.open(proto.graph)
    # What the exporter inferred is a claim, and names axes as the file does.
    del proto.graph.value_info[:]
    outputs = set_aside(proto.graph)
    upgrade(proto)
    if opset_of(proto) > converted:
        lower(proto, converted)
    if folding is Folding.RULES:
        unfuse(proto)
    graph = _deserialized(proto)
    common_passes.InlinePass()(graph)
    _fold(graph, folding)
    _convert_opset(graph, converted)
    _fold(graph, folding)
    common_passes.TopologicalSortPass()(graph)
    _name_nodes(graph)
    _name_values_in_bodies(graph.graph)
    graph.ir_version = helper.find_min_ir_version_for([helper.make_opsetid("", converted)])
    normalised = _serialized(graph)
    forget_matches()
    del graph, proto
    gc.collect()  # nodes and values refer to each other, and to the weights that they came with
    put_back(normalised.graph, outputs)
    interface.restore(normalised.graph)
    if opset < converted:
        lower(normalised, opset)
    network = from_proto(normalised, (input_shapes or {}) if interface.free else {}, batching)
    if not network.sites:
        raise NothingToQuantize(
            "no weight can be quantized: expected at least one Conv, ConvTranspose, Gemm, MatMul, Gather, LSTM, GRU or "
            "RNN node whose float32 weight is an initializer; " + _weights_remedy(network.proto.graph)
        )
    return network


def load(data: bytes, opset: int = TARGET_OPSET) -> Network:
    """The network that `dump` wrote, at an opset from 18 on; at its own where that is older, or where the newest that
    networks have as a rule does not have its operators.

    Raises:
        OpsetNotReachable: it has nodes that `opset` does not have.
    """
    proto = onnx.ModelProto.FromString(data)
    keys = (SAMPLE_SHAPES_KEY, BATCHING_KEY, OBSERVED_KEY, HALVES_KEY)
    shapes, batching, observed, of_halves = (json.loads(_pop_metadata(proto, key) or "{}") for key in keys)
    if opset < min(opset_of(proto), TARGET_OPSET):
        lower(proto, opset)
    network = from_proto(
        proto,
        {name: tuple(shape) for name, shape in shapes.items()},
        Batching.of_document(batching) if batching else None,
        {name: Observation(type_, tuple(shape), *counts) for name, (type_, shape, *counts) in observed.items()},
    )
    return dataclasses.replace(network, of_halves=bool(of_halves))


def dump(network: Network) -> bytes:
    """The network as ONNX bytes; the same network gives the same bytes."""
    return b"".join(dump_parts(network))


def dump_parts(network: Network) -> Iterator[bytes]:
    """What `dump` gives, a part at a time.

    Messages of protobuf that follow each other are one: each initializer is a graph with nothing else. protobuf would
    take three times the memory to write all of them at once.
    """
    yield bytes(without_initializers(network.proto).SerializeToString(deterministic=True))
    for tensor in network.proto.graph.initializer:
        data = bytes(tensor.SerializeToString(deterministic=True))
        header = field_header(INITIALIZER, len(data))
        yield field_header(GRAPH, len(header) + len(data)) + header
        yield data
    documents: dict[str, Any] = {
        SAMPLE_SHAPES_KEY: {name: list(shape) for name, shape in network.sample_shapes.items()},
        OBSERVED_KEY: {name: dataclasses.astuple(value) for name, value in network.observed.items()},
    }
    if network.batching != Batching.first_axis(network.proto.graph.input):
        documents[BATCHING_KEY] = network.batching.document()
    if network.of_halves:
        documents[HALVES_KEY] = True
    entries = [
        onnx.StringStringEntryProto(key=key, value=json.dumps(document, sort_keys=True))
        for key, document in documents.items()
        if document
    ]
    yield bytes(onnx.ModelProto(metadata_props=entries).SerializeToString(deterministic=True))


def from_proto(
    proto: onnx.ModelProto,
    sample_shapes: SampleShapes = MappingProxyType({}),
    batching: Batching | None = None,
    observed: Observed = NOTHING,
) -> Network:
    """The network that a normalised `proto` holds, with its sites found.

    Args:
        proto: kept, not copied.
        sample_shapes: by graph input the shape of one sample, without the batch axis; none where `proto` fixes them.
        batching: how samples become calls; None: along the first axis of every input.
        observed: what one call of it showed, of one sample or of the batch that `proto` fixes (`network.observed`).
    """
    batching = batching or Batching.first_axis(proto.graph.input)
    values = inferred_values(proto, 1, sample_shapes, batching, observed)
    shapes = known_shapes(values)
    return Network(
        proto=proto,
        inputs=tuple(_tensor_spec(value, batching.input_axis(value.name), shapes) for value in proto.graph.input),
        outputs=tuple(_tensor_spec(value, batching.output_axis(value.name), shapes) for value in proto.graph.output),
        sites=find_sites(proto, shapes, batching.size or 1, observed),
        sample_shapes=sample_shapes,
        batching=batching,
        observed=observed,
    )


def _weights_remedy(graph: onnx.GraphProto) -> str:
    """What to do about a graph without sites: its weights may be codes already, or of operators of ONNX Runtime, which
    have layouts of their own."""
    # zero points and biases have one axis at most
    codes = {t.name for t in graph.initializer if t.data_type not in FLOAT_TYPES and len(t.dims) > 1}
    readers = sorted({n.op_type for n in graph.node if n.op_type in READERS and codes.intersection(n.input)})
    others = sorted({f"{node.domain}.{node.op_type}" for node in graph.node if not is_standard(node)})
    remedies = []
    if readers:
        remedies.append(
            f"the weights that {listing(readers)} reads are quantized already: send the file as it was before it was "
            "quantized"
        )
    if others:
        remedies.append(
            f"the weights of {listing(others)} have no format of fewer bits: send the file as it was before it was "
            "fused, quantized or optimised for one machine"
        )
    return "; ".join(remedies) or "export the network with its weights inside the file"


def _pop_metadata(proto: onnx.ModelProto, key: str) -> str:
    """The value of the last entry with this key, empty where there is none; no entry with it is left."""
    values = [entry.value for entry in proto.metadata_props if entry.key == key]
    if values:
        kept = [entry for entry in proto.metadata_props if entry.key != key]
        del proto.metadata_props[:]
        proto.metadata_props.extend(kept)
    return values[-1] if values else ""


def _deserialized(proto: onnx.ModelProto) -> ir.Model:
    try:
        return ir.serde.deserialize_model(proto)
    except ir.serde.SerdeError as error:
        raise _not_taken(error) from error


def _serialized(graph: ir.Model) -> onnx.ModelProto:
    try:
        return ir.serde.serialize_model(graph)
    except ir.serde.SerdeError as error:
        raise _not_taken(error) from error


def _not_taken(error: BaseException) -> ModelNotTaken:
    """What says most is where it began."""
    while error.__cause__ is not None:
        error = error.__cause__
    reason = " ".join(str(error).split())[:200]
    return ModelNotTaken(f"a part of the file has a form that is not read here: {reason}; export the model again")


def _leave_out_devices(proto: onnx.ModelProto) -> None:
    """Which of several devices computes a node: nothing that a file for one has a use for."""
    del proto.configuration[:]
    for holder in (proto.graph, *proto.functions):
        for node in nodes(holder):
            del node.device_configurations[:]


def _move_initializers_out_of_inputs(graph: onnx.GraphProto) -> None:
    """Before IR version 4 every initializer was an input too; listed there it counts as variable, and nothing folds."""
    kept = own_inputs(graph)
    del graph.input[:]
    graph.input.extend(kept)


def _fold(graph: ir.Model, folding: Folding) -> None:
    """What fails in the library on a graph of an odd kind is no reason to refuse it: less may be folded."""
    try:
        fold(graph, folding)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ModelNotTaken(f"folding constants fails: {error}; export the model with constants folded") from error


def _convert_opset(graph: ir.Model, opset: int) -> None:
    """From opset 18 or above."""
    version = graph.opset_imports.get("", 0)
    try:
        version_converter.convert_version(graph, opset)
        if graph.opset_imports.get("") != opset:
            raise ValueError(f"the conversion ends at opset {graph.opset_imports.get('')}")
    except (ValueError, RuntimeError) as error:
        raise ModelNotTaken(
            f"opset {version} cannot be converted to {opset}: {error}; export the model with a newer opset"
        ) from error


def _name_nodes(graph: ir.Model) -> None:
    taken: set[str] = set()
    for index, node in enumerate(ir.traversal.RecursiveGraphIterator(graph.graph)):
        name = node.name or f"{node.op_type}_{index}"
        while name in taken:
            name = f"{name}_{index}"
        taken.add(name)
        node.name = name


def _name_values_in_bodies(graph: ir.Graph) -> None:
    """Two bodies may use one name for two values; here each gets its own, so that values are known by their names."""
    every = list(ir.traversal.RecursiveGraphIterator(graph))
    bodies = list(dict.fromkeys(node.graph for node in every if isinstance(node.graph, ir.Graph)))
    taken: set[str | None] = {name for body in (graph, *bodies) for name in body.initializers}
    taken.update(value.name for value in graph.inputs)
    taken.update(value.name for node in graph for value in node.outputs)
    for body in bodies:
        for value in (*body.inputs, *(output for node in body for output in node.outputs)):
            if body is not graph and value.name in taken and not value.is_initializer():
                value.name = next(n for n in (f"{value.name}_{k}" for k in itertools.count(2)) if n not in taken)
            if value.name:
                taken.add(value.name)


def _tensor_spec(
    value: onnx.ValueInfoProto, batch: int | None, sample_shapes: Mapping[str, tuple[int, ...]]
) -> TensorSpec:
    """`sample_shapes`: by value, with 1 as length of the axis `batch`."""
    dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name
    known = sample_shapes.get(value.name, ())
    shape = shape_of(value)
    if shape is None:
        shape = (None,) * len(known)
    if len(known) == len(shape):
        shape = tuple(
            k if length is None and axis != batch else length
            for axis, (length, k) in enumerate(zip(shape, known, strict=True))
        )
    return TensorSpec(value.name, dtype, shape)
