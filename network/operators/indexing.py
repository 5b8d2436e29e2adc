"""Elements chosen or replaced by index. Negative indices count from the end."""

from __future__ import annotations

import torch
from torch import Tensor

from network.operators.node import Node
from network.operators.registry import operator

# What torch calls the reductions of ScatterElements and ScatterND.
_SCATTER_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@operator("Gather")
def gather(node: Node, data: Tensor, indices: Tensor) -> Tensor:
    """data[..., indices, ...] along `axis`: that axis is replaced by the shape of `indices`."""
    axis = node.get("axis", 0) % data.dim()
    if indices.dim() == 0 and indices.device.type == "cpu":
        return data.select(axis, int(indices.item()))  # a view
    chosen = data.index_select(axis, _from_start(indices.reshape(-1), data.shape[axis]))
    return chosen.reshape(*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :])


@operator("GatherElements", since=11)
def gather_elements(node: Node, data: Tensor, indices: Tensor) -> Tensor:
    """An element of `data` for each index, from the same position in all axes but `axis`."""
    axis = node.get("axis", 0)
    return data.gather(axis, _from_start(indices, data.shape[axis]))


@operator("GatherND", since=11)
def gather_nd(node: Node, data: Tensor, indices: Tensor) -> Tensor:
    """data[i_1, ..., i_k] for each index vector in the last axis; the first `batch_dims` axes are shared."""
    batch = node.get("batch_dims", 0)
    if batch == 0:
        return data[_coordinates(indices, data.shape[: indices.shape[-1]])]
    # The shared axes are flattened into one, whose index is the position itself.
    shared = data.shape[:batch]
    flat_data = data.reshape(-1, *data.shape[batch:])
    flat_indices = indices.reshape(-1, *indices.shape[batch:])
    position = torch.arange(flat_data.shape[0], device=indices.device)
    position = position.reshape(-1, *(1,) * (flat_indices.dim() - 2))
    coordinates = _coordinates(flat_indices, flat_data.shape[1 : 1 + indices.shape[-1]])
    chosen = flat_data[(position, *coordinates)]
    return chosen.reshape(*shared, *chosen.shape[1:])


@operator("ScatterElements", since=11)
def scatter_elements(node: Node, data: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """`data` with an element replaced by, or reduced with, each update, at the index along `axis`."""
    axis = node.get("axis", 0)
    chosen = _from_start(indices, data.shape[axis])
    reduction = node.get("reduction", "none")
    if reduction == "none":
        return data.scatter(axis, chosen, updates)
    return data.scatter_reduce(axis, chosen, updates, _SCATTER_REDUCTIONS[reduction])


@operator("ScatterND", since=11)
def scatter_nd(node: Node, data: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """`data` with the slice at each index vector replaced by, or reduced with, its update."""
    depth = indices.shape[-1]
    coordinates = _coordinates(indices, data.shape[:depth])
    reduction = node.get("reduction", "none")
    if reduction == "none":
        return data.index_put(coordinates, updates)
    if reduction == "add":
        return data.index_put(coordinates, updates, accumulate=True)
    # One row per slice, so that the other reductions become those of ScatterElements along axis 0.
    row = torch.zeros_like(coordinates[0])
    for coordinate, size in zip(coordinates, data.shape[:depth], strict=True):
        row = row * size + coordinate
    rows = data.reshape(-1, *data.shape[depth:]).flatten(1) if depth < data.dim() else data.reshape(-1, 1)
    new = updates.reshape(row.numel(), rows.shape[1])
    index = row.reshape(-1, 1).expand_as(new)
    return rows.scatter_reduce(0, index, new, _SCATTER_REDUCTIONS[reduction]).reshape(data.shape)


@operator("OneHot", since=9, host=(1,))
def one_hot(node: Node, indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    """values[1] at each index along a new `axis` of `depth` elements, values[0] elsewhere and for indices outside."""
    size = int(depth.item())
    axis = node.get("axis", -1) % (indices.dim() + 1)
    chosen = torch.where(indices < 0, indices + size, indices).unsqueeze(axis)
    positions = torch.arange(size, device=indices.device).reshape(-1, *(1,) * (indices.dim() - axis))
    return torch.where(chosen == positions, values[1], values[0])


@operator("Compress", since=9)
def compress(node: Node, x: Tensor, condition: Tensor) -> Tensor:
    """The slices along `axis`, or of all elements in order, whose condition is true; there are none behind its end."""
    axis = node.get("axis")
    chosen = condition.nonzero().squeeze(1)
    return x.flatten().index_select(0, chosen) if axis is None else x.index_select(axis, chosen)


@operator("TensorScatter", since=24)
def tensor_scatter(node: Node, past: Tensor, update: Tensor, starts: Tensor | None = None) -> Tensor:
    """`past` with `update` written along `axis` from `starts[b]` on for each b of the first axis, `circular` or not."""
    axis = node.get("axis", -2) % past.dim()
    length = past.shape[axis]
    first = torch.zeros(past.shape[0], dtype=torch.int64, device=past.device) if starts is None else starts.long()
    places = first.unsqueeze(1) + torch.arange(update.shape[axis], device=past.device)
    if node.get("mode", "linear") == "circular":
        places = places % length
    shape = [1] * past.dim()
    shape[0], shape[axis] = places.shape
    return past.scatter(axis, places.reshape(shape).expand_as(update), update)


@operator("NonZero", since=9)
def non_zero(_: Node, x: Tensor) -> Tensor:
    """The index vectors of the elements that are not zero, [rank, count]."""
    return torch.nonzero(x).t()


def _from_start(indices: Tensor, size: int) -> Tensor:
    """Indices as int64, the negative ones counted from the start."""
    indices = indices.long()
    return torch.where(indices < 0, indices + size, indices)


def _coordinates(indices: Tensor, sizes: torch.Size) -> tuple[Tensor, ...]:
    """The columns of the last axis of `indices`, one for each of the axes of `sizes`."""
    return tuple(_from_start(indices[..., axis], size) for axis, size in enumerate(sizes))
