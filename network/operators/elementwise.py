"""Functions of one tensor, element by element, that have neither attributes nor a trained meaning."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from network.operators.node import Node
from network.operators.registry import Compute, operator

# Rounding is piecewise constant: its derivative is zero wherever it exists, which is what torch returns.
_FUNCTIONS: tuple[tuple[str, Callable[[Tensor], Tensor]], ...] = (
    ("Abs", torch.abs),
    ("Acos", torch.acos),
    ("Acosh", torch.acosh),
    ("Asin", torch.asin),
    ("Asinh", torch.asinh),
    ("Atan", torch.atan),
    ("Atanh", torch.atanh),
    ("Ceil", torch.ceil),
    ("Cos", torch.cos),
    ("Cosh", torch.cosh),
    ("Erf", torch.erf),
    ("Exp", torch.exp),
    ("Floor", torch.floor),
    ("Log", torch.log),
    ("Neg", torch.neg),
    ("Reciprocal", torch.reciprocal),
    ("Round", torch.round),  # halves to even, as ONNX says
    ("Sign", torch.sign),
    ("Sin", torch.sin),
    ("Sinh", torch.sinh),
    ("Sqrt", torch.sqrt),
    ("Tan", torch.tan),
)


def _without_attributes(function: Callable[[Tensor], Tensor]) -> Compute:
    def compute(_: Node, x: Tensor) -> Tensor:
        return function(x)

    return compute


for _name, _function in _FUNCTIONS:
    operator(_name)(_without_attributes(_function))
