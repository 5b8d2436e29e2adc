from __future__ import annotations

import numpy as np
import pytest

from network.graph import ChannelAxis
from quantization.formats import Granularity, HadamardFormat, IntegerFormat, PowerFormat, ScaledFormat
from quantization.granularity import Fold, facing, fold, groups, is_scale_shape, scale_shape, spread

TENSOR, CHANNEL = IntegerFormat(4, Granularity.TENSOR), IntegerFormat(4)
BLOCK = IntegerFormat(4, Granularity.BLOCK, True, 32)
CONV, MATMUL, STACK = (64, 32, 3, 3), (128, 40), (8, 128, 40)


@pytest.mark.parametrize(
    ("shape", "axis", "format_", "scale", "grouped"),
    [  # the table of the module's docstring
        (CONV, 0, TENSOR, (), (1, 18432, 1)),
        (CONV, 0, CHANNEL, (64, 1, 1, 1), (64, 288, 1)),
        (CONV, 0, PowerFormat(4), (64, 1, 1, 1), (64, 288, 1)),
        (CONV, -4, HadamardFormat(4), (64, 1, 1, 1), (64, 288, 1)),
        (CONV, 0, BLOCK, (576, 1, 1), (576, 32, 1)),
        (MATMUL, 1, TENSOR, (), (1, 5120, 1)),
        (MATMUL, 1, CHANNEL, (1, 40), (40, 128, 1)),
        (MATMUL, -1, BLOCK, (4, 1, 40), (4, 32, 40)),
        (STACK, (0, 2), TENSOR, (), (1, 40960, 1)),
        (STACK, (0, 2), CHANNEL, (8, 1, 40), (320, 128, 1)),
        (STACK, (0, 1), CHANNEL, (8, 128, 1), (1024, 40, 1)),
        (STACK, (0, -1), BLOCK, (32, 1, 40), (32, 32, 40)),
    ],
)
def test_shapes(
    shape: tuple[int, ...], axis: ChannelAxis, format_: ScaledFormat, scale: tuple[int, ...], grouped: tuple[int, ...]
) -> None:
    weight = np.arange(np.prod(shape)).reshape(shape)
    assert scale_shape(format_, shape, axis) == scale
    assert is_scale_shape(scale, format_, shape, axis)
    assert groups(weight, format_, axis).shape == grouped
    numbers = np.arange(max(1, int(np.prod(scale)))).reshape(scale)
    own = spread(numbers, format_, shape)
    assert own.shape == shape
    assert np.array_equal(facing(weight, format_, scale) * numbers, facing(weight * own, format_, scale))
    # whoever has one number is a group, and groups come in the order of the numbers
    rows = groups(own, format_, axis).swapaxes(1, 2).reshape(numbers.size, -1)
    assert np.array_equal(rows, np.broadcast_to(np.arange(numbers.size)[:, None], rows.shape))


def test_what_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(48, 4\) does not divide into blocks of 32"):
        scale_shape(BLOCK, (48, 4), 1)
    assert not is_scale_shape((2, 1, 4), BLOCK, (48, 4), 1)
    assert not is_scale_shape((1, 1), CHANNEL, (4, 5), 0)
    with pytest.raises(ValueError, match="channel axis 2 is outside of a weight of shape"):
        groups(np.zeros((4, 5)), CHANNEL, 2)
    with pytest.raises(ValueError, match=r"channel axis \(0, 3\) is outside of a weight of shape"):
        groups(np.zeros((2, 4, 5)), CHANNEL, (0, 3))


def test_each_matrix_of_a_stack_is_folded_by_itself() -> None:
    assert fold(STACK, (0, 2)) == Fold(8, 128, 40)
    assert fold(STACK, (0, 1)) == Fold(1024, 40, 1)
    assert fold((3, *STACK), (0, 1, 2)) == Fold(3072, 40, 1)
