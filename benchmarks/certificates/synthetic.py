"""Distributions that can be sampled without end: digits, shapes, tones, text, series."""

from __future__ import annotations

from functools import cache

import numpy as np
from sklearn.datasets import load_digits

from benchmarks.certificates.entry import Array

IMAGE = 24
"""Height and width of an image of shapes, pixels."""
TOKENS = 24


@cache
def _digits() -> tuple[Array, Array]:
    data = load_digits()
    return (data.images / 16.0).astype(np.float32), data.target.astype(np.int64)


def digits(rng: np.random.Generator, samples: int) -> tuple[Array, Array]:
    """Handwritten digits [N, 1, 8, 8], moved by up to a pixel, with noise and another contrast; classes [N]."""
    images, classes = _digits()
    chosen = rng.integers(0, len(images), samples)
    padded = np.pad(images[chosen], ((0, 0), (1, 1), (1, 1)))
    rows, columns = rng.integers(0, 3, (2, samples))
    span = np.arange(8)
    moved = padded[
        np.arange(samples)[:, None, None], rows[:, None, None] + span[:, None], columns[:, None, None] + span
    ]
    contrast = rng.uniform(0.6, 1.2, (samples, 1, 1))
    noisy = contrast * moved + rng.normal(0, 0.12, moved.shape)
    return noisy[:, None].astype(np.float32), classes[chosen]


def shapes(rng: np.random.Generator, samples: int) -> tuple[Array, Array, Array, Array]:
    """Images [N, 1, 24, 24] of one or two squares and discs.

    With their boxes [N, 2, 4] (x1, y1, x2, y2 in pixels), classes [N, 2] (-1: no object) and the class of every pixel
    [N, 24, 24] (0: background, 1: square, 2: disc).
    """
    classes = rng.integers(0, 2, (samples, 2))
    classes[rng.random(samples) < 0.4, 1] = -1
    half = rng.uniform(2.5, 5.0, (samples, 2))
    x, y = (rng.uniform(half, IMAGE - half) for _ in range(2))
    brightness = rng.uniform(0.6, 1.0, (samples, 2))
    image = rng.normal(0, 0.08, (samples, IMAGE, IMAGE))
    mask = np.zeros((samples, IMAGE, IMAGE), dtype=np.int64)
    rows, columns = np.mgrid[:IMAGE, :IMAGE] + 0.5
    for index in range(2):
        dx, dy = (np.abs(g - c[:, index, None, None]) for g, c in ((columns, x), (rows, y)))
        radius = half[:, index, None, None]
        square = (dx < radius) & (dy < radius)
        disc = dx**2 + dy**2 < radius**2
        kind = classes[:, index, None, None]
        inside = np.where(kind == 0, square, disc) & (kind >= 0)
        image = np.where(inside, image + brightness[:, index, None, None] * (1 - 0.5 * (image > 0.4)), image)
        mask = np.where(inside, kind + 1, mask)
    boxes = np.stack([x - half, y - half, x + half, y + half], axis=-1)
    boxes[classes < 0] = 0
    return image[:, None].astype(np.float32), boxes.astype(np.float32), classes, mask


def tones(rng: np.random.Generator, samples: int, length: int = 256, silent: float = 0.0) -> tuple[Array, Array]:
    """Waveforms [N, length] of one of five tones with two overtones in noise; tone [N].

    A share `silent` of them is digital silence, whose class is 5.
    """
    classes = rng.integers(0, 5, samples)
    frequency = np.array([5.0, 8.0, 12.0, 18.0, 27.0])[classes] * rng.uniform(0.93, 1.07, samples)
    time = np.arange(length) / length
    phase = rng.uniform(0, 2 * np.pi, (samples, 1))
    wave = np.sin(2 * np.pi * frequency[:, None] * time + phase)
    wave += 0.5 * np.sin(4 * np.pi * frequency[:, None] * time + rng.uniform(0, 6, (samples, 1)))
    wave = rng.uniform(0.2, 1, (samples, 1)) * wave + rng.normal(0, 0.4, wave.shape)
    quiet = rng.random(samples) < silent
    return np.where(quiet[:, None], 0, wave).astype(np.float32), np.where(quiet, 5, classes).astype(np.int64)


@cache
def _followers() -> Array:
    return np.random.default_rng(11).integers(0, TOKENS, (TOKENS, TOKENS, 3))


def text(rng: np.random.Generator, samples: int, length: int) -> Array:
    """Token ids [N, length]: each follows from the two before it, with three choices (0.75, 0.2, 0.05)."""
    ids = rng.integers(0, TOKENS, (samples, length))
    choice = rng.choice(3, (samples, length), p=[0.75, 0.2, 0.05])
    # fewer pairs than all: the first token counts by its parity alone
    for position in range(2, length):
        ids[:, position] = _followers()[ids[:, position - 2] % 2, ids[:, position - 1], choice[:, position]]
    return ids


def series(rng: np.random.Generator, samples: int, length: int) -> Array:
    """Series [N, length, 2]: a wave with a trend, and the wave's lagged partner at another scale."""
    time = np.arange(length)
    period, phase = rng.uniform(8, 16, (samples, 1)), rng.uniform(0, 2 * np.pi, (samples, 1))
    amplitude, slope = rng.uniform(0.5, 1.5, (samples, 1)), rng.normal(0, 0.03, (samples, 1))
    angle = 2 * np.pi * time / period + phase
    first = amplitude * np.sin(angle) + slope * time + rng.normal(0, 0.05, (samples, length))
    second = 10 * amplitude * np.cos(angle) + 20 + rng.normal(0, 0.5, (samples, length))
    return np.stack([first, second], axis=-1).astype(np.float32)
