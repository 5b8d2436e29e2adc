"""A layer as a matrix product: which weights meet which inputs.

Every layer with a weight computes, per group, `y = W x` with `W` `[rows, reduced]` and columns `x` taken from its
input. `Reduction` knows both views: the weight as `[groups, rows, reduced]`, and the input as columns
`[groups, reduced, positions]`.

    Conv           rows: output channels of the group; reduced: input channels of the group x kernel (im2col)
    ConvTranspose  the same after zeros are put between the inputs and the kernel is mirrored: a convolution of stride 1
    Gemm, MatMul   rows: the weight's axis that stays; reduced: the axis summed over; one group
    MatMul of a    a group for each matrix; its columns are the inputs that it meets (of a mixture of experts those that
    stack          the router sends there)
    LSTM, GRU, RNN a group for each direction; rows: gates x hidden; reduced: of W the inputs of a step, of R the hidden
                   states before it
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
        return np.moveaxis(weight, self.reduced_axis, -1).reshape(1, -1, weight.shape[self.reduced_axis])

    def from_matrix(self, matrix: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        others = list(shape)
        reduced = others.pop(self.reduced_axis)
        return np.ascontiguousarray(np.moveaxis(matrix.reshape(*others, reduced), -1, self.reduced_axis))

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
class StackReduction(Reduction):
    """MatMul with a weight of more than two axes, a `stack` of matrices: `[*stack, reduced, rows]`, or where it
    `is_left` `[*stack, rows, reduced]`.

    The inputs are `[*batch, *stack, positions, reduced]`, where any axis of the stack may be 1 or missing: then all
    matrices along it meet the same inputs. Samples lie on their first axis that is not one of several matrices.
    """

    stack: tuple[int, ...]
    is_left: bool

    @property
    def view(self) -> tuple[Any, ...]:
        return ("stack", self.is_left)

    def to_matrix(self, weight: NDArray[Any]) -> NDArray[Any]:
        rows = weight if self.is_left else np.swapaxes(weight, -1, -2)
        return rows.reshape(-1, *rows.shape[-2:])

    def from_matrix(self, matrix: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        rows = matrix if self.is_left else np.swapaxes(matrix, -1, -2)
        return np.ascontiguousarray(rows).reshape(shape)

    def by_sample(self, values: Tensor) -> Tensor:
        """`[samples, positions, *stack, reduced]`, an axis of the stack 1 where all its matrices meet the same."""
        rows = values.mT if self.is_left and values.ndim > 1 else values
        missing = max(0, len(self.stack) + 2 - rows.ndim)
        rows = rows.reshape(*[1] * missing, *rows.shape)
        first = rows.ndim - 2 - len(self.stack)
        matrices = [first + place for place, length in enumerate(self.stack) if length > 1]
        others = [axis for axis in range(rows.ndim - 1) if axis not in matrices]
        samples = next(axis for axis in others if axis >= min(missing, rows.ndim - 2))
        others.remove(samples)
        rows = rows.permute(samples, *others, *matrices, -1)
        kept = len(matrices) + 1
        return rows.reshape(len(rows), -1, *rows.shape[-kept:])

    def grid(self, shape: Sequence[int]) -> tuple[int, ...]:
        """As the base class says, of a shape as `by_sample` gives it."""
        return (shape[1],)

    def columns(self, inputs: Tensor, starts: Sequence[int], steps: Sequence[int]) -> Tensor:
        """As the base class says, of inputs as `by_sample` gives them."""
        rows = inputs[:, starts[0] :: steps[0]]
        several = [length for length in self.stack if length > 1]
        rows = rows.expand(*rows.shape[:2], *several, rows.shape[-1])
        return rows.flatten(0, 1).movedim(0, -1).reshape(math.prod(several), rows.shape[-1], -1)


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
