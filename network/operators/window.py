"""The sliding windows of convolutions and poolings: kernel, strides, dilations and padding per spatial axis.

Source: ONNX operator specification of Conv, ConvTranspose, MaxPool and AveragePool.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from network.errors import UnsupportedOperators
from network.operators.node import Node


@dataclass(frozen=True, slots=True)
class Window:
    """All fields have one entry per spatial axis; `begin` and `end` count the padded elements on either side."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]

    @property
    def extent(self) -> tuple[int, ...]:
        """How many elements the window spans: (kernel - 1) * dilation + 1."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    @property
    def symmetric(self) -> bool:
        """Whether both sides are padded alike, which is the only padding that torch's own operators know."""
        return self.begin == self.end


def sliding_window(node: Node, kernel: Sequence[int], sizes: Sequence[int]) -> Window:
    """The window of `node`, whose kernel is `kernel`, over an input of spatial `sizes`; `auto_pad` is resolved."""
    rank = len(sizes)
    kernel = tuple(kernel)
    strides = tuple(node.get("strides") or (1,) * rank)
    dilations = tuple(node.get("dilations") or (1,) * rank)
    auto_pad = node.get("auto_pad", "NOTSET")
    if auto_pad in ("NOTSET", "VALID"):
        pads = tuple((node.get("pads") if auto_pad == "NOTSET" else None) or (0,) * (2 * rank))
        return Window(kernel, strides, dilations, pads[:rank], pads[rank:])
    totals = [
        max((-(-size // stride) - 1) * stride + (k - 1) * dilation + 1 - size, 0)
        for size, stride, k, dilation in zip(sizes, strides, kernel, dilations, strict=True)
    ]
    begin, end = split_padding(totals, extra_at_end=auto_pad == "SAME_UPPER")
    return Window(kernel, strides, dilations, begin, end)


def split_padding(totals: Sequence[int], *, extra_at_end: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Half of each total on either side; the odd element goes to the end or to the beginning."""
    smaller = tuple(total // 2 for total in totals)
    larger = tuple(total - total // 2 for total in totals)
    return (smaller, larger) if extra_at_end else (larger, smaller)


def pad_axes(x: Tensor, begin: Sequence[int], end: Sequence[int], value: float = 0.0) -> Tensor:
    """`x` with its last `len(begin)` axes padded by `value`; a negative count crops."""
    if not any(begin) and not any(end):
        return x
    # torch lists the last axis first
    pads = [count for pair in zip(reversed(begin), reversed(end), strict=True) for count in pair]
    return F.pad(x, pads, value=value)


def of_rank(table: Mapping[int, Callable[..., Tensor]], node: Node, x: Tensor) -> Callable[..., Tensor]:
    """What `table` has for as many spatial axes as `x` `[samples, channels, *spatial]` has.

    Raises:
        UnsupportedOperators: it has nothing for so many.
    """
    rank = x.dim() - 2
    if rank not in table:
        raise UnsupportedOperators(
            f"{node.op_type} (node {node.name!r}) over {rank} spatial axes has no rule; expected 1, 2 or 3"
        )
    return table[rank]
