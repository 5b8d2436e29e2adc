"""Admission: from bytes that anybody may have sent to an ONNX model that is safe to work on.

The order matters, and is: size, parse, external data, extent (how many messages, nodes, expanded functions), then
inlining, onnx's own checker and shape inference, then memory and weights. Nothing is read that an earlier check has
not bounded.

Deterministic, without any I/O. ONNX's checker, inliner and shape inference are native code that a hostile file may
crash or slow down, so this runs in a worker child with limits on memory and time, never in the API process.
"""

from __future__ import annotations

import graphlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.inliner
import onnx.version_converter
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships no types
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from network.errors import (
    CustomOperators,
    ExternalData,
    ModelInvalid,
    ModelTooLarge,
    NetworkError,
    NotOnnx,
    RandomOperators,
    ShapesNotFixed,
    WeightsNotFinite,
    listing,
)
from network.functions import state_defaults
from network.graph import TensorSpec
from network.memory import estimate_memory
from network.onnx_graph import (
    graphs,
    is_external,
    is_standard,
    messages,
    nodes,
    own_inputs,
    shape_of,
    shape_skeleton,
    standard_imports,
)
from network.training import require_inference
from network.upgrade import require_forms

MAX_PROTOBUF_BYTES = 2**31 - 1  # what any protobuf reader takes
MAX_FUNCTION_DEPTH = 64
# A node, its attributes and the types of its outputs are some ten messages.
_MESSAGES_PER_NODE = 64

# An infinity is at home in an attention mask. These operators carry masks; any other use makes the tensor a weight.
_MASK_OPERATORS = frozenset(
    {"Add", "Cast", "Clip", "Concat", "Expand", "Identity", "Max", "Min", "Pad", "Reshape", "Slice", "Squeeze"}
    | {"Tile", "Transpose", "Trilu", "Unsqueeze", "Where"}
)
_RANDOM = frozenset(
    ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")
)
_FLOAT_TYPES = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16})

# What people upload by mistake, by its first bytes.
_FOREIGN_FORMATS: Mapping[bytes, str] = {
    b"PK\x03\x04": "a zip archive (a PyTorch checkpoint or an .npz?)",
    b"\x89HDF": "an HDF5 file (Keras?)",
    b"\x80\x02": "a Python pickle (an old PyTorch checkpoint?)",
    b"\x93NUMPY": "a NumPy array",
    b"version https://git-lfs": "a Git LFS pointer, not the file it points to",
    b"<": "a web page or XML",
    b"{": "JSON",
}


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """What a model may cost us before anybody has looked at it.

    Args:
        max_model_bytes: size of the file, and of the file with its functions inlined.
        max_memory_bytes: weights plus peak activations of one sample.
        max_nodes: nodes, counted in all subgraphs and with functions inlined.
    """

    max_model_bytes: int = MAX_PROTOBUF_BYTES
    max_memory_bytes: int = 2 << 30
    max_nodes: int = 100_000

    def __post_init__(self) -> None:
        for name in ("max_model_bytes", "max_memory_bytes", "max_nodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


def admit(data: bytes, limits: AdmissionLimits) -> ModelProto:
    """The model in `data`, checked, with model-local functions inlined and one spelling of the default domain.

    Raises:
        NotOnnx: `data` is something else, or cut off.
        ModelTooLarge: more bytes, nodes or memory than `limits` allows.
        ExternalData: a tensor lies outside the file, or claims to lie in the memory of the process.
        CustomOperators: operators outside the ONNX standard that are not defined by functions in the file.
        TrainingMode: layers that behave as in training.
        WeightsNotFinite: NaN in a weight, or an infinity anywhere but in a mask.
        ModelInvalid: anything else that breaks the rules of ONNX or that we do not take.
    """
    model = bounded(data, limits)
    _check_operators(model, _opset_version(model))
    model = _inline(model)
    require_forms(model)
    with onnx_errors("onnx.checker"):
        onnx.checker.check_model(model.SerializeToString())
    check_interface(model.graph)
    with onnx_errors("reading how layers are used"):
        require_inference(model)
    with onnx_errors("shape inference"):
        onnx.shape_inference.infer_shapes(shape_skeleton(model), strict_mode=True)
    check_memory(model, limits.max_memory_bytes)
    _check_finite(model)
    return model


def bounded(data: bytes, limits: AdmissionLimits) -> ModelProto:
    """The model in `data` as it is, once its extent is known; its operators have not been looked at.

    Raises:
        NotOnnx, ModelTooLarge, ExternalData, ModelInvalid: as `admit`.
    """
    if len(data) > limits.max_model_bytes:
        raise ModelTooLarge(
            f"the model has {len(data):,} bytes, at most {limits.max_model_bytes:,} are allowed; "
            "remove debug metadata, or ask the operator of this service for a higher limit"
        )
    model = _parse(data)
    _check_messages(model, limits.max_nodes * _MESSAGES_PER_NODE)
    if model.training_info:
        raise ModelInvalid("the model carries training information; export the inference graph alone")
    _check_extent(model, limits)
    return model


def input_specs(model: ModelProto) -> tuple[TensorSpec, ...]:
    """What has to be fed to an admitted model: graph inputs without initializers; an axis that the file leaves open is
    `None`."""
    specs = []
    for value in own_inputs(model.graph):
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        specs.append(TensorSpec(value.name, dtype.name, tuple(length or None for length in shape_of(value) or ())))
    return tuple(specs)


def _parse(data: bytes) -> ModelProto:
    model = ModelProto()
    kind = next((text for magic, text in _FOREIGN_FORMATS.items() if data.startswith(magic)), None)
    remedy = "upload the .onnx file, whole and unpacked"
    if not data:
        raise NotOnnx(f"the model is empty (0 bytes); {remedy}")
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        if "alloc" in str(error):
            raise ModelTooLarge("parsing the model takes more memory than this process may use") from error
        if "MaxDepth" in str(error):
            raise ModelInvalid("the model nests subgraphs too deeply (protobuf allows 100 levels)") from error
        got = kind or f"{len(data):,} bytes that are no protobuf message, or one that is cut off"
        raise NotOnnx(f"the model is not ONNX: got {got}; {remedy}") from error
    if not model.ir_version or not model.HasField("graph"):
        raise NotOnnx(f"the model is not ONNX: got {kind or 'a message without IR version or graph'}; {remedy}")
    return model


def _check_messages(model: ModelProto, max_messages: int) -> None:
    """No more messages than that, no data outside of the file, and no broken text."""
    for count, message in enumerate(messages(model), start=1):
        if count > max_messages:
            raise ModelTooLarge(f"the model has more than {max_messages:,} parts; expected a network of sane size")
        if isinstance(message, TensorProto) and is_external(message):
            raise ExternalData(
                f"tensor {message.name!r} has its data outside the model file; only self-contained models are taken: "
                "save it with onnx.save_model(..., save_as_external_data=False)"
            )
        for field, value in message.ListFields():
            if field.type == field.TYPE_STRING:
                texts = value if field.is_repeated else (value,)
                if any(isinstance(text, bytes) for text in texts):  # how protobuf hands out broken UTF-8
                    raise ModelInvalid(f"a {field.name} in the model is not valid UTF-8; the file is damaged")


def _check_extent(model: ModelProto, limits: AdmissionLimits) -> None:
    """Nodes and bytes with all functions inlined, found without inlining: calls may double at every level."""
    functions = {_function_key(function): function for function in model.functions}
    calls = {key: _calls(function, functions) for key, function in functions.items()}
    try:
        order = list(graphlib.TopologicalSorter(calls).static_order())
    except graphlib.CycleError as error:
        raise ModelInvalid(f"the model's functions call themselves: {error.args[1][0]}; that never ends") from error
    count: dict[tuple[str, str, str], int] = {}
    size: dict[tuple[str, str, str], int] = {}
    depth: dict[tuple[str, str, str], int] = {}
    for key in order:
        own = sum(1 for _ in nodes(functions[key]))
        count[key] = own + sum(count[callee] * times for callee, times in calls[key].items())
        size[key] = functions[key].ByteSize() + sum(size[callee] * times for callee, times in calls[key].items())
        depth[key] = 1 + max((depth[callee] for callee in calls[key]), default=0)
    called = _calls(model.graph, functions)
    total_nodes = sum(1 for _ in nodes(model.graph)) + sum(count[key] * n for key, n in called.items())
    total_bytes = model.graph.ByteSize() + sum(size[key] * n for key, n in called.items())
    if max(total_nodes, len(functions)) > limits.max_nodes or total_bytes > limits.max_model_bytes:
        raise ModelTooLarge(
            f"with its functions inlined the model has {total_nodes:,} nodes in {total_bytes:,} bytes; "
            f"at most {limits.max_nodes:,} nodes and {limits.max_model_bytes:,} bytes are allowed"
        )
    if max(depth.values(), default=0) > MAX_FUNCTION_DEPTH:
        raise ModelInvalid(f"the model's functions call each other more than {MAX_FUNCTION_DEPTH} levels deep")


def _function_key(call: FunctionProto | NodeProto) -> tuple[str, str, str]:
    name = call.name if isinstance(call, FunctionProto) else call.op_type
    return (call.domain, name, call.overload)


def _calls(
    holder: GraphProto | FunctionProto, functions: Mapping[tuple[str, str, str], FunctionProto]
) -> Counter[tuple[str, str, str]]:
    return Counter(key for node in nodes(holder) if (key := _function_key(node)) in functions)


def _opset_version(model: ModelProto) -> int:
    """The version of the default operator set; onnx's own checker takes several, and versions to come."""
    versions = {opset.version for opset in standard_imports(model)}
    newest = onnx.defs.onnx_opset_version()
    if len(versions) != 1 or not 1 <= max(versions) <= newest:
        got = ", ".join(map(str, sorted(versions))) or "none"
        raise ModelInvalid(f"the model imports opset {got}; expected one opset from 1 to {newest}: export it again")
    return int(versions.pop())


def _check_operators(model: ModelProto, version: int) -> None:
    """Only operators of the standard, or calls of functions that the file defines."""
    functions = {_function_key(function) for function in model.functions}
    custom: dict[str, list[str]] = {}
    for node in nodes(model.graph):
        standard = is_standard(node) and onnx.defs.has(node.op_type, version, "")
        if not standard and _function_key(node) not in functions:
            custom.setdefault(".".join(filter(None, (node.domain, node.op_type))), []).append(node_name(node))
    check_random(model)
    if custom:
        operators = "; ".join(f"{name} ({listing(users)})" for name, users in sorted(custom.items()))
        raise CustomOperators(
            f"the model uses operators that are not in ONNX opset {version}: {operators}. "
            "Export it without custom or fused operators, or with functions that define them"
        )


def check_random(model: ModelProto) -> None:
    """Refuse a model whose outputs change by themselves."""
    if random := [f"{node_name(n)} ({n.op_type})" for n in nodes(model.graph) if n.op_type in _RANDOM]:
        raise RandomOperators(
            f"the model draws random numbers: {listing(random)}. What it loses cannot be measured when its outputs "
            "change by themselves; export it for inference, without them"
        )


def _inline(model: ModelProto) -> ModelProto:
    """All functions inlined, those written for another opset converted, and "ai.onnx" spelled the usual way: ""."""
    version = _opset_version(model)
    if model.functions:
        with onnx_errors("inlining the model's functions"):
            if any(opset.version != version for f in model.functions for opset in standard_imports(f)):
                model = onnx.shape_inference.infer_shapes(model)  # the version converter needs to know the types
            state_defaults(model)
            model = onnx.inliner.inline_local_functions(model, convert_version=True)
    del model.functions[:]
    _check_operators(model, version)
    for node in nodes(model.graph):
        node.ClearField("domain")
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", version))
    return model


def check_interface(graph: GraphProto) -> None:
    """Tensors of numbers go in, with a known rank, and tensors come out."""
    inputs = own_inputs(graph)
    for kind, values in (("input", inputs), ("output", list(graph.output))):
        if not values:
            raise ModelInvalid(f"the graph has no {kind}; expected at least one: export it with its {kind}s named")
        for value in values:
            got = value.type.WhichOneof("value") or "no type"
            if got != "tensor_type":
                raise ModelInvalid(f"{kind} {value.name!r} is of {got}; only tensors of numbers are taken")
            data_type = value.type.tensor_type.elem_type
            try:
                dtype = onnx.helper.tensor_dtype_to_np_dtype(data_type)
            except KeyError as error:
                raise ModelInvalid(f"{kind} {value.name!r} has the unknown element type {data_type}") from error
            if dtype.kind not in "fiub":
                expected = "expected floats, integers or booleans"
                raise ModelInvalid(f"{kind} {value.name!r} has elements of type {dtype.name}; {expected}")
    for value in inputs:
        if not value.type.tensor_type.HasField("shape"):
            raise ShapesNotFixed(f"input {value.name!r} has no shape; export it with one, at least with its rank")


def check_memory(model: ModelProto, max_memory_bytes: int) -> None:
    with onnx_errors("shape inference"):
        estimate = estimate_memory(model, batch=1)
    if estimate.total_bytes > max_memory_bytes:
        raise ModelTooLarge(
            f"running one sample takes about {estimate.total_bytes:,} bytes ({estimate.weight_bytes:,} of weights; "
            f"the largest value is {estimate.largest!r} with {estimate.largest_bytes:,}); at most "
            f"{max_memory_bytes:,} are allowed: use smaller inputs or ask the operator of this service for more"
        )


def _check_finite(model: ModelProto) -> None:
    """No weight may be NaN or infinite; masks may hold infinities."""
    uses: dict[str, set[str]] = {}
    for node in nodes(model.graph):
        for name in node.input:
            uses.setdefault(name, set()).add(node.op_type)
    bad: list[str] = []
    for name, tensor in _constants(model):
        if tensor.data_type not in _FLOAT_TYPES:
            continue
        with onnx_errors(f"reading tensor {name!r}"):
            values = numpy_helper.to_array(tensor)
        if np.isfinite(values).all():
            continue
        if np.isnan(values).any():
            bad.append(f"{name} (NaN)")
        elif not uses.get(name, set()) <= _MASK_OPERATORS:
            bad.append(f"{name} (infinity)")
    if bad:
        raise WeightsNotFinite(
            f"weights are not finite: {listing(bad)}; expected finite numbers: was the training run diverging?"
        )


def _constants(model: ModelProto) -> Iterator[tuple[str, TensorProto]]:
    """Every constant tensor by its value's name: initializers and Constant nodes, here and in subgraphs."""
    for graph in graphs(model.graph):
        yield from ((tensor.name, tensor) for tensor in graph.initializer)
        yield from ((sparse.values.name, sparse.values) for sparse in graph.sparse_initializer)
        for node in graph.node:
            for attribute in node.attribute if node.op_type == "Constant" else ():
                if attribute.name == "value":
                    yield node.output[0], attribute.t
                elif attribute.name == "sparse_value":
                    yield node.output[0], attribute.sparse_tensor.values


def node_name(node: NodeProto) -> str:
    return f"node {node.name!r}" if node.name else f"the node that makes {next(iter(node.output), '?')!r}"


@contextmanager
def onnx_errors(doing: str) -> Iterator[None]:
    """What onnx raises on a bad model, as our own errors: it has several classes and sometimes plain ones."""
    try:
        yield
    except NetworkError:
        raise
    except MemoryError as error:
        raise ModelTooLarge(f"{doing} takes more memory than this process may use") from error
    except (
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
        onnx.version_converter.ConvertError,
        onnx.defs.SchemaError,
        DecodeError,
        ValueError,
        TypeError,
        IndexError,
        RuntimeError,
    ) as error:
        reason = " ".join(str(error).split())[:400]
        raise ModelInvalid(f"the model is not valid ONNX: {doing} says: {reason}; export it again") from error
