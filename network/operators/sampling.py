"""Values of an image between its pixels: GridSample, AffineGrid, RoiAlign and DeformConv.

Written from primitives: torch's own `grid_sample` is not twice differentiable.
Shapes: N samples, C channels, P points, K positions of a kernel; an image is [N, C, *sizes].
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from network.operators.node import Node
from network.operators.registry import operator
from network.operators.resize import cubic_kernel
from network.operators.window import sliding_window

# Of a coordinate the pixels around it, and the weight of each.
Taps = Callable[[Tensor], list[tuple[Tensor, Tensor]]]

_CUBIC_COEFFICIENT = -0.75


Padding = Callable[[Tensor], Tensor]
"""The pixel that stands for one outside of the image; where that is outside too, there is 0."""


def interpolated(x: Tensor, places: Sequence[Tensor], taps: Sequence[Taps], padding: Sequence[Padding]) -> Tensor:
    """x [N, C, *sizes] at `places` [N, P], in pixels along each spatial axis: [N, C, P]."""
    sizes = x.shape[2:]
    planes = x.flatten(2)
    total = x.new_zeros(())
    around = (of_axis(place) for of_axis, place in zip(taps, places, strict=True))
    for corner in itertools.product(*around):
        flat = torch.zeros_like(places[0], dtype=torch.int64)
        weight = torch.ones_like(places[0])
        for (pixel, share), size, padded in zip(corner, sizes, padding, strict=True):
            shown = padded(pixel)
            inside = (shown >= 0) & (shown <= size - 1)
            weight = weight * torch.where(inside, share, torch.zeros_like(share))
            flat = flat * size + shown.clamp(0, size - 1).long()
        values = planes.gather(2, flat.unsqueeze(1).expand(-1, planes.shape[1], -1))
        total = total + values * weight.unsqueeze(1)
    return total


def linear_taps(place: Tensor) -> list[tuple[Tensor, Tensor]]:
    low = place.detach().floor()
    part = place - low
    return [(low, 1 - part), (low + 1, part)]


def _linear_tap(number: int, place: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [linear_taps(place)[number]]


def _nearest_tap(place: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [(place.detach().round(), torch.ones_like(place))]


def _cubic_taps(place: Tensor) -> list[tuple[Tensor, Tensor]]:
    near, far = cubic_kernel(_CUBIC_COEFFICIENT)
    low = place.detach().floor()
    t = place - low
    return [(low - 1, far(t + 1)), (low, near(t)), (low + 1, near(1 - t)), (low + 2, far(2 - t))]


_TAPS = {
    "bilinear": linear_taps,
    "linear": linear_taps,
    "nearest": _nearest_tap,
    "bicubic": _cubic_taps,
    "cubic": _cubic_taps,
}


def _as_it_is(pixel: Tensor) -> Tensor:
    return pixel


def _padding(mode: str, size: int, aligned: bool) -> Padding:
    if mode == "zeros":
        return _as_it_is
    if mode == "border":
        return lambda pixel: pixel.clamp(0, size - 1)
    first, last = (0.0, size - 1.0) if aligned else (-0.5, size - 0.5)
    length = max(last - first, 1.0)

    def reflected(pixel: Tensor) -> Tensor:
        within = (pixel - first).abs().remainder(2 * length)
        return (first + torch.minimum(within, 2 * length - within)).clamp(0, size - 1)

    return reflected


@operator("GridSample", since=16)
def grid_sample(node: Node, x: Tensor, grid: Tensor) -> Tensor:
    """x [N, C, *sizes] at the points of the grid [N, *points, axes]: -1 and 1 are its borders, the last axis first."""
    sizes = x.shape[2:]
    aligned = bool(node.get("align_corners", 0))
    points = grid.flatten(1, -2).flip(-1)
    places = [
        (points[..., axis] + 1) / 2 * (size - 1) if aligned else ((points[..., axis] + 1) * size - 1) / 2
        for axis, size in enumerate(sizes)
    ]
    mode = node.get("padding_mode", "zeros")
    padding = [_padding(mode, size, aligned) for size in sizes]
    values = interpolated(x, places, [_TAPS[node.get("mode", "linear")]] * len(sizes), padding)
    return values.reshape(*x.shape[:2], *grid.shape[1:-1])


@operator("AffineGrid", since=20, host=(1,))
def affine_grid(node: Node, theta: Tensor, size: Tensor) -> Tensor:
    """theta [N, axes, axes + 1] times the points of an image of `size`, which lie between -1 and 1."""
    lengths = size.tolist()[2:]
    aligned = bool(node.get("align_corners", 0))
    axes = [_points(length, aligned).to(theta) for length in lengths]
    points = torch.stack([*reversed(torch.meshgrid(*axes, indexing="ij")), theta.new_ones(lengths)], -1)
    return (points.flatten(0, -2) @ theta.mT).reshape(-1, *lengths, len(lengths))


def _points(length: int, aligned: bool) -> Tensor:
    places = torch.arange(length, dtype=torch.float64)
    return places * (2 / max(length - 1, 1)) - 1 if aligned else (2 * places + 1) / length - 1


@operator("RoiAlign", since=10)
def roi_align(node: Node, x: Tensor, rois: Tensor, batch: Tensor) -> Tensor:
    """The mean of bilinear samples in each bin of each region, [regions, C, output_height, output_width].

    In mode max it is the largest of the four weighted pixels around any sample of the bin.
    Regions [regions, 4] are x1, y1, x2, y2; where `sampling_ratio` is 0 their sizes say how many samples a bin has.
    """
    half = node.get("coordinate_transformation_mode", "half_pixel" if node.opset >= 16 else "") == "half_pixel"
    bins = torch.tensor([node.get("output_height", 1), node.get("output_width", 1)], device=rois.device)
    corners = rois.flip(-1) * node.get("spatial_scale", 1.0) - (0.5 if half else 0.0)  # y2, x2, y1, x1
    start, length = corners[:, 2:], corners[:, :2] - corners[:, 2:]
    length = length if half else length.clamp(min=1.0)
    ratio: int = node.get("sampling_ratio", 0)
    counts = torch.full_like(length, ratio) if ratio > 0 else (length.detach() / bins).ceil()
    counts = counts.long().clamp(min=0)
    result = x.new_zeros(len(rois), x.shape[1], *bins.tolist())
    for count in counts.unique(dim=0).tolist():
        if min(count) > 0:  # an empty region has no samples, and gives 0
            chosen = (counts == torch.tensor(count, device=counts.device)).all(1).nonzero().squeeze(1)
            pooled = _bins(node, x[batch[chosen].long()], start[chosen], (length / bins)[chosen], count)
            result = result.index_copy(0, chosen, pooled)
    return result


def _bins(node: Node, x: Tensor, start: Tensor, size: Tensor, counts: Sequence[int]) -> Tensor:
    """Of regions with `counts` samples along each axis of a bin, whose bins are of `size` [regions, 2]."""
    shape = (node.get("output_height", 1), node.get("output_width", 1))
    places = []
    for axis, (bins, count) in enumerate(zip(shape, counts, strict=True)):
        steps = (torch.arange(bins * count, dtype=x.dtype, device=x.device) + 0.5) / count
        places.append(start[:, axis : axis + 1] + steps * size[:, axis : axis + 1])
    rows, columns = places[0].unsqueeze(2), places[1].unsqueeze(1)
    points = rows.shape[1] * columns.shape[2]
    grid = [axis.expand(-1, rows.shape[1], columns.shape[2]).reshape(-1, points) for axis in (rows, columns)]
    known = torch.ones_like(grid[0], dtype=torch.bool)
    for place, length in zip(grid, x.shape[2:], strict=True):
        known = known & (place >= -1) & (place <= length)
    inside = [place.clamp(0, length - 1) for place, length in zip(grid, x.shape[2:], strict=True)]
    into_bins = (x.shape[0], x.shape[1], shape[0], counts[0], shape[1], counts[1])
    if node.get("mode", "avg") == "avg":
        values = interpolated(x, inside, [linear_taps] * 2, [_as_it_is] * 2) * known.unsqueeze(1)
        return values.reshape(into_bins).mean((3, 5))
    pixels = [
        interpolated(x, inside, [partial(_linear_tap, number) for number in corner], [_as_it_is] * 2)
        for corner in itertools.product((0, 1), repeat=2)
    ]
    largest = torch.stack(pixels).amax(0) * known.unsqueeze(1)
    return largest.reshape(into_bins).amax((3, 5))


@operator("DeformConv", since=19)
def deform_conv(
    node: Node, x: Tensor, weight: Tensor, offset: Tensor, bias: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """A convolution over two axes whose pixels are read at positions that `offset` moves and `mask` weighs.

    x [N, C_in, H, W], weight [C_out, C_in / group, kH, kW], offset [N, groups * K * 2, oH, oW], mask the same without
    the 2. Source: Deformable ConvNets v2, arXiv 1811.11168.
    """
    window = sliding_window(node, weight.shape[2:], x.shape[2:])
    groups, group, out = node.get("offset_group", 1), node.get("group", 1), offset.shape[2:]
    taps, samples = math.prod(window.kernel), x.shape[0]
    moved = offset.reshape(samples * groups, taps, 2, *out)
    places = []
    for axis in range(2):
        starts = torch.arange(out[axis], device=x.device) * window.strides[axis] - window.begin[axis]
        within = torch.arange(window.kernel[axis], device=x.device) * window.dilations[axis]
        kernel = within.reshape(-1, 1) if axis == 0 else within.reshape(1, -1)
        kernel = kernel.expand(window.kernel).reshape(-1, 1, 1)
        own = starts.reshape(-1, 1) if axis == 0 else starts.reshape(1, -1)
        places.append((moved[:, :, axis] + (kernel + own)).flatten(1))
    planes = x.reshape(samples * groups, -1, *x.shape[2:])
    values = interpolated(planes, places, [linear_taps] * 2, [_as_it_is] * 2)
    values = values.reshape(samples, groups, -1, taps, *out)
    if mask is not None:
        values = values * mask.reshape(samples, groups, 1, taps, *out)
    columns = values.reshape(samples, group, -1, math.prod(out))  # [N, group, C_in / group * K, oH * oW]
    y = (weight.reshape(group, weight.shape[0] // group, -1) @ columns).reshape(samples, -1, *out)
    return y if bias is None else y + bias.reshape(-1, 1, 1)
