"""Convolutions as matrix products: windows of the input are the columns."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from quantization.rounding.reduction import Reduction


@dataclass(frozen=True, slots=True)
class ConvReduction(Reduction):
    """Convolution over `len(kernel)` axes; `transposed` for ConvTranspose.

    `pads` are ONNX's (all begins, then all ends), or `auto_pad` is SAME_UPPER or SAME_LOWER and they follow from the
    input. For ConvTranspose `output_padding` and `output_shape` are ONNX's attributes.
    """

    group: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    auto_pad: str = "NOTSET"
    transposed: bool = False
    output_padding: tuple[int, ...] = ()
    output_shape: tuple[int, ...] | None = None

    @property
    def view(self) -> tuple[Any, ...]:
        return ("convolution", self.group, self.transposed)

    def to_matrix(self, weight: NDArray[Any]) -> NDArray[Any]:
        if not self.transposed:
            return weight.reshape(self.group, weight.shape[0] // self.group, -1)
        # [C_in, C_out/group, *kernel] -> [group, C_out/group, C_in/group, *kernel mirrored]
        grouped = weight.reshape(self.group, weight.shape[0] // self.group, *weight.shape[1:])
        mirrored = np.flip(grouped, axis=tuple(range(3, grouped.ndim)))
        return np.swapaxes(mirrored, 1, 2).reshape(self.group, weight.shape[1], -1)

    def from_matrix(self, matrix: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        if not self.transposed:
            return np.ascontiguousarray(matrix).reshape(shape)
        mirrored = matrix.reshape(self.group, shape[1], shape[0] // self.group, *shape[2:])
        grouped = np.flip(np.swapaxes(mirrored, 1, 2), axis=tuple(range(3, mirrored.ndim)))
        return np.ascontiguousarray(grouped).reshape(shape)

    def grid(self, shape: Sequence[int]) -> tuple[int, ...]:
        return tuple(self._windows(axis, size) for axis, size in enumerate(shape[2:]))

    def columns(self, inputs: Tensor, starts: Sequence[int], steps: Sequence[int]) -> Tensor:
        return self.columns_in_turns(inputs, [starts], steps)

    def columns_in_turns(self, inputs: Tensor, starts: Sequence[Sequence[int]], steps: Sequence[int]) -> Tensor:
        """As the base class says; the input is padded once for all turns."""
        grid = self.grid(inputs.shape)
        padded = self._padded(inputs)
        windows = [self._windows_of(padded[n :: len(starts)], grid, start, steps) for n, start in enumerate(starts)]
        kernel = windows[0].shape[: 1 + len(self.kernel)]
        positions = [math.prod(each.shape[len(kernel) :]) for each in windows]
        columns = padded.new_empty((*kernel, sum(positions)))
        for each, stop in zip(windows, itertools.accumulate(positions), strict=True):
            own = columns[..., stop - math.prod(each.shape[len(kernel) :]) : stop]
            own.view(each.shape).copy_(each)
        return columns.view(self.group, padded.shape[1] // self.group * math.prod(self.kernel), -1)

    def _windows_of(self, padded: Tensor, grid: Sequence[int], starts: Sequence[int], steps: Sequence[int]) -> Tensor:
        """A view `[channels, *kernel, samples, *positions]`."""
        sizes = [len(range(*bounds)) for bounds in zip(starts, grid, steps, strict=True)]
        sample, channel, *axes = padded.stride()
        moves = [stride * axis for stride, axis in zip(self._window_strides, axes, strict=True)]
        return padded.as_strided(
            (padded.shape[1], *self.kernel, padded.shape[0], *sizes),
            (
                channel,
                *(dilation * axis for dilation, axis in zip(self.dilations, axes, strict=True)),
                sample,
                *(step * move for step, move in zip(steps, moves, strict=True)),
            ),
            padded.storage_offset() + sum(start * move for start, move in zip(starts, moves, strict=True)),
        )

    @property
    def _window_strides(self) -> tuple[int, ...]:
        return (1,) * len(self.kernel) if self.transposed else self.strides

    def _padded(self, inputs: Tensor) -> Tensor:
        """The input with its zeros between (`transposed`) and around."""
        padding = [self._padding(axis, size) for axis, size in enumerate(inputs.shape[2:])]
        if self.transposed:
            inputs = _spread(inputs, self.strides)
        # F.pad counts from the last axis; a negative number crops
        return F.pad(inputs, [n for both in reversed(padding) for n in both])

    def _windows(self, axis: int, size: int) -> int:
        """How many windows fit along a spatial axis of `size`: the layer's output size."""
        spread = (size - 1) * self.strides[axis] + 1 if self.transposed else size
        span = self.dilations[axis] * (self.kernel[axis] - 1) + 1
        return (spread + sum(self._padding(axis, size)) - span) // self._window_strides[axis] + 1

    def _padding(self, axis: int, size: int) -> tuple[int, int]:
        """Zeros before and after the (spread) input along one spatial axis, for windows of the full kernel."""
        span, stride = self.dilations[axis] * (self.kernel[axis] - 1) + 1, self.strides[axis]
        begin, end = self.pads[axis], self.pads[axis + len(self.kernel)]
        same = self.auto_pad in ("SAME_UPPER", "SAME_LOWER")
        if not self.transposed:
            if same:
                total = max((math.ceil(size / stride) - 1) * stride + span - size, 0)
                small = total // 2
                begin, end = (small, total - small) if self.auto_pad == "SAME_UPPER" else (total - small, small)
            return begin, end
        extra = self.output_padding[axis]
        if same or self.output_shape is not None:
            wanted = self.output_shape[axis] if self.output_shape is not None else size * stride
            total = stride * (size - 1) + extra + span - wanted
            begin = total // 2 if self.auto_pad == "SAME_UPPER" else total - total // 2
            end = total - begin
        return span - 1 - begin, span - 1 - end + extra


def convolution(op_type: str, attributes: Mapping[str, Any], shape: tuple[int, ...]) -> ConvReduction:
    """Of a Conv or ConvTranspose with these attributes and a weight of `shape`."""
    kernel = shape[2:]
    auto_pad = attributes.get("auto_pad", b"NOTSET").decode()
    output_shape = attributes.get("output_shape")
    return ConvReduction(
        group=attributes.get("group", 1),
        kernel=kernel,
        strides=tuple(attributes.get("strides") or (1,) * len(kernel)),
        dilations=tuple(attributes.get("dilations") or (1,) * len(kernel)),
        pads=tuple((auto_pad == "NOTSET" and attributes.get("pads")) or (0,) * (2 * len(kernel))),
        auto_pad=auto_pad,
        transposed=op_type == "ConvTranspose",
        output_padding=tuple(attributes.get("output_padding") or (0,) * len(kernel)),
        output_shape=None if output_shape is None else tuple(output_shape[-len(kernel) :]),
    )


def _spread(inputs: Tensor, strides: Sequence[int]) -> Tensor:
    """`inputs` `[N, C, *spatial]` with `stride - 1` zeros between neighbours along each spatial axis."""
    sizes = [(n - 1) * s + 1 for n, s in zip(inputs.shape[2:], strides, strict=True)]
    spread = inputs.new_zeros((*inputs.shape[:2], *sizes))
    spread[(slice(None), slice(None), *(slice(None, None, s) for s in strides))] = inputs
    return spread
