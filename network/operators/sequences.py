"""Sequences of tensors, which are tuples here."""

from __future__ import annotations

import torch
from torch import Tensor

from network.operators.node import Node
from network.operators.registry import operator

Tensors = tuple[Tensor, ...]


@operator("SequenceEmpty", since=11)
def sequence_empty(_: Node) -> tuple[Tensors]:
    return ((),)


@operator("SequenceConstruct", since=11)
def sequence_construct(_: Node, *tensors: Tensor) -> tuple[Tensors]:
    return (tensors,)


@operator("SequenceInsert", since=11, host=(2,))
def sequence_insert(_: Node, tensors: Tensors, x: Tensor, position: Tensor | None = None) -> tuple[Tensors]:
    """`x` before the element at `position`, or at the end."""
    place = len(tensors) if position is None else _place(tensors, position)
    return ((*tensors[:place], x, *tensors[place:]),)


@operator("SequenceErase", since=11, host=(1,))
def sequence_erase(_: Node, tensors: Tensors, position: Tensor | None = None) -> tuple[Tensors]:
    """All elements but the one at `position`, or but the last."""
    place = len(tensors) - 1 if position is None else _place(tensors, position)
    return ((*tensors[:place], *tensors[place + 1 :]),)


@operator("SequenceAt", since=11, host=(1,))
def sequence_at(_: Node, tensors: Tensors, position: Tensor) -> Tensor:
    return tensors[_place(tensors, position)]


@operator("SequenceLength", since=11)
def sequence_length(_: Node, tensors: Tensors) -> Tensor:
    return torch.tensor(len(tensors))


@operator("ConcatFromSequence", since=11)
def concat_from_sequence(node: Node, tensors: Tensors) -> Tensor:
    """The elements joined along `axis`, or with `new_axis` along a new one."""
    axis: int = node.get("axis")
    return torch.stack(tensors, axis) if node.get("new_axis", 0) else torch.cat(tensors, axis)


@operator("SplitToSequence", since=11, host=(1,))
def split_to_sequence(node: Node, x: Tensor, split: Tensor | None = None) -> tuple[Tensors]:
    """Parts of x along `axis`, of the sizes `split`, of one size, or of size 1; those without the axis if not kept."""
    axis = node.get("axis", 0)
    if split is None:
        parts = torch.split(x, 1, axis)
        return (parts if node.get("keepdims", 1) else x.unbind(axis),)
    return (torch.split(x, int(split.item()) if split.dim() == 0 else split.tolist(), axis),)


def _place(tensors: Tensors, position: Tensor) -> int:
    """The position from the start; negative ones count from the end."""
    place = int(position.item())
    return place + len(tensors) if place < 0 else place
