"""Reductions over axes, positions of extremes, cumulative sums, the largest k."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from network.operators.node import Node
from network.operators.registry import operator

# What a reduction does over the given axes, which are never empty.
_Reduce = Callable[[Tensor, list[int], bool], Tensor]
_Elementwise = Callable[[Tensor], Tensor]


def _sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.sum(tuple(axes), keepdim=keep, dtype=x.dtype)  # torch would widen int32 to int64


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if x.is_floating_point():
        return x.mean(tuple(axes), keepdim=keep)
    count = math.prod(x.shape[axis] for axis in axes)
    return torch.div(_sum(x, axes, keep), count, rounding_mode="trunc")


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep, dtype=x.dtype)
    return x


def _l2(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, dim=tuple(axes), keepdim=keep)
    return norm


def _extreme(reduce: Callable[..., Tensor], sign: int) -> _Reduce:
    """The largest or smallest element; of none that which every other beats: the end of the type, or an infinity."""

    def compute(x: Tensor, axes: list[int], keep: bool) -> Tensor:
        if all(x.shape[axis] for axis in axes):
            return reduce(x, tuple(axes), keepdim=keep)
        reduced = x.sum(tuple(axes), keepdim=keep)
        if x.is_floating_point():
            return torch.full_like(reduced, -sign * math.inf, dtype=x.dtype)
        if x.dtype == torch.bool:
            return torch.full_like(reduced, sign < 0, dtype=x.dtype)
        limits = torch.iinfo(x.dtype)
        return torch.full_like(reduced, limits.min if sign > 0 else limits.max, dtype=x.dtype)

    return compute


def _identity(x: Tensor) -> Tensor:
    return x


# operator, what happens to each element, the reduction, what happens to the result. Over no axes at all the
# reduction is left out and the rest stays, as the specification says; for L2 and LogSumExp that is |x| and x.
_REDUCTIONS: tuple[tuple[str, _Elementwise, _Reduce, _Elementwise], ...] = (
    ("ReduceSum", _identity, _sum, _identity),
    ("ReduceMean", _identity, _mean, _identity),
    ("ReduceMax", _identity, _extreme(torch.amax, 1), _identity),
    ("ReduceMin", _identity, _extreme(torch.amin, -1), _identity),
    ("ReduceProd", _identity, _product, _identity),
    ("ReduceL1", torch.abs, _sum, _identity),
    ("ReduceSumSquare", torch.square, _sum, _identity),
    ("ReduceLogSum", _identity, _sum, torch.log),
    ("ReduceL2", torch.abs, _l2, _identity),
    ("ReduceLogSumExp", _identity, torch.logsumexp, _identity),
)


def _reduction(before: _Elementwise, reduce: _Reduce, after: _Elementwise) -> Callable[..., Tensor]:
    def compute(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
        chosen = node.integers("axes", axes)
        if not chosen:
            if node.get("noop_with_empty_axes", 0) or x.dim() == 0:
                return after(before(x))
            chosen = list(range(x.dim()))
        return after(reduce(before(x), chosen, bool(node.get("keepdims", 1))))

    return compute


for _name, _before, _reduce, _after in _REDUCTIONS:
    operator(_name, host=(1,))(_reduction(_before, _reduce, _after))


def _position(of: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def compute(node: Node, x: Tensor) -> Tensor:
        axis, keep = node.get("axis", 0), bool(node.get("keepdims", 1))
        if not node.get("select_last_index", 0):
            return of(x, axis, keepdim=keep)  # the first of several
        return torch.sub(x.shape[axis] - 1, of(x.flip(axis), axis, keepdim=keep))

    return compute


operator("ArgMax")(_position(torch.argmax))
operator("ArgMin")(_position(torch.argmin))


def _cumulative(accumulate: Callable[..., Tensor], neutral: int) -> Callable[..., Tensor]:
    """All elements up to each one along `axis`, without it if `exclusive`, from the end if `reverse`."""

    def compute(node: Node, x: Tensor, axis: Tensor) -> Tensor:
        along = int(axis.item())
        if node.get("reverse", 0):
            x = x.flip(along)
        if node.get("exclusive", 0):
            first = torch.full_like(x.narrow(along, 0, min(1, x.shape[along])), neutral)
            x = torch.cat([first, x.narrow(along, 0, max(0, x.shape[along] - 1))], along)
        accumulated = accumulate(x, along, dtype=x.dtype)
        return accumulated.flip(along) if node.get("reverse", 0) else accumulated

    return compute


operator("CumSum", since=11, host=(1,))(_cumulative(torch.cumsum, 0))
operator("CumProd", since=26, host=(1,))(_cumulative(torch.cumprod, 1))


@operator("TopK", since=10, host=(1,))
def top_k(node: Node, x: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """The k largest (or smallest) elements along `axis` in order, and their indices; ties by the lower index."""
    axis = node.get("axis", -1)
    # torch.topk leaves the order of ties open; a stable sort does not.
    values, indices = torch.sort(x, dim=axis, descending=bool(node.get("largest", 1)), stable=True)
    count = int(k.item())
    return values.narrow(axis, 0, count), indices.narrow(axis, 0, count)
