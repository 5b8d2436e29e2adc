"""What is multiplied and added behind a layer, channel by channel: its bias, a folded or unfolded BatchNorm, scales.

One file may have Conv and BatchNormalization where the other has one Conv, or a MatMul and an Add where the other has a
Gemm. All of them are `factor * (W x) + shift`, so that both files are compared as that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from network.onnx_graph import attributes
from quantization.inspection.operands import Integers, Operand
from quantization.inspection.scopes import Array, Scope

Floats = NDArray[np.float64]

# nodes behind which rows cannot be followed, though what comes may still be a bias
_MOVING = frozenset({"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Concat", "Split", "Slice"})
_MOST_FOLLOWED = 16
_PASSING = frozenset({"QuantizeLinear", "DequantizeLinear", "Cast", "Identity", "Dropout"})


@dataclass(frozen=True, slots=True, eq=False)
class Tail:
    """`factor` and `shift` `[rows]` of all that follows; `own_shift` is the bias that the layer itself adds.

    `is_open` says that what follows was not understood: there may be more. `has_bias` says that something is added,
    `is_saturated` that a bias lies at the end of what its integers can hold.
    """

    factor: Floats
    shift: Floats
    own_shift: Floats
    has_bias: bool
    is_open: bool
    is_saturated: bool


def scale_behind(scope: Scope, node: NodeProto, zero_point: str) -> tuple[str, str]:
    """The constants that scale and shift a weight of integers behind the node that reads it, empty where none do.

    MatMulInteger and ConvInteger give sums of integers, which a Cast and a Mul with the product of two scales follow,
    the input's and the weight's in this order. What a Gather of integers gives is read with its scale beside.
    """
    open_values = [node.output[0]]
    for value in open_values:  # grows by what only moves a value
        for reader in scope.readers.get(value, []):
            kind, places = reader.op_type, list(reader.input)
            if node.op_type != "Gather":
                if kind == "Mul":
                    return _scale_of_product(scope, next((n for n in places if n != value), ""), 1), zero_point
            elif kind == "DequantizeLinear" or kind.startswith("QLinear") or kind == "QGemm":
                scale, point = (*places[places.index(value) + 1 :], "", "")[:2]
                if scope.is_constant(scale):
                    return scale, point
            elif kind in ("MatMulInteger", "ConvInteger"):
                place = places.index(value)
                point = (*places[2 + place :], "")[0]
                return _scale_of_product(scope, _factor_behind(scope, reader), place), point
            if kind in _PASSING | _MOVING and reader.output and len(open_values) < _MOST_FOLLOWED:
                open_values.append(reader.output[0])
    return "", ""


def _factor_behind(scope: Scope, node: NodeProto) -> str:
    """What the sums of an integer kernel are multiplied with."""
    value = node.output[0]
    for _ in range(4):
        reader = next(iter(scope.readers.get(value, [])), None)
        if reader is None or reader.op_type == "Mul" or not reader.output:
            return "" if reader is None else next((str(n) for n in reader.input if n != value), "")
        value = reader.output[0]
    return ""


def _scale_of_product(scope: Scope, name: str, place: int) -> str:
    """The scale on one side of a product of two, or the product itself where it is stored as one number."""
    product = scope.makers.get(name)
    if product is not None and product.op_type == "Mul" and len(product.input) == 2:
        parts = [str(part) for part in product.input if scope.is_constant(part)]
        return parts[min(place, len(parts) - 1)] if parts else ""
    return name if name and scope.is_constant(name) else ""


def tail_of(scope: Scope, node: NodeProto, operand: Operand, rows: int) -> Tail:
    """What follows `node`, as long as one node alone reads it and it stays within its channel."""
    channel = operand.channel if operand.channel is not None else -1
    bias, is_saturated = _bias(scope, operand, rows)
    factor, shift = np.ones(rows), np.zeros(rows) if bias is None else bias
    has_bias, is_open = bias is not None, bool(operand.bias) and bias is None
    value, is_scaled = node.output[0], operand.integers is not Integers.SCALED_BEHIND
    for _ in range(64):
        readers = scope.readers.get(value, [])
        if value in scope.outputs or len(readers) != 1:
            is_open = is_open or len(readers) > 1
            break
        reader = readers[0]
        others = [name for name in reader.input if name != value]
        if reader.op_type in _PASSING and reader.input[0] == value:
            pass
        elif reader.op_type == "Mul" and not is_scaled:
            is_scaled = True
        else:
            change = _change(scope, reader, value, others, rows, channel)
            if change is None:
                is_open = is_open or reader.op_type in _MOVING
                break
            factor, shift = factor * change[0], shift * change[0] + change[1]
            has_bias = has_bias or bool(change[1].any())
        value = reader.output[0]
    own = np.zeros(rows) if bias is None else bias
    return Tail(factor, shift, own, has_bias, is_open, is_saturated)


def _bias(scope: Scope, operand: Operand, rows: int) -> tuple[Floats | None, bool]:
    """The bias that the node itself adds, and whether one of its integers is the last that there is."""
    stored = scope.value(operand.bias)
    if stored is None or stored.size not in (1, rows):
        return None, False
    is_integer = stored.dtype == np.int32
    values = np.broadcast_to(stored.astype(np.float64).ravel(), rows) * operand.bias_factor
    saturated = is_integer and bool((np.abs(stored.astype(np.int64)) >= np.iinfo(np.int32).max).any())
    maker = scope.makers.get(operand.bias)
    if not is_integer and maker is not None and maker.op_type == "DequantizeLinear":
        codes = scope.value(maker.input[0])
        saturated = (
            codes is not None and codes.dtype == np.int32 and bool((np.abs(codes.astype(np.int64)) >= 2**31 - 1).any())
        )
    if is_integer:
        scales = [scope.value(name) for name in operand.bias_scales]
        for scale in scales:
            if scale is None or scale.size not in (1, rows):
                return None, saturated
            values = values * scale.astype(np.float64).ravel()
    return np.array(values), saturated


def _change(
    scope: Scope, reader: NodeProto, value: str, others: list[str], rows: int, channel: int
) -> tuple[Floats, Floats] | None:
    """What a node does to each channel: `factor` and `shift`, None where it does something else."""
    ones, zeros = np.ones(rows), np.zeros(rows)
    kind = reader.op_type
    if kind == "BatchNormalization" and reader.input[0] == value and not attributes(reader).get("training_mode", 0):
        given = [scope.value(name) for name in reader.input[1:5]]
        if (channel != 1 and channel != -1) or any(v is None or v.size != rows for v in given):
            return None
        gamma, beta, mean, variance = (np.asarray(v, dtype=np.float64).ravel() for v in given)
        factor = gamma / np.sqrt(variance + float(attributes(reader).get("epsilon", 1e-5)))
        return factor, beta - mean * factor
    if kind in ("QLinearAdd", "QLinearMul") and len(reader.input) >= 6:
        place = 3 if reader.input[0] == value else 0
        codes, scale, point = (scope.value(name) for name in reader.input[place : place + 3])
        if codes is None or scale is None:
            return None
        zero = 0.0 if point is None else point.astype(np.float64)
        vector = _per_row((codes.astype(np.float64) - zero) * scale, rows, channel)
    elif kind in ("Add", "Mul", "Sub", "Div") and len(others) == 1:
        constant = scope.value(others[0])
        vector = None if constant is None else _per_row(constant.astype(np.float64), rows, channel)
    else:
        return None
    if vector is None:
        return None
    is_first = reader.input[0] == value
    match kind:
        case "Add" | "QLinearAdd":
            return ones, vector
        case "Mul" | "QLinearMul":
            return vector, zeros
        case "Sub":
            return (ones, -vector) if is_first else (-ones, vector)
    return (1 / vector, zeros) if is_first and vector.all() else None


def _per_row(constant: Array, rows: int, channel: int) -> Floats | None:
    """A constant as one number for each channel, None where it differs along other axes."""
    if constant.size == 1:
        return np.full(rows, float(constant.reshape(())))
    if constant.size != rows:
        return None
    place = next(axis for axis, length in enumerate(constant.shape) if length == rows)
    behind = constant.ndim - 1 - place
    return constant.ravel() if (channel == -1) == (behind == 0) else None
