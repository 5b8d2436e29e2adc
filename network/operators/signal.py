"""Fourier transforms of signals, and the windows and filters that go with them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from network.operators.node import Node
from network.operators.registry import operator

_DFT_AXIS = -2
"""Of opset 20: the last axis before that of the real and the imaginary part."""


def _as_complex(x: Tensor) -> Tensor:
    """[..., 2] as complex numbers, [..., 1] as real ones."""
    return torch.complex(x[..., 0], x[..., 1]) if x.shape[-1] == 2 else x[..., 0]


def _transformed(node: Node, x: Tensor, axis: int, length: Tensor | None) -> Tensor:
    signal = _as_complex(x)
    count = None if length is None else int(length.item())
    one_sided, inverse = bool(node.get("onesided", 0)), bool(node.get("inverse", 0))
    if one_sided and inverse:
        real: Tensor = torch.fft.irfft(signal, count, axis)
        return real.unsqueeze(-1)
    if one_sided:
        return torch.view_as_real(torch.fft.rfft(signal, count, axis))
    transform = torch.fft.ifft if inverse else torch.fft.fft
    return torch.view_as_real(transform(signal, count, axis))


@operator("DFT", since=17, host=(1,))
def transform_along_attribute(node: Node, x: Tensor, length: Tensor | None = None) -> Tensor:
    """As of opset 17: the axis is an attribute."""
    return _transformed(node, x, node.get("axis", 1) % x.dim(), length)


@operator("DFT", since=20, host=(1, 2))
def transform(node: Node, x: Tensor, length: Tensor | None = None, axis: Tensor | None = None) -> Tensor:
    """The discrete Fourier transform of x [..., 1 or 2] along `axis`, of `length` elements: cut, or padded with 0."""
    along = _DFT_AXIS if axis is None else int(axis.item())
    return _transformed(node, x, along % x.dim(), length)


@operator("STFT", since=17, host=(1, 3))
def short_time_transform(
    node: Node, x: Tensor, step: Tensor, window: Tensor | None = None, length: Tensor | None = None
) -> Tensor:
    """The transforms of frames of x [N, L, 1 or 2], weighed by the window: [N, frames, bins, 2]."""
    size = int(length.item()) if length is not None else x.shape[1] if window is None else window.shape[0]
    frames = _as_complex(x).unfold(1, size, int(step.item()))
    frames = frames if window is None else frames * window
    if node.get("onesided", 1):
        return torch.view_as_real(torch.fft.rfft(frames))
    return torch.view_as_real(torch.fft.fft(frames))


# Of each window the shares of cos(0), cos(x), cos(2 x), which are subtracted in turns.
_WINDOWS: Sequence[tuple[str, Sequence[float]]] = (
    ("HannWindow", (0.5, 0.5)),
    ("HammingWindow", (25 / 46, 21 / 46)),
    ("BlackmanWindow", (0.42, 0.5, 0.08)),
)


def _refuse_integers(node: Node) -> str | None:
    return None if node.dtype_or("output_datatype", node.float_dtype).is_floating_point else "integers as its output"


def _register_window(op_type: str, shares: Sequence[float]) -> None:
    @operator(op_type, since=17, host=(0,), refuses=_refuse_integers)
    def window(node: Node, size: Tensor) -> Tensor:
        """A window of `size` elements; a periodic one is that of one element more without its last."""
        length = int(size.item())
        period = length if node.get("periodic", 1) else length - 1
        angle = torch.arange(length, dtype=torch.float64) * (2 * math.pi / max(period, 1))
        parts = [(-1) ** order * share * torch.cos(order * angle) for order, share in enumerate(shares)]
        return torch.stack(parts).sum(0).to(node.float_dtype)


for _op_type, _shares in _WINDOWS:
    _register_window(_op_type, _shares)


@operator("MelWeightMatrix", since=17, host=(0, 1, 2, 3, 4))
def mel_weight_matrix(node: Node, mels: Tensor, length: Tensor, rate: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Triangular filters of equal width on the mel scale, [length / 2 + 1, mels]."""
    count, size = int(mels.item()), int(length.item())
    first, last = (2595 * math.log10(1 + edge.item() / 700) for edge in (low, high))
    places = torch.arange(count + 2, dtype=torch.float64) * ((last - first) / (count + 2)) + first
    edges = torch.floor((size + 1) * 700 * (torch.pow(10, places / 2595) - 1) / rate.item())
    bins = torch.arange(size // 2 + 1, dtype=torch.float64).unsqueeze(1)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    rising = torch.where(centre == left, (bins == centre).double(), (bins - left) / (centre - left))
    falling = (right - bins) / (right - centre)
    matrix = torch.where((bins >= left) & (bins <= centre), rising, 0.0)
    return torch.where((bins >= centre) & (bins < right), falling, matrix).to(node.float_dtype)
