"""Reads a written file back and says how every weight is stored, and every activation rounded."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from network.onnx_graph import is_standard, names_read, nodes, opset_of
from network.plain_tables import TABLE_INPUTS, is_small
from network.sites import RECURRENT
from quantization.errors import FileNotAudited
from quantization.export import matmul_integer
from quantization.export.ambiguity import check_unambiguous
from quantization.export.matmul_nbits import ACCURACY_LEVEL, OPERATOR, product_parts
from quantization.export.matmul_nbits import DOMAIN as RUNTIME
from quantization.formats import (
    BLOCK_SIZES,
    CODED_TENTHS,
    MAX_BITS,
    MAX_CODEBOOK_BITS,
    MAX_OUTLIERS,
    MIN_BITS,
    CodebookFormat,
    CodedFormat,
    FloatFormat,
    Granularity,
    HadamardFormat,
    HalfFormat,
    IntegerFormat,
    PowerFormat,
    WeightFormat,
)
from quantization.granularity import every_channel_axis
from quantization.storage import decoding
from quantization.storage.dequantize import BIAS, bias_function
from quantization.storage.parts import DIGITS, HALVES, SCALE, STRING, NotStorable, Storage, storage
from quantization.storage.unpacking import DOMAIN, SHAPE

# widths of an activation's codes by their type; fewer bits are capped codes of 8
_ACTIVATION_BITS: dict[int, int] = {onnx.TensorProto.UINT8: 8, onnx.TensorProto.UINT16: 16}
# the inputs of these operators that may be weights
_WEIGHT_INPUTS = {"Conv": (1,), "ConvTranspose": (1,), "Gemm": (1,), "MatMul": (0, 1), "Gather": (0,)} | dict.fromkeys(
    RECURRENT, (1, 2)
)


@dataclass(frozen=True, slots=True)
class StoredWeight:
    """How the weight called `name` is stored: `bits` for each of its `elements`.

    `size_bytes` is what its codes or values take in the file and `scale_bytes` what its weights share: scales, zero
    points, tables; both without names and shapes.
    """

    name: str
    shape: tuple[int, ...]
    format: WeightFormat
    size_bytes: int
    scale_bytes: int

    @property
    def bits(self) -> float:
        return self.format.bits

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class StoredActivation:
    """How the tensor called `name` is rounded: to codes of `bits` bits, `scale * (code - zero_point)`."""

    name: str
    bits: int
    scale: float
    zero_point: int


@dataclass(frozen=True, slots=True)
class Audit:
    """Every weight of a file, in the order of the nodes that make or use them, every activation that is rounded, in
    graph order, and the size of the file."""

    weights: tuple[StoredWeight, ...]
    activations: tuple[StoredActivation, ...]
    total_bytes: int


def audit(file: bytes, kept: Collection[str] | None = None) -> Audit:
    """What a file written by `quantization.export.export` stores, from its tensors alone: no name is believed.

    Args:
        file: its bytes.
        kept: weights that came as codes, by name, and are none of ours; None where nobody knows. Then a MatMulInteger
            of a form that is never written is taken for one that came so, and left out.

    Raises:
        FileNotAudited: a call is not to the function that its tensors need, the function is not ours to the byte, a
            tensor does not hold what its type and shape say, lies outside of the file or is shared by two weights, or a
            name stands for two things.
    """
    try:
        model = onnx.ModelProto.FromString(file)
    except DecodeError as error:
        raise FileNotAudited("these bytes are no ONNX file") from error
    check_unambiguous(model)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    functions = {f.name: f.SerializeToString(deterministic=True) for f in model.functions if f.domain == DOMAIN}
    opset = opset_of(model)
    weights = _Weights(tensors, opset)
    makers = {made: node for node in model.graph.node for made in node.output if made}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in names_read(node):
            readers.setdefault(name, []).append(node)
    for node in nodes(model.graph):
        if node.domain == DOMAIN and not node.output:
            raise FileNotAudited(f"node {node.name} calls {node.op_type} and has no output")
        if node.op_type == BIAS and node.domain == DOMAIN:
            if functions.get(BIAS) != bias_function(opset):
                raise FileNotAudited(f"bias {node.output[0]}: its function is not the one that {BIAS} stands for")
        elif node.domain == DOMAIN:
            call = _packed(node, tensors, opset)
            if any(functions.get(name) != body for name, body in call.storage.function.bodies().items()):
                raise FileNotAudited(
                    f"weight {node.output[0]}: {node.op_type} is not the function that {call.format.name} needs"
                )
            weights.made(call)
        elif node.op_type == OPERATOR and node.domain == RUNTIME:
            if not any(name in (kept or ()) for name in node.input[1:2]):
                weights.multiplied(node)
        elif node.op_type == matmul_integer.OPERATOR and is_standard(node):
            if any(name in tensors and name not in (kept or ()) for name in node.input[1:2]):
                with nullcontext() if kept is not None else suppress(FileNotAudited):
                    weights.summed(node, makers, readers)
        elif is_standard(node):
            weights.read(node)
    return Audit(weights.all(), tuple(rounded_activations(model.graph)), len(file))


class _Weights:
    """The weights of the nodes so far, each once."""

    def __init__(self, tensors: Mapping[str, onnx.TensorProto], opset: int) -> None:
        self._tensors = tensors
        self._opset = opset
        self._stored: dict[str, StoredWeight] = {}
        self._calls: dict[tuple[str, bool], _Call] = {}  # by the name of a digit, and whether integer kernels take it
        self._products: dict[str, tuple[str, ...]] = {}

    def all(self) -> tuple[StoredWeight, ...]:
        return tuple(self._stored.values())

    def made(self, call: _Call) -> None:
        """By one of our functions. From the same digits it makes a weight for floats and for integer kernels only."""
        digits, is_kernel = call.tensors(DIGITS + HALVES), call.kernel is not None
        others = [made for name in digits if (made := self._calls.get((name, not is_kernel))) is not None]
        if any((name, is_kernel) in self._calls for name in digits) or not all(self._is_same(call, o) for o in others):
            raise FileNotAudited(f"weight {call.name}: another weight is made from its digits {', '.join(digits)}")
        self._calls.update(((name, is_kernel), call) for name in digits)
        if others:
            return
        if call.name in self._stored:
            raise FileNotAudited(f"several weights are called {call.name}")
        self._stored[call.name] = call.weight()

    def _is_same(self, call: _Call, other: _Call) -> bool:
        """Whether the two forms, one of them for integer kernels, have the same digits and scales."""
        kernel, plain = (other, call) if call.kernel is None else (call, other)
        if (kernel.tensors(DIGITS), kernel.format) != (plain.tensors(DIGITS), plain.format) or kernel.kernel is None:
            return False
        if storage(kernel.format, kernel.shape, kernel.kernel, opset=self._opset).parts != plain.storage.parts:
            return False
        kept = [[self._tensors[name].raw_data for name in form.tensors(SCALE)] for form in (kernel, plain)]
        return kept[0] == kept[1]

    def multiplied(self, node: onnx.NodeProto) -> None:
        """By an operator that takes it as it is packed."""
        weight, names = _multiplied(node, self._tensors), tuple(name for name in node.input[1:4] if name)
        if self._products.setdefault(weight.name, names) != names or self._stored.get(weight.name, weight) != weight:
            raise FileNotAudited(f"weight {weight.name}: {node.name} reads it with other scales or as another format")
        self._stored[weight.name] = weight

    def summed(
        self,
        node: onnx.NodeProto,
        makers: Mapping[str, onnx.NodeProto],
        readers: Mapping[str, Sequence[onnx.NodeProto]],
    ) -> None:
        """By an operator that sums the products of its codes with those of an input."""
        names, parts = matmul_integer.stored_product(node, self._tensors, makers, readers)
        if names[0] in self._stored:
            raise FileNotAudited(f"weight {names[0]}: {node.name} is not the only one that reads it")
        codes, *shared = (part.size_bytes for part in parts)
        self._stored[names[0]] = StoredWeight(names[0], parts[0].dims, matmul_integer.FORMAT, codes, sum(shared))

    def read(self, node: onnx.NodeProto) -> None:
        """As a float initializer."""
        weights, tables = _WEIGHT_INPUTS.get(node.op_type, ()), TABLE_INPUTS.get(node.op_type, ())
        for place, name in enumerate(node.input):
            tensor = self._tensors.get(name)
            if tensor is None or tensor.data_type != onnx.TensorProto.FLOAT or name in self._stored:
                continue
            is_table = (tables is None or place in tables) and not is_small(tensor)
            if is_table or place in weights:
                self._stored[name] = _plain(tensor)


def rounded_activations(graph: onnx.GraphProto) -> Iterator[StoredActivation]:
    """What QuantizeLinear and DequantizeLinear say of the values between them, however they are called.

    Raises:
        FileNotAudited: what a value is rounded by is no number.
    """
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    nodes = [node for node in graph.node if node.input and node.output]
    readers = {name: node for node in nodes for name in node.input}
    inputs = {value.name for value in graph.input}
    capped: dict[tuple[str, ...], int] = {}  # what only moves capped codes has their scale and no cap of its own
    for node in nodes:
        parameters = [tensors.get(name) for name in node.input[1:]]
        if node.op_type != "QuantizeLinear" or len(parameters) != 2:
            continue
        scale, zero_point = parameters
        if scale is None or zero_point is None or scale.dims or zero_point.data_type not in _ACTIVATION_BITS:
            continue
        bits, reader = _ACTIVATION_BITS[zero_point.data_type], readers.get(node.output[0])
        if reader is not None and reader.op_type == "Clip":
            cap = tensors.get(reader.input[2]) if len(reader.input) == 3 and not reader.input[1] else None
            if cap is not None:
                capped[tuple(node.input[1:])] = int(_number(cap)).bit_length()
            reader = readers.get(reader.output[0])
        if reader is None or reader.op_type != "DequantizeLinear" or reader.input[1:] != node.input[1:]:
            continue
        name = node.input[0] if node.input[0] in inputs else reader.output[0]
        bits = capped.get(tuple(node.input[1:]), bits)
        yield StoredActivation(name, bits, _number(scale), int(_number(zero_point)))


def _number(tensor: onnx.TensorProto) -> float:
    """The one that the tensor holds."""
    if math.prod(tensor.dims) == 1:
        with suppress(ValueError, TypeError, KeyError):  # of values that are not as type and shape say
            return float(onnx.numpy_helper.to_array(tensor).reshape(()))
    raise FileNotAudited(f"tensor {tensor.name} must hold a number that an activation is rounded by, and does not")


def _multiplied(node: onnx.NodeProto, tensors: Mapping[str, onnx.TensorProto]) -> StoredWeight:
    """The weight `[rows, columns]` that a layer multiplies with as it is packed."""
    if len(node.input) not in _PRODUCT_INPUTS or not node.input[2]:
        raise FileNotAudited(f"node {node.name}: {OPERATOR} lacks a weight or its scales, or has inputs unknown to us")
    name, numbers = node.input[1], {a.name: a.i for a in node.attribute if a.type == onnx.AttributeProto.INT}
    given = [part for part in node.input[1:4] if part]
    if missing := [part for part in given if part not in tensors]:
        raise FileNotAudited(f"weight {name}: {', '.join(missing)} is no tensor of the file")
    if any(node.input[4:5]):
        raise FileNotAudited(f"weight {name}: {node.name} reads its rows in an order of their own, {node.input[4]}")
    level = numbers.get("accuracy_level", _LEVELS[0])
    if len(numbers) < len(node.attribute) or not numbers.keys() <= _PRODUCT_NUMBERS or level not in _LEVELS:
        raise FileNotAudited(
            f"weight {name}: {node.name} has attributes that are never written, among "
            f"{', '.join(f'{a.name} = {a.i}' for a in node.attribute)}"
        )
    rows, columns = numbers.get("K", 0), numbers.get("N", 0)
    try:
        format_ = IntegerFormat(
            numbers.get("bits", 4), Granularity.BLOCK, symmetric=len(given) == 2, block=numbers.get("block_size", 0)
        )
        parts = product_parts(format_, rows, columns)
    except ValueError as error:
        raise FileNotAudited(f"weight {name}: {node.name} multiplies in no format: {error}") from error
    for part, called in zip(parts, given, strict=True):
        stored = (tensors[called].data_type, tuple(tensors[called].dims), len(tensors[called].raw_data))
        if stored != (part.data_type, part.dims, part.size_bytes):
            raise FileNotAudited(
                f"weight {name}: {called} is of type {stored[0]}, shape {stored[1]} and {stored[2]} bytes, expected "
                f"{part.data_type}, {part.dims} and {part.size_bytes}"
            )
    codes, *shared = (part.size_bytes for part in parts)
    return StoredWeight(name, (rows, columns), format_, codes, sum(shared))


@dataclass(frozen=True, slots=True)
class _Call:
    """What makes the weight `name`, from tensors called `inputs`: for float layers, or for an integer kernel with its
    output channels on axis `kernel`."""

    name: str
    inputs: tuple[str, ...]
    format: WeightFormat
    shape: tuple[int, ...]
    storage: Storage
    kernel: int | None

    def tensors(self, letters: str) -> tuple[str, ...]:
        """Names of those whose parts have one of these letters."""
        named = zip(self.inputs, self.storage.parts, strict=True)
        return tuple(name for name, part in named if part.letter in letters)

    def weight(self) -> StoredWeight:
        codes = sum(part.size_bytes for part in self.storage.parts if part.letter in DIGITS + HALVES + STRING)
        shared = sum(part.size_bytes for part in self.storage.parts) - codes
        return StoredWeight(self.name, self.shape, self.format, codes, shared)


def _packed(node: onnx.NodeProto, tensors: Mapping[str, onnx.TensorProto], opset: int) -> _Call:
    """The format of the weight that a call makes: the one whose parts are the call's, in type, shape and bytes."""
    name = node.output[0]
    if missing := [part for part in node.input if part not in tensors]:
        raise FileNotAudited(f"weight {name}: {', '.join(missing)} is no tensor of the file")
    parts = [tensors[part] for part in node.input]
    shape = _stated_shape(node) or (tuple(parts[0].dims) if parts else ())
    layout = [(part.data_type, tuple(part.dims)) for part in parts]
    coded = node.op_type == decoding.FUNCTION
    candidates = _CODED if coded else (*_FORMATS, *_with_outliers(node.op_type))
    axes = every_channel_axis(shape) or (0,)
    forms = [(axis, kernel) for axis in axes for kernel in (None, *((axis,) if isinstance(axis, int) else ()))]
    for format_, (axis, kernel) in itertools.product(candidates, forms):
        try:
            stored = storage(format_, shape, axis, kernel, opset, len(node.output))
        except NotStorable:
            continue
        if stored.function.name == node.op_type and [(part.data_type, part.dims) for part in stored.parts] == layout:
            break
    else:
        raise FileNotAudited(f"weight {name}: its tensors and its call {node.op_type} are those of no format")
    if list(node.attribute) != list(stored.call(node.input, node.output).attribute):
        raise FileNotAudited(f"weight {name}: its call {node.op_type} has attributes that are never written")
    for tensor, part in zip(parts, stored.parts, strict=True):
        if (size := len(tensor.raw_data)) != part.size_bytes:
            raise FileNotAudited(f"weight {name}: {tensor.name} holds {size} bytes, expected {part.size_bytes}")
    return _Call(name, tuple(node.input), format_, shape, stored, kernel)


def _stated_shape(node: onnx.NodeProto) -> tuple[int, ...]:
    """The shape that a call of packed digits says its weight has, none where it says nothing."""
    shape = next((tuple(a.ints) for a in node.attribute if a.name == SHAPE), ())
    if any(length < 1 for length in shape):
        raise FileNotAudited(f"weight {node.output[0]}: its call {node.op_type} gives it the shape {shape}")
    return shape


def _all_formats() -> Iterator[WeightFormat]:
    """Every format that a weight may be stored in but coded ones, whose function has a name that no other has; what has
    a name of its own is found by its parts."""
    yield HalfFormat()
    for bits, symmetric in itertools.product(range(MIN_BITS, MAX_BITS + 1), (True, False)):
        yield IntegerFormat(bits, Granularity.CHANNEL, symmetric)
        yield IntegerFormat(bits, Granularity.TENSOR, symmetric)
        for block in BLOCK_SIZES:
            yield IntegerFormat(bits, Granularity.BLOCK, symmetric, block)
    for bits in range(MIN_BITS, MAX_BITS + 1):
        yield PowerFormat(bits)
        yield HadamardFormat(bits)
    for bits in range(MIN_BITS, MAX_CODEBOOK_BITS + 1):
        yield CodebookFormat(bits)


def _with_outliers(function: str) -> Iterator[WeightFormat]:
    """The codebooks whose function may be the one of this name: too many to try them all."""
    if (match := re.fullmatch(r"Code\w*o(\d{1,3})", function)) and int(match[1]) <= MAX_OUTLIERS:
        for bits in range(MIN_BITS, MAX_CODEBOOK_BITS + 1):
            yield CodebookFormat(bits, int(match[1]))


def _plain(tensor: onnx.TensorProto) -> StoredWeight:
    shape = tuple(tensor.dims)
    size = 4 * math.prod(shape)
    return StoredWeight(tensor.name, shape, FloatFormat(), size, 0)


_PRODUCT_INPUTS = range(3, 7)  # B and its scales; zero points, order of rows and bias may be left out
_PRODUCT_NUMBERS = {"K", "N", "bits", "block_size", "accuracy_level"}
_LEVELS = (0, ACCURACY_LEVEL)  # files of older versions state none
_FORMATS = tuple(_all_formats())
_CODED = tuple(map(CodedFormat, CODED_TENTHS))
