"""Small pictures of samples that look like images, for people."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST = 8
SIDE = 64
_SMALLEST_SIDE = 8
_LARGEST_SIDE = 4096
_CHANNELS = (1, 3, 4)


def images_in(samples: NDArray[Any]) -> NDArray[np.float32] | None:
    """Samples that look like images, as `[samples, H, W, 1 | 3]`; None if they do not.

    Whole numbers with a sign are codes of something, not pixels.

    Args:
        samples: `[N, C, H, W]`, `[N, H, W, C]` or, with square sides, `[N, H, W]`; C is 1, 3 or 4.
    """
    if samples.dtype.kind not in "fu" or samples.ndim not in (3, 4) or not len(samples):
        return None
    if samples.ndim == 3:
        if samples.shape[1] != samples.shape[2]:
            return None
        samples = samples[..., None]
    elif samples.shape[3] not in _CHANNELS:
        if samples.shape[1] not in _CHANNELS:
            return None
        samples = np.moveaxis(samples, 1, 3)
    if not all(_SMALLEST_SIDE <= side <= _LARGEST_SIDE for side in samples.shape[1:3]):
        return None
    # every few pixels, before numbers are made of them
    step = max(1, max(samples.shape[1:3]) // SIDE)
    return np.ascontiguousarray(samples[:, ::step, ::step, : 3 if samples.shape[3] >= 3 else 1], np.float32)


def thumbnail(image: NDArray[np.float32]) -> str:
    """One image `[H, W, 1 | 3]` of any range as a PNG of at most `SIDE` pixels a side, in base64. How its values were
    normalised is not known: the darkest becomes black and the brightest white."""
    from PIL import Image

    finite = image[np.isfinite(image)]
    lowest, highest = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    scaled = np.nan_to_num((image - lowest) * (255.0 / max(highest - lowest, 1e-12)), nan=0.0, posinf=255, neginf=0)
    pixels = np.clip(scaled, 0, 255).astype(np.uint8)
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    picture.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
