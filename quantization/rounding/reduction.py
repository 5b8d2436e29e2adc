"""A layer as a matrix product: which weights meet which inputs.

Every layer with a weight computes, per group, `y = W x` with `W` `[rows, reduced]` and columns `x` taken from its
input. `Reduction` knows both views: the weight as `[groups, rows, reduced]`, and the input as columns
`[groups, reduced, positions]`.

    Conv           rows: output channels of the group; reduced: input channels of the group x kernel (im2col)
    ConvTranspose  the same after zeros are put between the inputs and the kernel is mirrored: a convolution of stride 1
    Gemm, MatMul   rows: the weight's axis that stays; reduced: the axis summed over; one group
    LSTM, GRU, RNN a group for each direction; rows: gates x hidden; reduced: of W the inputs of a step, of R the hidden
                   states before it
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from network.graph import Layer, Network
from network.onnx_graph import attributes as attributes_of
from network.sites import RECURRENT
from network.taps import output_name

Index = TypeVar("Index", bound=np.integer)


@dataclass(frozen=True, slots=True)
class NotReducible:
    """Why a layer's weight is not one matrix that multiplies columns of its input."""

    reason: str


class Reduction(ABC):
    """One use of a weight as a matrix product. Two uses with equal `view` see the weight the same way."""

    @property
    @abstractmethod
    def view(self) -> tuple[Any, ...]:
        """What `to_matrix` depends on besides the weight."""

    @abstractmethod
    def to_matrix(self, weight: NDArray[Any]) -> NDArray[Any]:
        """The weight as `[groups, rows, reduced]`."""

    @abstractmethod
    def from_matrix(self, matrix: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """The inverse of `to_matrix`, for a weight of `shape`."""

    def by_row(self, numbers: NDArray[Index]) -> NDArray[Index] | None:
        """Of `numbers` in the weight's shape the one of each row `[groups, rows]`; None where they differ in a row."""
        matrix = self.to_matrix(numbers)
        if matrix.strides[2] and (matrix != matrix[:, :, :1]).any():
            return None
        return np.ascontiguousarray(matrix[:, :, 0])

    def by_sample(self, values: Tensor) -> Tensor:
        """`values` in the shape the node takes or makes, with the samples on the first axis."""
        return values

    @abstractmethod
    def grid(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Number of positions along each axis, per sample, of an input of `shape` (samples first)."""

    @abstractmethod
    def columns(self, inputs: Tensor, starts: Sequence[int], steps: Sequence[int]) -> Tensor:
        """The layer's activation input as `[groups, reduced, samples * positions]`, of the positions
        `start, start + step, ...` along each axis of the grid."""

    def columns_in_turns(self, inputs: Tensor, starts: Sequence[Sequence[int]], steps: Sequence[int]) -> Tensor:
        """`columns` of samples `n, n + turns, ...` from `starts[n]` on, one turn after the other; of `turns` starts."""
        turns = [self.columns(inputs[n :: len(starts)], start, steps) for n, start in enumerate(starts)]
        return torch.cat(turns, dim=2)


@dataclass(frozen=True, slots=True)
class MatrixReduction(Reduction):
    """Gemm or MatMul: the weight's `reduced_axis` is summed with the input's `input_axis`."""

    reduced_axis: int
    input_axis: int

    @property
    def view(self) -> tuple[Any, ...]:
        return ("matrix", self.reduced_axis)

    def to_matrix(self, weight: NDArray[Any]) -> NDArray[Any]:
        return np.moveaxis(weight, self.reduced_axis, -1)[None]

    def from_matrix(self, matrix: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        return np.ascontiguousarray(np.moveaxis(matrix[0], -1, self.reduced_axis)).reshape(shape)

    def grid(self, shape: Sequence[int]) -> tuple[int, ...]:
        others = list(shape)
        del others[self.input_axis]
        return (math.prod(others[1:]),)  # the first of them counts samples

    def columns(self, inputs: Tensor, starts: Sequence[int], steps: Sequence[int]) -> Tensor:
        last = inputs.movedim(self.input_axis, -1)
        samples = 1 if last.ndim == 1 else last.shape[0]
        rows = last.reshape(samples, -1, last.shape[-1])[:, starts[0] :: steps[0]]
        return rows.reshape(1, -1, last.shape[-1]).mT


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


@dataclass(frozen=True, slots=True)
class RecurrentReduction(Reduction):
    """W or R of a recurrent node, `[directions, gates * hidden, reduced]`.

    W meets X `[steps, samples, inputs]`. R meets the states before each step: those are Y
    `[steps, directions, samples, hidden]` but for its last step (of a direction that runs backwards the first), and
    initial_h `[directions, samples, hidden]`, whose columns are to be added. With layout 1 samples are the first axis.

    Two liberties: steps beyond a sample's own length (`sequence_lens`) count, with the inputs that the samples have
    there; and of a GRU that resets before its product (`linear_before_reset=0`) the hidden gate's rows, which meet
    `reset * state`, are rounded for `state` as the others.

    Args:
        backwards: for each direction.
        recurrent: R, not W.
        batch_first: layout 1.
    """

    backwards: tuple[bool, ...]
    recurrent: bool
    batch_first: bool = False

    @property
    def view(self) -> tuple[Any, ...]:
        return ("recurrent",)

    def to_matrix(self, weight: NDArray[Any]) -> NDArray[Any]:
        return weight

    def from_matrix(self, matrix: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        return np.ascontiguousarray(matrix).reshape(shape)

    def by_sample(self, values: Tensor) -> Tensor:
        return values if self.batch_first else values.movedim(-2, 0)

    def grid(self, shape: Sequence[int]) -> tuple[int, ...]:
        if not self.recurrent:
            return (shape[1],)
        return (shape[1] - 1,) if len(shape) == 4 else (1,)

    def columns(self, inputs: Tensor, starts: Sequence[int], steps: Sequence[int]) -> Tensor:
        """As the base class says, of inputs as `by_sample` gives them."""
        if not self.recurrent:
            every = [inputs] * len(self.backwards)
        elif inputs.ndim == 3:
            every = [state[:, None] for state in inputs.unbind(1)]
        else:
            states = zip(inputs.unbind(2), self.backwards, strict=True)
            every = [state[:, 1:] if backwards else state[:, :-1] for state, backwards in states]
        return torch.stack([x[:, starts[0] :: steps[0]].reshape(-1, x.shape[-1]).mT for x in every])


def _spread(inputs: Tensor, strides: Sequence[int]) -> Tensor:
    """`inputs` `[N, C, *spatial]` with `stride - 1` zeros between neighbours along each spatial axis."""
    sizes = [(n - 1) * s + 1 for n, s in zip(inputs.shape[2:], strides, strict=True)]
    spread = inputs.new_zeros((*inputs.shape[:2], *sizes))
    spread[(slice(None), slice(None), *(slice(None, None, s) for s in strides))] = inputs
    return spread


def read_by(node: onnx.NodeProto, weight: str) -> tuple[str, ...]:
    """The tensors that make the columns of `Reduction`, as `network.taps` calls them: what `node` multiplies `weight`
    with. The matrix R of a recurrent node has two, the node's own states and the initial ones (if it gets any)."""
    if node.op_type in RECURRENT and weight == node.input[2]:
        return (output_name(node, 0), *(name for name in node.input[5:6] if name))
    return (next(name for name in node.input if name and name != weight),)


def reduction_of(network: Network, layer: Layer, shape: tuple[int, ...]) -> Reduction | NotReducible:
    """How a layer uses its weight, of `shape`."""
    if layer.inner:
        return NotReducible("it lies in the body of an If, Loop or Scan, whose values are not seen from outside")
    node = network.nodes[layer.name]
    if not layer.order:
        return reduction(node, layer.weight, shape)
    seen = reduction(node, layer.view, tuple(shape[axis] for axis in layer.order))
    if isinstance(seen, MatrixReduction):
        return replace(seen, reduced_axis=layer.order[seen.reduced_axis])
    if isinstance(seen, NotReducible):
        return seen
    return NotReducible("it reads its weight with the axes in another order")


def reduction(node: onnx.NodeProto, weight: str, shape: tuple[int, ...]) -> Reduction | NotReducible:
    """How `node` uses the initializer called `weight`, which has `shape`."""
    attributes = attributes_of(node)
    position = list(node.input).index(weight)
    match node.op_type:
        case "Conv" | "ConvTranspose" if position == 1:
            return _convolution(node.op_type, attributes, shape)
        case "Gemm" if len(shape) == 2:
            if position == 1:
                return MatrixReduction(1 if attributes.get("transB", 0) else 0, 0 if attributes.get("transA", 0) else 1)
            if position == 0:
                return MatrixReduction(0 if attributes.get("transA", 0) else 1, 1 if attributes.get("transB", 0) else 0)
        case "MatMul" if len(shape) == 2:
            return MatrixReduction(0, -1) if position == 1 else MatrixReduction(1, -2)
        case "MatMul":
            return NotReducible(
                f"MatMul with a weight of shape {shape}: only one matrix meets every column of the input"
            )
        case "LSTM" | "GRU" | "RNN" if position in (1, 2):
            return _recurrent(node, attributes, position)
        case "Gather":
            return NotReducible("Gather copies rows of its table; it multiplies no input, so each is rounded by itself")
    return NotReducible(f"{node.op_type} has no matrix product with its input {position} of shape {shape}")


def _recurrent(node: onnx.NodeProto, attributes: Mapping[str, Any], position: int) -> RecurrentReduction | NotReducible:
    if node.input[1] == node.input[2]:
        return NotReducible(f"{node.op_type} multiplies both its inputs and its states with this weight")
    backwards = {b"forward": (False,), b"reverse": (True,), b"bidirectional": (False, True)}
    return RecurrentReduction(
        backwards[attributes.get("direction", b"forward")],
        recurrent=position == 2,
        batch_first=attributes.get("layout", 0) == 1,
    )


def _convolution(op_type: str, attributes: Mapping[str, Any], shape: tuple[int, ...]) -> ConvReduction:
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
