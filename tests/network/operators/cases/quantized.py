"""Codes, made and read; that gradients pass through codes is another test's."""

import numpy as np

X = (3, 4, 2)
SCALE, SCALES = np.float32(0.1), np.float32([0.1, 0.02, 0.3, 0.05])
ZERO, ZEROS = np.uint8(120), np.int8([-3, 0, 5, 100])
BLOCKS = np.float32(np.arange(1, 13).reshape(3, 2, 2) / 50)
RANDOM = np.random.default_rng(6)


def codes(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    limits = np.iinfo(dtype)
    return RANDOM.integers(limits.min, limits.max, shape, dtype)


CASES = [
    {"op": "QuantizeLinear", "inputs": [X, SCALE], "smooth": False},
    {"op": "QuantizeLinear", "inputs": [X, SCALE, ZERO], "smooth": False},
    {"op": "QuantizeLinear", "inputs": [X, SCALES, ZEROS], "smooth": False},
    {"op": "QuantizeLinear", "inputs": [X, SCALES[:2], ZEROS[:2]], "attributes": {"axis": -1}, "smooth": False},
    {"op": "QuantizeLinear", "inputs": [X, SCALE, np.uint16(30000)], "smooth": False, "opset": 25},
    {"op": "QuantizeLinear", "inputs": [X, BLOCKS], "attributes": {"block_size": 2}, "smooth": False, "opset": 25},
    {"op": "DequantizeLinear", "inputs": [codes(3, 4, 2), SCALE, ZERO]},
    {"op": "DequantizeLinear", "inputs": [codes(3, 4, 2, dtype=np.int8), SCALES, ZEROS]},
    {"op": "DequantizeLinear", "inputs": [codes(3, 4, 2, dtype=np.int32), SCALES]},
    {"op": "DequantizeLinear", "inputs": [codes(3, 4, 2), BLOCKS], "attributes": {"block_size": 2}, "opset": 25},
    {"op": "DynamicQuantizeLinear", "inputs": [X], "outputs": 3, "smooth": False},
    {"op": "DynamicQuantizeLinear", "inputs": [np.zeros((2, 3), np.float32)], "outputs": 3, "smooth": False},
    {"op": "MatMulInteger", "inputs": [codes(2, 3, 4), codes(4, 5)]},
    {"op": "MatMulInteger", "inputs": [codes(3, 4), codes(4, 5, dtype=np.int8), ZERO, np.int8(7)]},
    {"op": "MatMulInteger", "inputs": [codes(3, 4), codes(4, 5, dtype=np.int8), ZERO, codes(5, dtype=np.int8)]},
    {"op": "ConvInteger", "inputs": [codes(1, 2, 4, 5), codes(3, 2, 2, 2), ZERO, np.uint8(3)]},
    {
        "op": "ConvInteger",
        "inputs": [codes(1, 2, 4, 5), codes(3, 2, 2, 2), ZERO],
        "attributes": {"pads": [1, 1, 1, 1]},
    },
    {
        "op": "QLinearMatMul",
        "inputs": [codes(3, 4), SCALE, ZERO, codes(4, 5), np.float32(0.02), ZERO, np.float32(2), np.uint8(100)],
        "smooth": False,
    },
    {
        "op": "QLinearConv",
        "inputs": [
            codes(1, 2, 4, 5),
            SCALE,
            ZERO,
            codes(3, 2, 2, 2, dtype=np.int8) // 2,  # kernels of some processors saturate sums of larger products
            SCALES[:3],
            np.zeros(3, np.int8),
            np.float32(4),
            np.uint8(100),
            codes(3, dtype=np.int8).astype(np.int32) * 100,
        ],
        "attributes": {"pads": [1, 0, 0, 1]},
        "smooth": False,
    },
]
