import numpy as np
import pytest

from quantization.formats import Granularity, IntegerFormat
from quantization.storage.weights import IntegerWeight

INT3 = IntegerFormat(3)
CODES = np.array([[-4, 3, 0], [1, 2, -1]], dtype=np.int8)
SCALE = np.array([[0.5], [-0.25]], dtype=np.float32)


def test_dequantizes_with_one_rounding() -> None:
    scale = np.array([[0.1], [-1 / 3]], dtype=np.float32)
    weight = IntegerWeight(INT3, CODES, scale)
    exact = (CODES * scale.astype(np.float64)).astype(np.float32)
    assert weight.dequantize().dtype == np.float32
    assert np.array_equal(weight.dequantize(), exact)
    assert weight.shape == (2, 3)


def test_one_scale_per_tensor() -> None:
    weight = IntegerWeight(IntegerFormat(3, Granularity.TENSOR), CODES, np.array(2, dtype=np.float32))
    assert np.array_equal(weight.dequantize(), CODES.astype(np.float32) * 2)


@pytest.mark.parametrize(
    ("format_", "codes", "scale", "message"),
    [
        (INT3, CODES.astype(np.int16), SCALE, "must be int8"),
        (INT3, CODES, SCALE.astype(np.float64), "scale float32"),
        (INT3, CODES + np.int8(1), SCALE, r"codes -4 to 3, got -3 to 4"),
        (INT3, CODES, np.zeros((2, 1), np.float32), "other than 0"),
        (INT3, CODES, np.full((2, 1), np.nan, np.float32), "finite"),
        (INT3, CODES, np.ones((3, 1), np.float32), "is not that of int3/channel"),
        (INT3, CODES, np.ones((2, 3), np.float32), "is not that of int3/channel"),
        (INT3, CODES, np.ones(3, np.float32), "is not that of int3/channel"),
        (INT3, CODES, np.ones((1, 1), np.float32), "is not that of int3/channel"),
        (IntegerFormat(3, Granularity.TENSOR), CODES, SCALE, "is not that of int3/tensor"),
    ],
)
def test_refuses_what_is_no_weight(format_: IntegerFormat, codes, scale, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IntegerWeight(format_, codes, scale)
