"""Resize by nearest, linear or cubic interpolation, one axis after the other.

Source: ONNX operator specification, Resize-11 to Resize-19.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from network.operators.node import Node
from network.operators.registry import operator

_Kernel = Callable[[Tensor], Tensor]

_CROP = "tf_crop_and_resize"
_COORDINATES = frozenset(
    {"half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric", _CROP}
)


def _refuse(node: Node) -> str | None:
    coordinates = node.get("coordinate_transformation_mode", "half_pixel")
    return None if coordinates in _COORDINATES else f"coordinate_transformation_mode {coordinates}"


@operator("Resize", since=11, host=(1, 2, 3), refuses=_refuse)
def resize(
    node: Node,
    x: Tensor,
    roi: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
) -> Tensor:
    """x with its `axes` (default all) resized by `scales`, or to `sizes`; with `tf_crop_and_resize` the region `roi`.

    `roi` holds where each axis begins, and then where each ends, 1 being its last element.
    """
    axes = [axis % x.dim() for axis in node.get("axes") or range(x.dim())]
    inputs = [x.shape[axis] for axis in axes]
    if scales is not None and scales.numel() > 0:
        factors = [float(scale) for scale in scales.tolist()]
        outputs = [math.floor(size * factor) for size, factor in zip(inputs, factors, strict=True)]
    else:
        factors, outputs = _to_sizes(node, inputs, node.integers("sizes", sizes) or [])
    edges = None
    if node.get("coordinate_transformation_mode") == _CROP and roi is not None:
        edges = roi.reshape(2, -1).t().tolist()
    for place, (axis, factor, output) in enumerate(zip(axes, factors, outputs, strict=True)):
        if edges is not None and edges[place] != [0.0, 1.0]:
            x = _crop_axis(node, x, axis, output, edges[place])
        elif output != x.shape[axis] or factor != 1.0:
            x = _resize_axis(node, x, axis, _coordinates(node, x.shape[axis], output, factor), factor)
    return x


def _crop_axis(node: Node, x: Tensor, axis: int, output: int, edges: Sequence[float]) -> Tensor:
    """The part of an axis between `edges`; what lies outside of the axis is `extrapolation_value`."""
    last = x.shape[axis] - 1
    start, end = edges
    if output > 1:
        position = start * last + torch.arange(output, dtype=torch.float32) * ((end - start) * last / (output - 1))
    else:
        position = torch.tensor([0.5 * (start + end) * last])
    outside = ((position < 0) | (position > last)).reshape(-1, *(1,) * (x.dim() - 1 - axis))
    return _resize_axis(node, x, axis, position, 1.0).masked_fill(
        outside.to(x.device), node.get("extrapolation_value", 0.0)
    )


def _to_sizes(node: Node, inputs: Sequence[int], sizes: Sequence[int]) -> tuple[list[float], list[int]]:
    """Scale and output size of each axis that is resized to `sizes`."""
    factors = [size / old for size, old in zip(sizes, inputs, strict=True)]
    policy = node.get("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return factors, list(sizes)
    factor = min(factors) if policy == "not_larger" else max(factors)
    return [factor] * len(inputs), [math.floor(old * factor + 0.5) for old in inputs]


def _resize_axis(node: Node, x: Tensor, axis: int, position: Tensor, factor: float) -> Tensor:
    """The sum over taps of a weight times the element at an index, for every `position` of the new axis."""
    size = x.shape[axis]
    mode = node.get("mode", "nearest")
    if mode == "nearest":
        nearest = _round(position, node.get("nearest_mode", "round_prefer_floor"))
        return x.index_select(axis, nearest.long().clamp(0, size - 1).to(x.device))
    if node.get("antialias", 0) and factor < 1:
        weights = _antialiased(node, position, size, factor).to(x)
        return (x.movedim(axis, -1) @ weights.t()).movedim(-1, axis)
    taps = _linear_taps(position, size) if mode == "linear" else _cubic_taps(node, position, size)
    along = (-1,) + (1,) * (x.dim() - 1 - axis)
    result = torch.zeros((), dtype=x.dtype, device=x.device)
    for index, weight in taps:
        chosen = x.index_select(axis, index.long().clamp(0, size - 1).to(x.device))
        result = result + chosen * weight.to(x).reshape(along)
    return result


def _coordinates(node: Node, size: int, output: int, factor: float) -> Tensor:
    """Where each position of the new axis lies on the old one.

    In float32 as ONNX Runtime computes it, so that rounding to the nearest falls to the same side.
    """
    mode = node.get("coordinate_transformation_mode", "half_pixel")
    new = torch.arange(output, dtype=torch.float32)
    scale = torch.tensor(factor, dtype=torch.float32)
    if mode == "asymmetric":
        return new / scale
    if mode == "align_corners":
        return torch.mul(new, (size - 1) / (output - 1)) if output > 1 else torch.zeros(1)
    if mode == "pytorch_half_pixel" and output == 1:
        return torch.zeros(1)
    centred = (new + 0.5) / scale - 0.5
    if mode == "half_pixel_symmetric":
        return torch.add(centred, size / 2 * (1 - output / (float(scale) * size)))
    return centred


def _round(position: Tensor, mode: str) -> Tensor:
    if mode == "round_prefer_floor":
        return torch.ceil(position - 0.5)
    if mode == "round_prefer_ceil":
        return torch.floor(position + 0.5)
    return torch.floor(position) if mode == "floor" else torch.ceil(position)


def _antialiased(node: Node, position: Tensor, size: int, factor: float) -> Tensor:
    """The weight of each old element in each new one, [new, old]: a kernel that is as wide as a new element.

    Where it reaches beyond the axis its outermost element stands for all, unless `exclude_outside`.
    """
    linear = node.get("mode") == "linear"
    beyond = math.ceil((1 if linear else 2) / factor)
    index = torch.arange(-beyond, size + beyond)
    distance = ((index - position.unsqueeze(1)) * factor).abs()
    if linear:
        weights = (1 - distance).clamp(min=0)
    else:
        near, far = cubic_kernel(node.get("cubic_coeff_a", -0.75))
        weights = torch.where(distance < 1, near(distance), torch.where(distance < 2, far(distance), 0.0))
    if node.get("exclude_outside", 0):
        weights = weights * ((index >= 0) & (index < size))
    folded = weights.new_zeros(len(position), size).index_add(1, index.clamp(0, size - 1), weights)
    return folded / folded.sum(1, keepdim=True)


def cubic_kernel(a: float) -> tuple[_Kernel, _Kernel]:
    """The cubic convolution kernel with parameter a (Keys 1981), for distances below 1, and from 1 to 2."""

    def near(d: Tensor) -> Tensor:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: Tensor) -> Tensor:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    return near, far


def _linear_taps(position: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    inside = position.clamp(0, size - 1)
    low = inside.floor()
    weight = inside - low
    return [(low, 1 - weight), (low + 1, weight)]


def _cubic_taps(node: Node, position: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    near, far = cubic_kernel(node.get("cubic_coeff_a", -0.75))
    low = position.floor()
    t = position - low
    taps = [(low - 1, far(t + 1)), (low, near(t)), (low + 1, near(1 - t)), (low + 2, far(2 - t))]
    if not node.get("exclude_outside", 0):
        return taps
    inside = [(index, torch.where((index >= 0) & (index < size), weight, 0.0)) for index, weight in taps]
    total = torch.stack([weight for _, weight in inside]).sum(0)
    return [(index, weight / total) for index, weight in inside]
