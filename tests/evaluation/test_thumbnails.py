"""What looks like an image is made one, small and in its proportions."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from evaluation.thumbnails import SIDE, images_in, thumbnail


def picture(sample: np.ndarray) -> Image.Image | None:
    images = images_in(sample[None])
    return None if images is None else Image.open(io.BytesIO(base64.b64decode(thumbnail(images[0]))))


@pytest.mark.parametrize(
    ("value", "size", "mode"),
    [
        (np.eye(8)[None], (8, 8), "L"),
        (np.zeros((8, 10, 3), dtype=np.uint8), (10, 8), "RGB"),
        (np.zeros((4, 9, 9)), (9, 9), "RGB"),
        (np.full((16, 16), np.nan), (16, 16), "L"),
        (np.random.default_rng(0).normal(size=(3, 300, 200)), (43, SIDE), "RGB"),
    ],
    ids=["one channel", "channels last", "with alpha", "not a number", "large"],
)
def test_what_looks_like_an_image_is_one(value: np.ndarray, size: tuple[int, int], mode: str) -> None:
    image = picture(value)
    assert image is not None
    assert (image.size, image.mode) == (size, mode)


def test_the_darkest_is_black_and_the_brightest_white() -> None:
    image = picture(np.linspace(-3, 5, 64).reshape(8, 8))
    assert image is not None
    assert image.getextrema() == (0, 255)


@pytest.mark.parametrize(
    "value",
    [np.zeros(9), np.zeros((3, 5, 5)), np.zeros((7, 9, 9)), np.zeros((9, 9), dtype=int), np.zeros((1, 9, 5000))],
)
def test_what_looks_like_no_image_has_no_picture(value: np.ndarray) -> None:
    assert picture(value) is None
