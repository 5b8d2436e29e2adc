"""Samples that look like images, as small pictures for people."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 64
"""Of the larger side of a picture, in pixels."""
_SMALLEST = 6
_CHANNELS = (1, 3)


def thumbnail(inputs: Mapping[str, NDArray[np.generic]]) -> str | None:
    """A PNG of the first input that looks like an image, in base64; None where none does.

    An image is `[1 or 3, height, width]`, `[height, width, 1 or 3]` or `[height, width]`. How its values were
    normalised is not known: the darkest becomes black and the brightest white.

    Args:
        inputs: of one sample, by name, without the axis of samples.
    """
    for value in inputs.values():
        pixels = _pixels(np.asarray(value))
        if pixels is not None:
            return base64.b64encode(_png(pixels)).decode()
    return None


def _pixels(value: NDArray[np.generic]) -> NDArray[np.uint8] | None:
    """`[height, width, 3]`, or `[height, width]` for shades of grey."""
    if value.dtype.kind not in "fu" or value.ndim not in (2, 3):
        return None
    if value.ndim == 3 and value.shape[0] in _CHANNELS:
        value = np.moveaxis(value, 0, -1)
    if value.ndim == 3 and value.shape[2] not in _CHANNELS:
        return None
    if min(value.shape[:2]) < _SMALLEST:
        return None
    values = np.nan_to_num(value.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) / (high - low) if high > low else np.zeros_like(values)
    pixels = np.round(255 * scaled).astype(np.uint8)
    return pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels


def _png(pixels: NDArray[np.uint8]) -> bytes:
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
