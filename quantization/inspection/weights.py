"""The weights of a file: what each stands for, how it is stored, and what is added behind the layer that reads it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from network.onnx_graph import label
from quantization.inspection.affine_tail import Tail, scale_behind, tail_of
from quantization.inspection.operands import Integers, Operand, matrix, operands, packed
from quantization.inspection.scopes import Array, Scope

Floats = NDArray[np.float64]

_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})
_BITS: dict[int, int] = {
    TensorProto.INT2: 2, TensorProto.UINT2: 2, TensorProto.INT4: 4, TensorProto.UINT4: 4, TensorProto.FLOAT4E2M1: 4,
    TensorProto.INT8: 8, TensorProto.UINT8: 8, TensorProto.FLOAT8E4M3FN: 8, TensorProto.FLOAT8E4M3FNUZ: 8,
    TensorProto.FLOAT8E5M2: 8, TensorProto.FLOAT8E5M2FNUZ: 8, TensorProto.BOOL: 8,
    TensorProto.INT16: 16, TensorProto.UINT16: 16, TensorProto.FLOAT16: 16, TensorProto.BFLOAT16: 16,
    TensorProto.INT64: 64, TensorProto.UINT64: 64, TensorProto.DOUBLE: 64,
}  # fmt: skip
_INTEGERS = frozenset(
    getattr(TensorProto, name) for name in ("INT2", "UINT2", "INT4", "UINT4", "INT8", "UINT8", "INT16", "UINT16")
)
# what tools put behind the name of a tensor that they quantize
_SUFFIXES = re.compile(
    r"(_quantized|_dequantized|_DequantizeLinear(_Output)?|_QuantizeLinear(_Output)?|_qdq|_updated|_dq|_deq|_quant|_int|_q"
    r"|_fp16|_Q\d+\w*|_DQ_Q\d+|_weight_DQ|_MatMul|_transposed?)(_\d+)?$"
)
# and what ONNX Runtime puts before the name of one that it folds something into
_PREFIXES = re.compile(r"^\w+Fusion_(W|B|BN_B)_")
_MADE_UP = re.compile(r"^(onnx::\w+|val|const|t|fn|_val|_?[Cc]onstant\w*|[A-Z]\w*)?_*\d+$")


def plain_name(name: str) -> str:
    """A name without what tools put before and behind it."""
    name = _PREFIXES.sub("", name)
    while (shorter := _SUFFIXES.sub("", name)) and shorter != name:
        name = shorter
    return name


def is_made_up(name: str) -> bool:
    """Whether an exporter numbered it: another export may give it to another weight."""
    return bool(_MADE_UP.match(name))


def tensor_bytes(tensor: TensorProto) -> int:
    """What the values of a tensor take in a file."""
    return -(-_count(tensor) * _BITS.get(tensor.data_type, 32) // 8)


@dataclass(frozen=True, slots=True)
class StoredAs:
    """How a weight is stored.

    `stored_bits` are those that the file spends on each value of the weight, without its scales; `used_bits` those
    that the codes which occur need: an int8 tensor of codes from -8 to 7 stores 8 bits and uses 4. `carried_bits` are
    the entropy of the codes, None where they are not known. `size_bytes` are those of the codes or values,
    `scale_bytes` those of scales and zero points. `granularity` is tensor, channel or block, or empty for a weight
    without scales.
    """

    element_type: str
    stored_bits: float
    used_bits: float
    granularity: str
    symmetric: bool
    scales: int
    size_bytes: int
    scale_bytes: int
    tensors: tuple[str, ...]
    carried_bits: float | None = None

    @property
    def is_float(self) -> bool:
        return self.element_type in ("float32", "float16", "bfloat16", "float64")


@dataclass(frozen=True, slots=True, eq=False)
class Weight:
    """A weight where it is first read: `values` `[rows, columns]`, and the `step` between neighbouring codes of each,
    None where the weight is not on a grid of equal steps."""

    name: str
    value: str
    keys: tuple[str, ...]
    kind: str
    node: str
    path: str
    position: int
    values: Floats
    step: Floats | None
    stored: StoredAs
    tail: Tail | None
    readers: tuple[str, ...] = ()


def weights_of(model: ModelProto) -> tuple[list[Weight], list[str]]:
    """All weights in graph order, each once, and the names of those that cannot be read."""
    found: dict[tuple[str, str], Weight] = {}
    unreadable: list[str] = []
    for scope in Scope(model, model.graph).inner():
        for node in scope.graph.node:
            if node.output and scope.is_constant(node.output[0]):
                continue  # its own inputs make a weight of another node
            for operand in operands(node):
                if not scope.is_constant(operand.value):
                    continue
                key = (scope.path if operand.value in _own(scope) else "", operand.value)
                if key in found:
                    continue
                try:
                    weight = _weight(scope, node, operand, len(found))
                except (ValueError, IndexError, OverflowError):  # tensors that do not fit together
                    unreadable.append(operand.value)
                    continue
                if weight is not None:
                    found[key] = weight
    return list(found.values()), unreadable


def _own(scope: Scope) -> set[str]:
    return {tensor.name for tensor in scope.graph.initializer} | {n for node in scope.graph.node for n in node.output}


def _weight(scope: Scope, node: NodeProto, operand: Operand, position: int) -> Weight | None:
    _, tensors = scope.sources(operand.value)
    shape_only = [scope.tensors[name] for name in tensors]
    if not shape_only or max(math.prod(tensor.dims) for tensor in shape_only) < 2:
        return None
    grid = _packed_grid(scope, node, operand) if operand.is_packed else _grid(scope, node, operand, tensors)
    if grid is None:
        return None
    tail = tail_of(scope, node, operand, len(grid.values)) if operand.channel is not None else None
    keys = [*tensors, operand.value, *(f">{out}" for out in node.output[:1])]
    keys = [plain_name(key) for key in keys]
    name = _name(tensors, operand.value, grid.codes)
    return Weight(
        name, operand.value, tuple(dict.fromkeys(keys)), operand.kind, label(node), scope.path, position,
        grid.values, grid.step, grid.stored, tail, tuple(map(label, scope.readers.get(operand.value, [node]))),
    )  # fmt: skip


def _name(tensors: list[str], value: str, codes: str) -> str:
    return codes if codes in tensors else (tensors[0] if len(tensors) == 1 else value)


@dataclass(frozen=True, slots=True, eq=False)
class _Grid:
    values: Floats
    step: Floats | None
    stored: StoredAs
    codes: str


def _packed_grid(scope: Scope, node: NodeProto, operand: Operand) -> _Grid | None:
    stored, scales, points = (scope.value(name) for name in (operand.value, operand.scale, operand.zero_point))
    if stored is None or scales is None or (operand.zero_point and points is None):
        return None
    held = packed(node, stored, scales, points)
    if held is None:
        return None
    shared = [scope.tensors[name] for name in (operand.scale, operand.zero_point) if name in scope.tensors]
    values = (held.codes - held.zero_point) * held.scale
    tensor = scope.tensors.get(operand.value)
    size = tensor_bytes(tensor) if tensor is not None else stored.nbytes
    as_stored = StoredAs(
        f"uint{held.bits}", held.bits, _bits_of(held.codes), "block", bool(_is_middle(held.zero_point, held.bits)),
        scales.size, size, sum(map(tensor_bytes, shared)), (operand.value,), _entropy(held.codes),
    )  # fmt: skip
    return _Grid(values, np.abs(held.scale), as_stored, operand.value)


def _grid(scope: Scope, node: NodeProto, operand: Operand, tensors: list[str]) -> _Grid | None:
    """Of a weight that arithmetic makes: its steps are what the values change by when all codes go from 0 to 1."""
    scale = operand.scale
    kind = scope.value(operand.value)
    if kind is None:
        raise ValueError(operand.value)
    is_integer = kind.dtype.kind in "iu" or kind.dtype.name in ("int4", "uint4", "int2", "uint2")
    if operand.integers is Integers.SCALED_BEHIND and is_integer:
        scale, point = scale_behind(scope, node, operand.zero_point)
        operand = replace(operand, zero_point=point)
        if not scale:
            if operand.kind != "Gather":
                _fail(operand.value)
            return None
    elif operand.integers is Integers.SCALED_BEHIND or not is_integer:
        scale = ""
    elif operand.integers is Integers.NO:
        return None  # integers that index or count
    extra, value = _arithmetic(scope, operand, scale) if scale else ((), operand.value)

    def read(replaced: Mapping[str, TensorProto]) -> Floats | None:
        made = scope.values([value], replaced, extra)[0]
        return None if made is None else matrix(made, operand)

    values = read({})
    if values is None:
        if kind.ndim >= 2:
            _fail(operand.value)
        return None
    if not np.isfinite(values).all():
        _fail(operand.value)
    shared = [name for name in (scale, operand.zero_point) if name]
    more = [name for part in shared for name in scope.sources(part)[1]]
    parts = {name: scope.tensors[name] for name in (*tensors, *more)}
    codes = _codes(parts, values.size)
    if codes is None:
        return _Grid(
            values, None, _float_storage(scope, operand, parts, values), max(parts, key=lambda n: _count(parts[n]))
        )
    whole = [name for name, part in parts.items() if part.data_type in _INTEGERS and _count(part) * 8 >= values.size]
    if len(whole) > 1:  # digits of one code: no one of them counts its steps
        codes_only = _integer_storage(scope, parts, codes, values, None, None)
        return _Grid(values, None, codes_only, codes)
    low, high = (_filled(parts[codes], number, values.size) for number in (0, 1))
    ends = (read({codes: low}), read({codes: high})) if low is not None and high is not None else (None, None)
    at_zero, at_one = ends
    step = np.abs(at_one - at_zero) if at_zero is not None and at_one is not None else None
    if step is not None and not (step > 0).any():
        step = None
    return _Grid(values, step, _integer_storage(scope, parts, codes, values, step, at_zero), codes)


def _fail(name: str) -> NoReturn:
    raise ValueError(name)


def _arithmetic(scope: Scope, operand: Operand, scale: str) -> tuple[tuple[NodeProto, ...], str]:
    """Nodes for `(value - zero_point) * scale`, and the name of what they make."""
    rank = len(scope.value(operand.value).shape)  # type: ignore[union-attr]  # it was read before
    axis = operand.axis % rank
    facing = [1] * rank
    facing[axis] = -1

    def constant(name: str, values: list[int]) -> NodeProto:
        return helper.make_node("Constant", [], [name], value=helper.make_tensor(name, 7, [len(values)], values))

    made = [
        constant("inspected/facing", facing),
        helper.make_node("Cast", [operand.value], ["inspected/codes"], to=TensorProto.FLOAT),
        helper.make_node("Cast", [scale], ["inspected/scale_"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["inspected/scale_", "inspected/facing"], ["inspected/scale"]),
    ]
    codes = "inspected/codes"
    if operand.zero_point and scope.is_constant(operand.zero_point):
        made += [
            helper.make_node("Cast", [operand.zero_point], ["inspected/point_"], to=TensorProto.FLOAT),
            helper.make_node("Reshape", ["inspected/point_", "inspected/facing"], ["inspected/point"]),
            helper.make_node("Sub", [codes, "inspected/point"], ["inspected/centred"]),
        ]
        codes = "inspected/centred"
    made.append(helper.make_node("Mul", [codes, "inspected/scale"], ["inspected/weight"]))
    return tuple(made), "inspected/weight"


def _count(tensor: TensorProto) -> int:
    return int(math.prod(tensor.dims))


def _codes(parts: Mapping[str, TensorProto], elements: int) -> str | None:
    """The tensor of integers that holds the weight, whole or packed."""
    integers = {n: t for n, t in parts.items() if t.data_type in _INTEGERS and _count(t) * 8 >= elements}
    floats = [t for t in parts.values() if t.data_type in _FLOATS and _count(t) >= elements]
    return max(integers, key=lambda name: _count(integers[name])) if integers and not floats else None


def _filled(tensor: TensorProto, number: int, elements: int) -> TensorProto | None:
    """A tensor of such codes, all of them 0 or 1; None where it is not known how they are packed."""
    bits = _BITS[tensor.data_type]
    if (count := _count(tensor)) != elements:
        bits = bits * count // elements if elements % count == 0 else 0
    pattern = {1: 0xFF, 2: 0x55, 4: 0x11, 8: 0x01}.get(bits)
    size = tensor_bytes(tensor)
    if bits == 16:
        raw = number.to_bytes(2, "little") * count
    elif pattern is None:
        return None
    else:
        raw = bytes([pattern * number]) * size
    return TensorProto(name=tensor.name, data_type=tensor.data_type, dims=list(tensor.dims), raw_data=raw)


def _float_storage(scope: Scope, operand: Operand, parts: Mapping[str, TensorProto], values: Floats) -> StoredAs:
    largest = max(parts, key=lambda name: _count(parts[name]))
    tensor = parts[largest]
    kind = str(helper.tensor_dtype_to_np_dtype(tensor.data_type).name)
    size = tensor_bytes(tensor)
    bits = 8 * size / values.size
    rounded = next((n for n in scope.sources(operand.value)[0] if n.op_type == "QuantizeLinear"), None)
    if rounded is None or len(rounded.input) < 2:
        shared = sum(tensor_bytes(t) for name, t in parts.items() if name != largest)
        return StoredAs(kind, bits, bits, "", True, 0, size, shared, (largest,))
    scale, point = scope.value(rounded.input[1]), scope.value(rounded.input[2] if len(rounded.input) > 2 else "")
    count = 1 if scale is None else scale.size
    used = 8.0 if point is None else float(_BITS.get(helper.np_dtype_to_tensor_dtype(point.dtype), 8))
    symmetric = point is None or bool(_is_middle(point.astype(np.float64), int(used)))
    return StoredAs(kind, bits, used, _granularity(count, len(values)), symmetric, count, size, 0, (largest,))


def _integer_storage(
    scope: Scope, parts: Mapping[str, TensorProto], codes: str, values: Floats, step: Floats | None, zero: Floats | None
) -> StoredAs:
    tensor = parts[codes]
    size = tensor_bytes(tensor)
    bits = 8 * size / values.size if _count(tensor) != values.size else float(_BITS[tensor.data_type])
    stored = scope.values([codes])[0]
    used, carried = bits, None
    if stored is not None and stored.size == values.size:
        used, carried = min(bits, _bits_of(stored.astype(np.int64))), _entropy(stored.astype(np.int64))
    elif step is not None:
        carried = _entropy(np.rint(values / np.where(step > 0, step, 1)).astype(np.int64))
    scales = [t for name, t in parts.items() if name != codes and t.data_type in _FLOATS]
    count = max((_count(t) for t in scales), default=1)
    symmetric = True
    if step is not None and zero is not None:
        symmetric = bool(_is_middle(np.abs(zero) / np.where(step > 0, step, 1), int(bits)))
    shared = sum(tensor_bytes(t) for name, t in parts.items() if name != codes)
    kind = onnx.TensorProto.DataType.Name(tensor.data_type).lower()
    return StoredAs(
        kind, bits, used, _granularity(count, len(values)), symmetric, count, size, shared, (codes,), carried
    )


def _granularity(scales: int, rows: int) -> str:
    return "tensor" if scales == 1 else "channel" if scales <= rows else "block"


def _is_middle(points: Array, bits: int) -> bool:
    """Whether all zero points are 0, or in the middle of unsigned codes."""
    return any(bool(np.all(np.abs(points - middle) < 0.01)) for middle in (0, 1 << (bits - 1)))


def _bits_of(codes: Array) -> float:
    """What the range of the codes that occur needs: codes from -8 to 7 need 4, from -64 to 64 need 7.01."""
    return round(float(np.log2(int(codes.max()) - int(codes.min()) + 1)), 2) if codes.size else 0.0


def _entropy(codes: Array) -> float:
    """Shannon's, in bits for each code."""
    shares = np.unique(codes, return_counts=True)[1] / max(codes.size, 1)
    return float(-(shares * np.log2(shares)).sum())


def duplicates(model: ModelProto, least_bytes: int) -> Iterator[tuple[str, str, int]]:
    """Tensors of at least so many bytes that hold the same as one before them: both names, and the bytes."""
    seen: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    for tensor in model.graph.initializer:
        size = tensor_bytes(tensor)
        if size < least_bytes:
            continue
        content = tensor.raw_data or tensor.SerializeToString()
        first = seen.setdefault((tensor.data_type, tuple(tensor.dims), content), tensor.name)
        if first != tensor.name:
            yield first, tensor.name, size
