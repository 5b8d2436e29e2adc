"""What activations are rounded to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto

from quantization.inspection.findings import Finding, defect, warning
from quantization.inspection.scopes import Scope

# inputs that are the scale and zero point of an operator's output
_OUTPUT_SCALES = {
    "QLinearConv": (6, 7),
    "QLinearMatMul": (6, 7),
    "QGemm": (7, 8),
    "QLinearAdd": (6, 7),
    "QLinearMul": (6, 7),
}
# where the values of a function end
_ENDS = {"Sigmoid": 1.0, "HardSigmoid": 1.0}
_LIMITS = {
    "uint8": (0, 255),
    "int8": (-128, 127),
    "uint16": (0, 65535),
    "int16": (-32768, 32767),
    "uint4": (0, 15),
    "int4": (-8, 7),
}


@dataclass(frozen=True, slots=True)
class ActivationRange:
    """A tensor that is rounded to codes of an `element_type`: those reach from `low` to `high`."""

    name: str
    element_type: str
    scale: float
    zero_point: int
    low: float
    high: float


def activation_ranges(model: ModelProto) -> list[ActivationRange]:
    """Of all values that are rounded by constants, in graph order; per-channel ones by their widest scale."""
    found: list[ActivationRange] = []
    for scope in Scope(model, model.graph).inner():
        for node in scope.graph.node:
            places = (1, 2) if node.op_type == "QuantizeLinear" else _OUTPUT_SCALES.get(node.op_type)
            if places is None or not node.output or len(node.input) <= places[0]:
                continue
            is_node = node.op_type == "QuantizeLinear"
            name = node.input[0] if is_node else node.output[0]
            if is_node and scope.is_constant(name):
                continue
            scale = scope.value(node.input[places[0]])
            point = scope.value(node.input[places[1]]) if len(node.input) > places[1] else None
            if scale is None or not scale.size or (point is not None and point.dtype.name not in _LIMITS):
                continue
            kind = "uint8" if point is None else point.dtype.name
            widest = float(np.asarray(scale, dtype=np.float64).ravel()[np.argmax(np.abs(scale))])
            zero = 0 if point is None else int(np.asarray(point, dtype=np.int64).ravel()[0])
            low, high = ((code - zero) * widest for code in _LIMITS[kind])
            found.append(ActivationRange(name, kind, widest, zero, low, high))
    return found


def wrong_ranges(model: ModelProto, ranges: Sequence[ActivationRange]) -> Iterator[Finding]:
    """Ranges that hold nothing, or less than what their function makes."""
    makers = {name: node for node in model.graph.node for name in node.output}
    for of in ranges:
        if not np.isfinite(of.scale) or of.scale <= 0:
            yield defect(
                "zero_range", of.name, f"its scale is {of.scale:g}; expected a positive number: calibrate it again"
            )
            continue
        maker = makers.get(of.name)
        kind = "" if maker is None else maker.op_type
        end = _ENDS.get(kind)
        if end is not None and of.high < 0.5 * end:
            yield warning(
                "activation_clipped",
                of.name,
                f"codes end at {of.high:g}, the values of {kind} at {end:g}: they are clipped, calibrate again",
            )
