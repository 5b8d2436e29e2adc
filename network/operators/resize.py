"""Resize by nearest, linear or cubic interpolation, one axis after the other.

Source: ONNX operator specification, Resize-11 to Resize-19.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from network.operators.node import Node
from network.operators.registry import operator

_COORDINATES = frozenset({"half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"})


def _refuse(node: Node) -> str | None:
    if node.get("antialias", 0):
        return "antialias"
    coordinates = node.get("coordinate_transformation_mode", "half_pixel")
    return None if coordinates in _COORDINATES else f"coordinate_transformation_mode {coordinates}"


@operator("Resize", since=11, host=(1, 2, 3), refuses=_refuse)
def resize(
    node: Node,
    x: Tensor,
    _roi: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
) -> Tensor:
    """x with its `axes` (default all) resized by `scales`, or to `sizes`."""
    axes = [axis % x.dim() for axis in node.get("axes") or range(x.dim())]
    inputs = [x.shape[axis] for axis in axes]
    if scales is not None and scales.numel() > 0:
        factors = [float(scale) for scale in scales.tolist()]
        outputs = [math.floor(size * factor) for size, factor in zip(inputs, factors, strict=True)]
    else:
        factors, outputs = _to_sizes(node, inputs, node.integers("sizes", sizes) or [])
    for axis, factor, output in zip(axes, factors, outputs, strict=True):
        if output != x.shape[axis] or factor != 1.0:
            x = _resize_axis(node, x, axis, factor, output)
    return x


def _to_sizes(node: Node, inputs: Sequence[int], sizes: Sequence[int]) -> tuple[list[float], list[int]]:
    """Scale and output size of each axis that is resized to `sizes`."""
    factors = [size / old for size, old in zip(sizes, inputs, strict=True)]
    policy = node.get("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return factors, list(sizes)
    factor = min(factors) if policy == "not_larger" else max(factors)
    return [factor] * len(inputs), [math.floor(old * factor + 0.5) for old in inputs]


def _resize_axis(node: Node, x: Tensor, axis: int, factor: float, output: int) -> Tensor:
    """The sum over taps of a weight times the element at an index, for every position of the new axis."""
    size = x.shape[axis]
    position = _coordinates(node, size, output, factor)
    mode = node.get("mode", "nearest")
    if mode == "nearest":
        nearest = _round(position, node.get("nearest_mode", "round_prefer_floor"))
        return x.index_select(axis, nearest.long().clamp(0, size - 1).to(x.device))
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


def _linear_taps(position: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    inside = position.clamp(0, size - 1)
    low = inside.floor()
    weight = inside - low
    return [(low, 1 - weight), (low + 1, weight)]


def _cubic_taps(node: Node, position: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """Four taps of the cubic convolution kernel with parameter `cubic_coeff_a` (Keys 1981)."""
    a: float = node.get("cubic_coeff_a", -0.75)
    low = position.floor()
    t = position - low
    near, far = (t, 1 - t), (t + 1, 2 - t)

    def inner(d: Tensor) -> Tensor:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def outer(d: Tensor) -> Tensor:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    taps = [
        (low - 1, outer(far[0])),
        (low, inner(near[0])),
        (low + 1, inner(near[1])),
        (low + 2, outer(far[1])),
    ]
    if not node.get("exclude_outside", 0):
        return taps
    inside = [(index, torch.where((index >= 0) & (index < size), weight, 0.0)) for index, weight in taps]
    total = torch.stack([weight for _, weight in inside]).sum(0)
    return [(index, weight / total) for index, weight in inside]
