"""Scales that make channels in different units comparable: pixels, probabilities and logits in one output."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

# A channel that hardly varies is not to count without bound: its scale is at least this share of its size.
SMALLEST_SHARE = 1e-3
# Of float32, in which torch divides, with room for a square.
SMALLEST_SCALE = 1e-12


def whitening(
    outputs: NDArray[np.floating], axis: int = -1, channels: tuple[int, int] | None = None
) -> tuple[float, ...]:
    """The scale of each channel, as `sensitivity.loss.Term.scales` takes them.

    The standard deviation over samples and positions, but at least `SMALLEST_SHARE` of the channel's root mean square
    and at least `SMALLEST_SCALE`. Values that are not finite are left out. A channel that is always 0, or never finite,
    says nothing of its unit: it gets the median of the others, or 1 where all are such.

    Args:
        outputs: `[samples, ...]` of the float network.
        axis: the axis of channels, not 0; an output `[samples]` has one channel.
        channels: only `[start, stop)` of `axis`; None for all.

    Raises:
        ValueError: `axis` is that of the samples, or there is none such.
    """
    values = outputs[:, None] if outputs.ndim == 1 else outputs
    if not -values.ndim < axis < values.ndim or axis == 0:
        raise ValueError(
            f"outputs of shape {list(outputs.shape)} have no axis {axis} for channels behind their samples"
        )
    start, stop = channels or (0, values.shape[axis])
    moved = np.moveaxis(values, axis, 0)[start:stop]
    scales = [_scale(channel[np.isfinite(channel)].astype(np.float64)) for channel in moved]
    known = [scale for scale in scales if scale > 0]
    usual = float(np.median(known)) if known else 1.0
    return tuple(scale or usual for scale in scales)


def _scale(values: NDArray[np.float64]) -> float:
    """0 where the values say nothing of their size."""
    largest = float(np.abs(values).max(initial=0.0))
    if largest == 0:
        return 0.0
    unit = values / largest  # squares of the largest float64 would overflow
    share = max(float(unit.std()), SMALLEST_SHARE * math.sqrt(float(np.square(unit).mean())))
    return max(share * largest, SMALLEST_SCALE)
