from __future__ import annotations

import numpy as np
import pytest

from benchmarks.largest_magnitude import round_by_largest
from quantization.formats import Granularity, IntegerFormat
from quantization.rounding.nearest import round_nearest

BLOCK, CHANNEL, TENSOR = Granularity.BLOCK, Granularity.CHANNEL, Granularity.TENSOR
FORMATS = [IntegerFormat(4), IntegerFormat(8), IntegerFormat(2, TENSOR), IntegerFormat(4, BLOCK, True, 16)]


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("format_", FORMATS)
def test_the_largest_magnitude_has_the_lowest_code(format_: IntegerFormat, axis: int) -> None:
    weight = np.random.default_rng(0).standard_normal((48, 64)).astype(np.float32)
    rounded = round_by_largest(weight, format_, axis)
    searched = round_nearest(weight, format_, axis)
    assert rounded.scale.shape == searched.scale.shape
    error, least = (np.square(w.dequantize() - weight).sum() for w in (rounded, searched))
    assert least <= error
    match format_.granularity:
        case Granularity.TENSOR:
            shares, codes = weight.reshape(1, -1), rounded.codes.reshape(1, -1)
        case Granularity.CHANNEL:
            shares, codes = (np.moveaxis(a, axis, 0) for a in (weight, rounded.codes))
        case _:
            shape = rounded.scale.shape
            shares, codes = (
                a.reshape(shape[0], format_.block, shape[2]).swapaxes(1, 2).reshape(-1, format_.block)
                for a in (weight, rounded.codes)
            )
    largest = np.abs(shares).argmax(axis=1)[:, None]
    assert (np.take_along_axis(codes, largest, axis=1) == format_.lowest_code).all()
    scale = rounded.scale.reshape(-1)
    best = np.take_along_axis(shares, largest, axis=1)[:, 0] / format_.lowest_code
    np.testing.assert_allclose(scale, best, rtol=1e-6 if format_.granularity is not BLOCK else 1e-3)


def test_zeros_and_what_has_no_scale() -> None:
    weight = np.zeros((3, 4), dtype=np.float32)
    weight[1] = 1
    assert round_by_largest(weight, IntegerFormat(4), 0).scale[:, 0].tolist() == [1, -0.125, 1]
    with pytest.raises(ValueError, match="needs a zero point"):
        round_by_largest(weight, IntegerFormat(4, CHANNEL, False), 0)
    weight[2, 2] = np.nan
    with pytest.raises(ValueError, match="finite float32"):
        round_by_largest(weight, IntegerFormat(4), 0)
