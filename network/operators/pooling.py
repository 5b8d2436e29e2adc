"""Max, average and Lp pooling, in windows and over all spatial axes.

Where torch's pooling knows less than ONNX (asymmetric or wide padding, the last partial window of `ceil_mode`, dilated
averages) the input is padded first, so that torch sees a window without padding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from network.operators.node import Node
from network.operators.registry import operator
from network.operators.window import Window, of_rank, pad_axes, sliding_window

_MAX: Mapping[int, Callable[..., Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE: Mapping[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_CONVOLUTION: Mapping[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@operator("MaxPool")
def max_pool(node: Node, x: Tensor) -> tuple[Tensor, ...]:
    """The largest element of each window, where padding never wins; with its place in the flat x if asked."""
    pool = of_rank(_MAX, node, x)
    window = _pooling_window(node, x)
    overhang = _overhang(node, window, x.shape[2:])
    padding: Sequence[int] = window.begin
    padded = x
    if any(overhang) or not _native(window):
        end = [e + o for e, o in zip(window.end, overhang, strict=True)]
        padded, padding = pad_axes(x, window.begin, end, float("-inf")), [0] * len(end)
    if node.output_count == 1:
        return (pool(padded, window.kernel, window.strides, padding, window.dilations),)
    largest, places = pool(padded, window.kernel, window.strides, padding, window.dilations, return_indices=True)
    added = window.begin if padded is not x else (0,) * len(window.begin)
    return largest, _flat_places(node, places, x.shape, padded.shape[2:], added)


def _flat_places(
    node: Node, places: Tensor, shape: Sequence[int], padded: Sequence[int], added: Sequence[int]
) -> Tensor:
    """Places in flat planes of `padded` sizes, in front of which `added` elements lie, as places in a flat `shape`."""
    sizes = shape[2:]
    coordinates = torch.unravel_index(places, tuple(padded))
    own = [coordinate - count for coordinate, count in zip(coordinates, added, strict=True)]
    backwards = bool(node.get("storage_order", 0))
    flat = torch.zeros_like(places)
    for coordinate, size in zip(own[::-1] if backwards else own, sizes[::-1] if backwards else sizes, strict=True):
        flat = flat * size + coordinate
    planes = torch.arange(math.prod(shape[:2]), device=places.device)
    return flat + planes.reshape(*shape[:2], *(1,) * len(sizes)) * math.prod(sizes)


@operator("MaxUnpool", since=9, host=(2,))
def max_unpool(node: Node, x: Tensor, places: Tensor, output_shape: Tensor | None = None) -> Tensor:
    """The elements of x at their places in the flat input of a MaxPool, 0 elsewhere; as ONNX Runtime (1.31), which
    takes them as places in a given `output_shape`."""
    window = sliding_window(node, node.get("kernel_shape"), x.shape[2:])
    sizes = zip(x.shape[2:], window.strides, window.kernel, window.begin, window.end, strict=True)
    shape = [*x.shape[:2], *((size - 1) * stride + kernel - begin - end for size, stride, kernel, begin, end in sizes)]
    if output_shape is not None:
        shape = output_shape.tolist()
    return x.new_zeros(math.prod(shape)).scatter(0, places.flatten(), x.flatten()).reshape(shape)


@operator("AveragePool")
def average_pool(node: Node, x: Tensor) -> Tensor:
    """The mean of each window, with the padding if `count_include_pad`."""
    pool = of_rank(_AVERAGE, node, x)
    window = _pooling_window(node, x)
    overhang = _overhang(node, window, x.shape[2:])
    include_pad = bool(node.get("count_include_pad", 0))
    if not any(overhang) and _native(window) and set(window.dilations) <= {1}:
        return pool(x, window.kernel, window.strides, window.begin, False, include_pad)
    ones = torch.ones_like(x[:1, :1])
    inside = pad_axes(ones, window.begin, window.end, 1.0 if include_pad else 0.0)
    counts = _window_sums(pad_axes(inside, (0,) * len(overhang), overhang), window)
    end = [e + o for e, o in zip(window.end, overhang, strict=True)]
    return _window_sums(pad_axes(x, window.begin, end), window) / counts


@operator("LpPool", since=2)
def lp_pool(node: Node, x: Tensor) -> Tensor:
    """(sum |x|^p)^(1/p) of each window."""
    p: int = node.get("p", 2)
    window = _pooling_window(node, x)
    end = [e + o for e, o in zip(window.end, _overhang(node, window, x.shape[2:]), strict=True)]
    return _window_sums(pad_axes(x.abs().pow(p), window.begin, end), window).pow(1 / p)


@operator("GlobalAveragePool")
def global_average_pool(_: Node, x: Tensor) -> Tensor:
    return x.mean(_spatial_axes(x), keepdim=True)


@operator("GlobalMaxPool")
def global_max_pool(_: Node, x: Tensor) -> Tensor:
    return x.amax(_spatial_axes(x), keepdim=True)


@operator("GlobalLpPool", since=2)
def global_lp_pool(node: Node, x: Tensor) -> Tensor:
    p: int = node.get("p", 2)
    return x.abs().pow(p).sum(_spatial_axes(x), keepdim=True).pow(1 / p)


def _spatial_axes(x: Tensor) -> list[int]:
    return list(range(2, x.dim()))


def _pooling_window(node: Node, x: Tensor) -> Window:
    return sliding_window(node, node.get("kernel_shape"), x.shape[2:])


def _native(window: Window) -> bool:
    """Whether torch's pooling accepts the padding: alike on both sides and at most half the kernel."""
    return window.symmetric and all(2 * b <= k for b, k in zip(window.begin, window.kernel, strict=True))


def _overhang(node: Node, window: Window, sizes: Sequence[int]) -> tuple[int, ...]:
    """By how many elements the last window of `ceil_mode` reaches past the padded input, per axis.

    A window that would start in the padding at the end is left out.
    """
    if not node.get("ceil_mode", 0):
        return (0,) * len(sizes)
    overhang = []
    for size, extent, stride, begin, end in zip(
        sizes, window.extent, window.strides, window.begin, window.end, strict=True
    ):
        steps = -(-(size + begin + end - extent) // stride)
        if steps * stride >= size + begin:
            steps -= 1
        overhang.append(max(steps * stride + extent - (size + begin + end), 0))
    return tuple(overhang)


def _window_sums(x: Tensor, window: Window) -> Tensor:
    """The sum of each window of an input that is padded already: a convolution with ones, channel by channel."""
    planes = x.reshape(x.shape[0] * x.shape[1], 1, *x.shape[2:])
    ones = x.new_ones(1, 1, *window.kernel)
    sums = _CONVOLUTION[len(window.kernel)](planes, ones, None, window.strides, 0, window.dilations)
    return sums.reshape(*x.shape[:2], *sums.shape[2:])
