"""Constants, shapes as tensors, ranges, and changes of element type."""

from __future__ import annotations

import torch
from onnx import TensorProto
from torch import Tensor

from network.errors import UnsupportedOperators
from network.operators.node import Node, has_torch_dtype
from network.operators.registry import operator


def _refuse_constant(node: Node) -> str | None:
    unknown = {"sparse_value", "value_string", "value_strings"} & set(node.attributes)
    return f"a constant given as {', '.join(sorted(unknown))}" if unknown else None


@operator("Constant", refuses=_refuse_constant)
def constant(node: Node) -> Tensor:
    value = node.get("value")
    if isinstance(value, Tensor):
        return value
    for attribute in ("value_float", "value_floats", "value_int", "value_ints"):
        if attribute in node.attributes:
            dtype = node.float_dtype if "float" in attribute else torch.int64
            return torch.tensor(node.get(attribute), dtype=dtype)
    raise UnsupportedOperators(f"Constant (node {node.name!r}) has none of the attributes that carry a value")


@operator("ConstantOfShape", since=9, host=(0,))
def constant_of_shape(node: Node, shape: Tensor) -> Tensor:
    """A tensor of `shape` that holds one value everywhere: float zero unless given."""
    value = node.get("value")
    if value is None:
        return torch.zeros(shape.tolist(), dtype=node.float_dtype)
    return torch.full(shape.tolist(), value.item(), dtype=value.dtype)


@operator("Range", since=11, host=(0, 1, 2))
def number_range(_: Node, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


@operator("Shape")
def shape(node: Node, x: Tensor) -> Tensor:
    """The sizes of the axes from `start` to before `end`, int64."""
    return torch.tensor(x.shape[node.get("start", 0) : node.get("end")], dtype=torch.int64)


@operator("Size")
def size(_: Node, x: Tensor) -> Tensor:
    """The number of elements, int64."""
    return torch.tensor(x.numel(), dtype=torch.int64)


def _refuse_target(node: Node) -> str | None:
    target = int(node.get("to"))
    return None if has_torch_dtype(target) else f"to {TensorProto.DataType.Name(target)}"


@operator("Cast", since=6, refuses=_refuse_target)
def cast(node: Node, x: Tensor) -> Tensor:
    """x as the element type `to`; every floating type is the one that the network runs in."""
    return x.to(node.dtype("to"))


@operator("CastLike", since=15)
def cast_like(_: Node, x: Tensor, target: Tensor) -> Tensor:
    return x.to(target.dtype)


@operator("Identity")
def identity(_: Node, x: Tensor) -> Tensor:
    return x


@operator("Dropout", since=7, host=(1, 2))
def dropout(
    node: Node, x: Tensor, ratio: Tensor | None = None, training_mode: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Nothing happens at inference: x, and the mask of what is kept, which is all.

    Raises:
        UnsupportedOperators: the graph switches training on.
    """
    if training_mode is not None and training_mode.item() and (ratio is None or ratio.item() > 0):
        raise UnsupportedOperators(
            f"Dropout (node {node.name!r}) is in training mode; expected inference; export the model with model.eval()"
        )
    # Before opset 10 the mask has the type of x.
    return x, torch.ones_like(x, dtype=torch.bool if node.opset >= 10 else x.dtype)


@operator("EyeLike", since=9)
def eye_like(node: Node, x: Tensor) -> Tensor:
    """Ones on the k-th diagonal of a matrix shaped like x, zero elsewhere."""
    dtype = node.dtype("dtype") if "dtype" in node.attributes else x.dtype
    rows, columns = x.shape
    row = torch.arange(rows, device=x.device).unsqueeze(1)
    column = torch.arange(columns, device=x.device)
    return torch.eq(column - row, node.get("k", 0)).to(dtype)
