"""The same elements in another shape: reshaped, transposed, joined, split, cut, repeated, padded."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from network.operators.node import Node
from network.operators.registry import operator
from network.operators.window import pad_axes


@operator("Reshape", since=5, host=(1,))
def reshape(node: Node, x: Tensor, shape: Tensor) -> Tensor:
    """x in `shape`, where -1 is inferred and 0 copies the axis of x unless `allowzero`."""
    target = shape.tolist()
    if not node.get("allowzero", 0):
        target = [x.shape[axis] if size == 0 else size for axis, size in enumerate(target)]
    return x.reshape(target)


@operator("Flatten")
def flatten(node: Node, x: Tensor) -> Tensor:
    """Two axes: those before `axis`, and the rest."""
    axis = node.get("axis", 1)
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@operator("Squeeze", host=(1,))
def squeeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    chosen = node.integers("axes", axes)
    return x.squeeze() if chosen is None else x.squeeze(tuple(chosen))


@operator("Unsqueeze", host=(1,))
def unsqueeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """New axes of size 1, at the positions that `axes` names in the result."""
    chosen = node.integers("axes", axes) or []
    rank = x.dim() + len(chosen)
    for axis in sorted(axis % rank for axis in chosen):
        x = x.unsqueeze(axis)
    return x


@operator("Transpose")
def transpose(node: Node, x: Tensor) -> Tensor:
    return x.permute(node.get("perm") or tuple(reversed(range(x.dim()))))


@operator("Concat", since=4)
def concat(node: Node, *tensors: Tensor) -> Tensor:
    return torch.cat(tensors, node.get("axis"))


@operator("Split", since=2, host=(1,))
def split(node: Node, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    """Parts along `axis` of the given sizes, or equal ones of which the last may be smaller."""
    axis = node.get("axis", 0)
    given = node.integers("split", sizes)
    if given is not None:
        return torch.split_with_sizes(x, given, axis)
    count = node.get("num_outputs", node.output_count)
    size = -(-x.shape[axis] // count)
    return torch.split_with_sizes(x, [min(size, x.shape[axis] - part * size) for part in range(count)], axis)


@operator("Slice", host=(1, 2, 3, 4))
def cut(
    node: Node,
    x: Tensor,
    starts: Tensor | None = None,
    ends: Tensor | None = None,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    """Elements from start to before end, every step-th, along each of `axes`; numpy's rules for negative numbers."""
    first, last = node.integers("starts", starts) or [], node.integers("ends", ends) or []
    along = node.integers("axes", axes) or list(range(len(first)))
    strides = node.integers("steps", steps) or [1] * len(first)
    index = [slice(None)] * x.dim()
    for begin, end, axis, stride in zip(first, last, along, strides, strict=True):
        size = x.shape[axis]
        # Within the axis: for "to the end" files carry the largest int64, of which torch warns.
        begin, end, stride = slice(begin, end, stride).indices(size)
        if stride < 0:  # torch has no negative step: the same elements, counted from the other end
            x = x.flip(axis)
            begin, end, stride = size - 1 - begin, size - 1 - end, -stride
        index[axis] = slice(begin, end, stride)
    return x[tuple(index)]


@operator("Expand", since=8, host=(1,))
def expand(_: Node, x: Tensor, shape: Tensor) -> Tensor:
    """x broadcast against `shape`; either may have the larger axis."""
    target = shape.tolist()
    rank = max(x.dim(), len(target))
    own, given = (1,) * (rank - x.dim()) + x.shape, [1] * (rank - len(target)) + target
    return x.expand([a if b == 1 else b for a, b in zip(own, given, strict=True)])


@operator("Tile", since=6, host=(1,))
def tile(_: Node, x: Tensor, repeats: Tensor) -> Tensor:
    return x.repeat(repeats.tolist())


@operator("Pad", since=2, host=(1, 2, 3))
def pad(
    node: Node,
    x: Tensor,
    pads: Tensor | None = None,
    value: Tensor | None = None,
    axes: Tensor | None = None,
) -> Tensor:
    """x with elements added (or, where negative, removed) at both ends of `axes`.

    `mode` is constant, edge, reflect (without repeating the edge) or wrap.
    """
    counts = node.integers("pads", pads) or []
    along = node.integers("axes", axes) or list(range(x.dim()))
    begin, end = [0] * x.dim(), [0] * x.dim()
    for position, axis in enumerate(along):
        begin[axis] = counts[position]
        end[axis] = counts[position + len(along)]
    mode = node.get("mode", "constant")
    if mode == "constant":
        return pad_axes(x, begin, end, node.get("value", 0.0) if value is None else value.item())
    for axis, (before, after) in enumerate(zip(begin, end, strict=True)):
        if before or after:
            x = x.index_select(axis, _pad_sources(x.shape[axis], before, after, mode).to(x.device))
    return x


def _pad_sources(size: int, before: int, after: int, mode: str) -> Tensor:
    """For each position of the padded axis, the position in the axis of `size` elements that it shows."""
    positions = torch.arange(-before, size + after)
    if mode == "edge":
        return positions.clamp(0, size - 1)
    if mode == "wrap":
        return positions.remainder(size)
    period = max(2 * (size - 1), 1)
    folded = positions.remainder(period)
    return torch.minimum(folded, period - folded)


@operator("DepthToSpace")
def depth_to_space(node: Node, x: Tensor) -> Tensor:
    """[N, C * b², H, W] to [N, C, H * b, W * b]; in mode DCR the block is the slower part of the channel."""
    n, channels, height, width = x.shape
    block = node.get("blocksize")
    depth = channels // block**2
    if node.get("mode", "DCR") == "DCR":
        blocks = x.reshape(n, block, block, depth, height, width).permute(0, 3, 4, 1, 5, 2)
    else:
        blocks = x.reshape(n, depth, block, block, height, width).permute(0, 1, 4, 2, 5, 3)
    return blocks.reshape(n, depth, height * block, width * block)


@operator("SpaceToDepth")
def space_to_depth(node: Node, x: Tensor) -> Tensor:
    """[N, C, H * b, W * b] to [N, b² * C, H, W]; in mode DCR the block is the slower part of the channel."""
    n, channels, height, width = x.shape
    block = node.get("blocksize")
    blocks = x.reshape(n, channels, height // block, block, width // block, block)
    order = (0, 3, 5, 1, 2, 4) if node.get("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    return blocks.permute(order).reshape(n, channels * block**2, height // block, width // block)


@operator("Trilu", since=14, host=(1,))
def triangle(node: Node, x: Tensor, k: Tensor | None = None) -> Tensor:
    """The upper (or lower) triangle of the last two axes, from the k-th diagonal on; zero elsewhere."""
    diagonal = 0 if k is None else int(k.item())
    return torch.triu(x, diagonal) if node.get("upper", 1) else torch.tril(x, diagonal)


@operator("CenterCropPad", since=18, host=(1,))
def center_crop_pad(node: Node, x: Tensor, shape: Tensor) -> Tensor:
    """x with the middle of each of `axes` in the length that `shape` gives it: cropped, or padded with zeros."""
    axes = node.get("axes") or range(x.dim())
    begin, end = [0] * x.dim(), [0] * x.dim()
    for axis, length in zip(axes, shape.tolist(), strict=True):
        missing = length - x.shape[axis]
        # Half of what is added or cropped, rounded towards the front, lies there.
        begin[axis] = missing // 2 if missing > 0 else -(-missing // 2)
        end[axis] = missing - begin[axis]
    return pad_axes(x, begin, end)


@operator("ReverseSequence", since=10)
def reverse_sequence(node: Node, x: Tensor, lengths: Tensor) -> Tensor:
    """The first `lengths[b]` elements along `time_axis` in reverse for each b along `batch_axis`; the rest stays."""
    time, batch = node.get("time_axis", 0), node.get("batch_axis", 1)
    places = torch.arange(x.shape[time], device=x.device).unsqueeze(1)
    sources = torch.where(places < lengths, lengths - 1 - places, places)  # [time, batch]
    shown = x.movedim((time, batch), (0, 1))
    index = sources.reshape(*sources.shape, *(1,) * (x.dim() - 2)).expand_as(shown)
    return shown.gather(0, index).movedim((0, 1), (time, batch))
