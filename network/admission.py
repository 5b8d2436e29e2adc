"""Admission: from bytes that anybody may have sent to an ONNX model that is safe to work on.

The order matters, and is: size, parse, external data, extent (how many messages, nodes, expanded functions), versions
and operators, then inlining and onnx's own checker, then memory, types, shapes and weights. Nothing is read that an
earlier check has not bounded.

Deterministic, without any I/O. ONNX's checker, inliner and shape inference are native code that a hostile file may
crash or slow down, so this runs in a worker child with limits on memory and time, never in the API process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import onnx
import onnx.version_converter
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships no types
from onnx import ModelProto, TensorProto, ValueInfoProto

from network.einsum import check_ellipses, check_equations
from network.errors import (
    ExternalData,
    ModelInvalid,
    ModelNotTaken,
    ModelTooLarge,
    NetworkError,
    NotOnnx,
    ShapesNotFixed,
)
from network.extent import check_extent, check_no_gaps
from network.finite import check_weights
from network.flags import check_flags
from network.functions import inlined
from network.memory import estimate_memory
from network.onnx_graph import (
    copy_fields,
    is_external,
    messages,
    nodes,
    own_inputs,
    shape_skeleton,
    without_initializers,
)
from network.operator_sets import (
    check_ir_version,
    check_operators,
    check_random,
    is_of_runtime_alone,
    node_name,
    opset_version,
    settle_imports,
)
from network.output_types import declare_outputs
from network.runtime import runtime_errors, session_of
from network.sparse import make_dense
from network.training import require_inference
from network.tree_models import require_layers
from network.upgrade import require_forms
from network.weight_folder import LARGE

MAX_PROTOBUF_BYTES = 2**31 - 1  # what any protobuf reader takes
# A node, its attributes and the types of its outputs are some ten messages.
_MESSAGES_PER_NODE = 64

ELEMENT_TYPES = frozenset(
    {TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.BOOL}
    | {TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64}
    | {TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64}
)
"""Of inputs and outputs: those that numpy and ONNX Runtime both have."""

_REMEDIES = {
    "input": "export the network from where its input is such a tensor, or with a Cast behind it",
    "output": "end the graph before that node, or export it without what comes after the network (zipmap=False)",
}
_ANOTHER_WAY = "export the model in another way, or with another opset"
_BYTES: dict[int, int] = {
    **dict.fromkeys((TensorProto.FLOAT16, TensorProto.BFLOAT16), 2),
    **dict.fromkeys((TensorProto.INT8, TensorProto.UINT8), 1),
    TensorProto.FLOAT: 4,
    TensorProto.INT32: 4,
    TensorProto.DOUBLE: 8,
    TensorProto.INT64: 8,
}
_CONTENTS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")
_UNCHECKED = "unchecked"  # a domain that onnx's checker does not know, and so does not look into

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
    """The model in `data`, checked, with model-local functions inlined, one spelling of the default domain, sparse
    tensors made dense, and the types of its outputs declared.

    Raises:
        NotOnnx: `data` is something else, or cut off.
        ModelTooLarge: more bytes, nodes or memory than `limits` allows.
        TooMuchWork: more parts than a file of its size may have.
        ExternalData: a tensor lies outside the file, or claims to lie in the memory of the process.
        ModelTooNew: it is of a newer version of ONNX than what runs here.
        CustomOperators: operators that neither ONNX, nor ONNX Runtime, nor functions in the file define.
        TrainingMode: layers that behave as in training.
        NothingToQuantize: its parameters are those of trees and the like.
        WeightsNotFinite: NaN or an infinity in the weight of a layer.
        ModelNotTaken: valid ONNX that we do not work on.
        ModelInvalid: anything else that breaks the rules of ONNX.
    """
    model = bounded(data, limits)
    del data  # of a large network as large as itself
    check_ir_version(model)
    check_operators(model, opset_version(model))
    check_random(model)
    model = _inline(model)
    check_equations(model)
    check_flags(model)
    require_forms(model)
    _check_valid(model)
    with _broken("a sparse tensor"):
        make_dense(model, limits.max_memory_bytes)
    with onnx_errors("reading how layers are used"):
        require_inference(model)
    require_layers(model)
    check_memory(model, limits.max_memory_bytes)
    with onnx_errors("shape inference"):
        check_ellipses(model)
    with onnx_errors("inferring the types of the outputs"):
        declare_outputs(model)
    check_interface(model)
    _check_shapes(model)
    with _broken("the size of a tensor"):
        check_weights(model)
    return model


def bounded(data: bytes, limits: AdmissionLimits) -> ModelProto:
    """The model in `data` as it is, once its extent is known; its operators have not been looked at.

    Raises:
        NotOnnx, ModelTooLarge, TooMuchWork, ExternalData, ModelInvalid: as `admit`.
    """
    model = parsed(data, limits)
    for tensor in (message for message in messages(model) if isinstance(message, TensorProto)):
        if is_external(tensor):
            raise ExternalData(
                f"tensor {tensor.name!r} has its data outside the model file; only self-contained models are taken: "
                "send a zip archive of the .onnx file and its data files, or save it with onnx.save_model(..., "
                "save_as_external_data=False)"
            )
    if model.training_info:
        raise ModelNotTaken("the model carries training information; export the inference graph alone")
    check_extent(model, limits.max_nodes, limits.max_model_bytes)
    check_no_gaps(model)
    check_equations(model)
    return model


def parsed(data: bytes, limits: AdmissionLimits) -> ModelProto:
    """The model in `data`, of which no more is known than that it has not too many parts.

    Raises:
        NotOnnx, ModelTooLarge, ModelInvalid: as `admit`.
    """
    if len(data) > limits.max_model_bytes:
        raise ModelTooLarge(
            f"the model has {len(data):,} bytes, at most {limits.max_model_bytes:,} are allowed; "
            "remove debug metadata, or ask the operator of this service for a higher limit"
        )
    model = _parse(data)
    _check_messages(model, limits.max_nodes * _MESSAGES_PER_NODE)
    return model


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
            raise ModelNotTaken("the model nests subgraphs too deeply (protobuf allows 100 levels)") from error
        got = kind or f"{len(data):,} bytes that are no protobuf message, or one that is cut off"
        raise NotOnnx(f"the model is not ONNX: got {got}; {remedy}") from error
    if not model.ir_version or not model.HasField("graph"):
        raise NotOnnx(f"the model is not ONNX: got {kind or 'a message without IR version or graph'}; {remedy}")
    return model


def _check_messages(model: ModelProto, max_messages: int) -> None:
    """No more messages than that, and no broken text."""
    for count, message in enumerate(messages(model), start=1):
        if count > max_messages:
            raise ModelTooLarge(f"the model has more than {max_messages:,} parts; expected a network of sane size")
        for field, value in message.ListFields():
            if field.type == field.TYPE_STRING:
                texts = value if field.is_repeated else (value,)
                if any(isinstance(text, bytes) for text in texts):  # how protobuf hands out broken UTF-8
                    raise ModelInvalid(f"a {field.name} in the model is not valid UTF-8; the file is damaged")


def _inline(model: ModelProto) -> ModelProto:
    """All functions inlined, those written for another opset converted, and imports settled."""
    version = opset_version(model)
    if model.functions:
        with onnx_errors("inlining the model's functions"):
            model = inlined(model, version)
    del model.functions[:]
    check_operators(model, version)
    settle_imports(model, version)
    return model


def _check_valid(model: ModelProto) -> None:
    """By the rules of ONNX, but that values need not be declared, and that ONNX Runtime has standard operators too."""
    checked, opset = _without_contents(model), opset_version(model)
    values = [value for value in (*model.graph.input, *model.graph.output) if not _is_declared(value)]
    if values or any(is_of_runtime_alone(node, opset) for node in nodes(model.graph)):
        for value in (*checked.graph.input, *checked.graph.output):
            if not _is_declared(value):
                kind = value.type.tensor_type.elem_type or TensorProto.FLOAT
                value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, kind, []))
        for node in nodes(checked.graph):
            if is_of_runtime_alone(node, opset):
                node.domain = _UNCHECKED
        checked.opset_import.append(onnx.helper.make_opsetid(_UNCHECKED, 1))
    with _broken("onnx.checker"):
        onnx.checker.check_model(checked.SerializeToString())


def _without_contents(model: ModelProto) -> ModelProto:
    """A copy in which a number of the same type stands for every large initializer that has the bytes of its shape:
    the checker asks for nothing else, and copies what it is given."""
    copy = without_initializers(model)
    for tensor in model.graph.initializer:
        if tensor.ByteSize() >= LARGE and _has_its_bytes(tensor):
            one = copy.graph.initializer.add(dims=[1], raw_data=bytes(_BYTES[tensor.data_type]))
            copy_fields(tensor, one, ("dims", "raw_data"))
        else:
            copy.graph.initializer.append(tensor)
    return copy


def _has_its_bytes(tensor: TensorProto) -> bool:
    """Whether the values of `tensor` are the bytes that its type and shape say, and nothing else."""
    kinds = [name for name in _CONTENTS if len(getattr(tensor, name))]
    if kinds or tensor.data_type not in _BYTES or min(tensor.dims, default=0) < 1:
        return False
    return bool(len(tensor.raw_data) == math.prod(tensor.dims) * _BYTES[tensor.data_type])


def _is_declared(value: ValueInfoProto) -> bool:
    kind = value.type.WhichOneof("value")
    tensor = value.type.tensor_type
    return kind not in (None, "tensor_type") or (bool(tensor.elem_type) and tensor.HasField("shape"))


def check_interface(model: ModelProto) -> None:
    """Tensors of numbers go in, with a known rank, and tensors come out."""
    inputs = own_inputs(model.graph)
    made_by = {name: f" of {node_name(node)} ({node.op_type})" for node in model.graph.node for name in node.output}
    for kind, values in (("input", inputs), ("output", list(model.graph.output))):
        if not values:
            raise ModelNotTaken(f"the graph has no {kind}; expected at least one: export it with its {kind}s named")
        for value in values:
            which = f"{kind} {value.name!r}{made_by.get(value.name, '') if kind == 'output' else ''}"
            remedy = _REMEDIES[kind]
            got = value.type.WhichOneof("value") or "no type"
            if got != "tensor_type":
                raise ModelNotTaken(f"{which} is of {got}; only tensors of numbers are taken: {remedy}")
            element = value.type.tensor_type.elem_type
            if element not in ELEMENT_TYPES:
                raise ModelNotTaken(
                    f"{which} has elements of type {_type_name(element)}; expected float16, float32, float64, "
                    f"integers of 8 to 64 bits, or booleans: {remedy}"
                )
    for value in inputs:
        if not value.type.tensor_type.HasField("shape"):
            raise ShapesNotFixed(f"input {value.name!r} has no shape; export it with one, at least with its rank")


def _type_name(element: int) -> str:
    names = {number: name for name, number in TensorProto.DataType.items()}
    return str(names.get(element, f"number {element}, which ONNX does not have")).lower()


def _check_shapes(model: ModelProto) -> None:
    """Refuse tensors that do not fit together; where shape inference only says so, ONNX Runtime decides."""
    try:
        onnx.shape_inference.infer_shapes(shape_skeleton(model), strict_mode=True)
    except MemoryError as error:
        raise ModelTooLarge("shape inference takes more memory than this process may use") from error
    except ONNX_FAILURES as error:
        if "overflow" in str(error):  # ONNX Runtime loads it, and multiplies all the same
            raise ModelTooLarge(
                f"the model has a tensor of more elements than can be counted: {_reason(error)}"
            ) from error
        try:
            with runtime_errors("load"):
                session_of(model, 1, optimised=False)
        except ModelInvalid:
            raise _invalid("shape inference", error) from error


def check_memory(model: ModelProto, max_memory_bytes: int) -> None:
    with onnx_errors("shape inference"):
        estimate = estimate_memory(model, batch=1)
    if estimate.total_bytes > max_memory_bytes:
        raise ModelTooLarge(
            f"running one sample takes about {estimate.total_bytes:,} bytes ({estimate.weight_bytes:,} of weights; "
            f"the largest value is {estimate.largest!r} with {estimate.largest_bytes:,}); at most "
            f"{max_memory_bytes:,} are allowed: use smaller inputs or ask the operator of this service for more"
        )


ONNX_FAILURES = (
    onnx.checker.ValidationError,
    onnx.shape_inference.InferenceError,
    onnx.version_converter.ConvertError,
    onnx.defs.SchemaError,
    DecodeError,
    ValueError,
    TypeError,
    IndexError,
    RuntimeError,
)
"""What onnx raises on a bad model: it has several classes, and sometimes plain ones."""


@contextmanager
def onnx_errors(doing: str) -> Iterator[None]:
    """Where onnx fails on a model that its checker takes, as our own error."""
    with _failures(doing, lambda error: ModelNotTaken(f"{doing} fails: {_reason(error)}; {_ANOTHER_WAY}")):
        yield


@contextmanager
def _broken(what: str) -> Iterator[None]:
    """Where the failure says that the model breaks the rules of ONNX."""
    with _failures(what, lambda error: _invalid(what, error)):
        yield


@contextmanager
def _failures(doing: str, refusal: Callable[[Exception], ModelInvalid]) -> Iterator[None]:
    try:
        yield
    except NetworkError:
        raise
    except MemoryError as error:
        raise ModelTooLarge(f"{doing} takes more memory than this process may use") from error
    except ONNX_FAILURES as error:
        raise refusal(error) from error


def _invalid(what: str, error: Exception) -> ModelInvalid:
    return ModelInvalid(f"the model is not valid ONNX: {what} says: {_reason(error)}; export it again")


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:400]
