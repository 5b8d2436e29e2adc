"""Conv and ConvTranspose over one, two or three spatial axes, and Col2Im."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from network.operators.node import Node
from network.operators.registry import operator
from network.operators.window import Window, of_rank, pad_axes, sliding_window, split_padding

_Convolution = Callable[..., Tensor]
_CONVOLUTIONS: Mapping[int, _Convolution] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: Mapping[int, _Convolution] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}


@operator("Conv")
def conv(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [N, C_in, *spatial] * weight [C_out, C_in / group, *kernel] + bias [C_out]."""
    convolution = of_rank(_CONVOLUTIONS, node, x)
    window = sliding_window(node, weight.shape[2:], x.shape[2:])
    padding: Sequence[int] = window.begin
    if not window.symmetric:
        x = pad_axes(x, window.begin, window.end)
        padding = (0,) * len(window.kernel)
    return convolution(x, weight, bias, window.strides, padding, window.dilations, node.get("group", 1))


@operator("ConvTranspose")
def conv_transpose(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [N, C_in, *spatial] spread by weight [C_in, C_out / group, *kernel], plus bias [C_out]."""
    convolution = of_rank(_TRANSPOSED, node, x)
    rank = x.dim() - 2
    output_padding = tuple(node.get("output_padding") or (0,) * rank)
    window = _transposed_window(node, weight.shape[2:], x.shape[2:], output_padding)
    group = node.get("group", 1)
    # torch wants an output padding below the stride or the dilation; ONNX does not.
    known = all(o < max(s, d) for o, s, d in zip(output_padding, window.strides, window.dilations, strict=True))
    if window.symmetric and known and min(window.begin) >= 0:
        return convolution(x, weight, bias, window.strides, window.begin, output_padding, group, window.dilations)
    # The full result, then cropped by the padding (or widened where output_padding exceeds it), then the bias.
    zeros = (0,) * rank
    full = convolution(x, weight, None, window.strides, zeros, zeros, group, window.dilations)
    end = tuple(o - e for o, e in zip(output_padding, window.end, strict=True))
    result = pad_axes(full, tuple(-b for b in window.begin), end)
    return result if bias is None else result + bias.reshape(-1, *(1,) * rank)


def _transposed_window(
    node: Node, kernel: Sequence[int], sizes: Sequence[int], output_padding: Sequence[int]
) -> Window:
    """Padding of a transposed convolution: given, or what makes the output `output_shape` or input * stride."""
    window = sliding_window(node, kernel, sizes)
    auto_pad, output_shape = node.get("auto_pad", "NOTSET"), node.get("output_shape")
    if output_shape is None and auto_pad in ("NOTSET", "VALID"):
        return window
    if output_shape is None:
        targets = [size * stride for size, stride in zip(sizes, window.strides, strict=True)]
    else:
        targets = output_shape[-len(sizes) :]
    totals = [
        stride * (size - 1) + extra + extent - target
        for stride, size, extra, extent, target in zip(
            window.strides, sizes, output_padding, window.extent, targets, strict=True
        )
    ]
    begin, end = split_padding(totals, extra_at_end=auto_pad == "SAME_UPPER")
    return replace(window, begin=begin, end=end)


@operator("Col2Im", since=18, host=(1, 2))
def column_to_image(node: Node, x: Tensor, image: Tensor, block: Tensor) -> Tensor:
    """The blocks of an image, [N, C * block, L], added up to [N, C, *image] where they overlap."""
    sizes, kernel = image.tolist(), block.tolist()
    window = sliding_window(node, kernel, sizes)
    padded = [b + size + e for b, size, e in zip(window.begin, sizes, window.end, strict=True)]
    # The flat place of every element of every block, an axis of the kernel and one of the blocks for each of the image.
    rank = len(sizes)
    places = torch.zeros((1,) * (2 * rank), dtype=torch.int64)
    for axis, (size, extent) in enumerate(zip(padded, window.extent, strict=True)):
        starts = torch.arange(0, size - extent + 1, window.strides[axis])
        within = torch.arange(kernel[axis]) * window.dilations[axis]
        shape = [1] * (2 * rank)
        shape[axis], shape[rank + axis] = len(within), len(starts)
        own = (within.unsqueeze(1) + starts) * math.prod(padded[axis + 1 :])
        places = places + own.reshape(shape)
    columns = x.reshape(x.shape[0], -1, places.numel())
    full = x.new_zeros(*columns.shape[:2], math.prod(padded))
    full = full.index_add(2, places.reshape(-1).to(x.device), columns).reshape(*columns.shape[:2], *padded)
    return pad_axes(full, [-b for b in window.begin], [-e for e in window.end])
