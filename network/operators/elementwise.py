"""Functions of tensors, element by element and broadcast as in numpy, that have no attributes."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from network.operators.node import Node
from network.operators.registry import operator
from network.operators.unsigned import through_int64

# Operator, since which opset, function. Rounding is piecewise constant: its derivative is zero wherever it exists,
# which is what torch returns.
_FUNCTIONS: tuple[tuple[str, int, Callable[..., Tensor]], ...] = (
    ("Abs", 1, torch.abs),
    ("Acos", 1, torch.acos),
    ("Acosh", 1, torch.acosh),
    ("Asin", 1, torch.asin),
    ("Asinh", 1, torch.asinh),
    ("Atan", 1, torch.atan),
    ("Atanh", 1, torch.atanh),
    ("Ceil", 1, torch.ceil),
    ("Cos", 1, torch.cos),
    ("Cosh", 1, torch.cosh),
    ("Erf", 1, torch.erf),
    ("Exp", 1, torch.exp),
    ("Floor", 1, torch.floor),
    ("Log", 1, torch.log),
    ("Neg", 1, torch.neg),
    ("Reciprocal", 1, torch.reciprocal),
    ("Round", 1, torch.round),  # halves to even, as ONNX says
    ("Sign", 1, torch.sign),
    ("Sin", 1, torch.sin),
    ("Sinh", 1, torch.sinh),
    ("Sqrt", 1, torch.sqrt),
    ("Tan", 1, torch.tan),
    # activations
    ("HardSwish", 14, F.hardswish),
    ("Mish", 18, F.mish),
    ("Relu", 1, torch.relu),
    ("Sigmoid", 1, torch.sigmoid),
    ("Softsign", 1, F.softsign),
    ("Tanh", 1, torch.tanh),
    # of two tensors
    ("Add", 7, torch.add),
    ("Sub", 7, torch.sub),
    ("Mul", 7, torch.mul),
    # comparisons and truth values
    ("Equal", 7, torch.eq),
    ("Greater", 7, torch.gt),
    ("GreaterOrEqual", 12, torch.ge),
    ("Less", 7, torch.lt),
    ("LessOrEqual", 12, torch.le),
    ("And", 7, torch.logical_and),
    ("Or", 7, torch.logical_or),
    ("Xor", 7, torch.logical_xor),
    ("Not", 1, torch.logical_not),
    ("IsNaN", 9, torch.isnan),
    ("Where", 9, torch.where),
    # bits
    ("BitwiseAnd", 18, torch.bitwise_and),
    ("BitwiseOr", 18, torch.bitwise_or),
    ("BitwiseXor", 18, torch.bitwise_xor),
    ("BitwiseNot", 18, torch.bitwise_not),
)


def _without_attributes(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def compute(_: Node, *tensors: Tensor) -> Tensor:
        return function(*tensors)

    return compute


for _name, _since, _function in _FUNCTIONS:
    operator(_name, since=_since)(through_int64(_without_attributes(_function)))
