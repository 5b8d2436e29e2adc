"""Pooling."""

import numpy as np

X1, X2, X3 = (2, 3, 9), (1, 2, 7, 6), (1, 2, 4, 5, 4)
K3, K2 = {"kernel_shape": [3, 3]}, {"kernel_shape": [2, 2]}

PLACES = np.array([[[[0, 3], [9, 14]]]])

WINDOWS = [
    (X1, {"kernel_shape": [3]}),
    (X1, {"kernel_shape": [2], "strides": [2], "pads": [0, 1]}),
    (X1, {"kernel_shape": [2], "strides": [3], "ceil_mode": 1}),
    (X2, K3),
    (X2, K2 | {"strides": [2, 2]}),
    (X2, K3 | {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    (X2, K3 | {"strides": [2, 1], "pads": [0, 1, 2, 0]}),
    (X2, K3 | {"pads": [2, 2, 2, 2]}),
    (X2, K2 | {"strides": [2, 2], "ceil_mode": 1}),
    (X2, K3 | {"strides": [2, 2], "pads": [1, 0, 1, 0], "ceil_mode": 1}),
    (X2, K2 | {"strides": [3, 3], "pads": [1, 1, 1, 1], "ceil_mode": 1}),
    (X2, K2 | {"dilations": [2, 3], "strides": [1, 2]}),
    (X2, K3 | {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    (X2, K2 | {"auto_pad": "SAME_LOWER"}),
    (X2, K2 | {"auto_pad": "VALID", "strides": [2, 2]}),
    (X3, {"kernel_shape": [2, 3, 2], "pads": [1, 1, 0, 1, 1, 0]}),
    (X3, {"kernel_shape": [2, 2, 2], "strides": [2, 2, 2], "ceil_mode": 1}),
]

CASES = [
    *({"op": op, "inputs": [x], "attributes": a} for op in ("MaxPool", "AveragePool", "LpPool") for x, a in WINDOWS),
    *({"op": "AveragePool", "inputs": [x], "attributes": a | {"count_include_pad": 1}} for x, a in WINDOWS),
    {"op": "LpPool", "inputs": [X2], "attributes": K2 | {"p": 3}},
    *({"op": op, "inputs": [X2], "attributes": K2, "opset": 13} for op in ("MaxPool", "AveragePool")),
    *(
        {"op": op, "inputs": [x], "opset": opset}
        # ONNX Runtime has no kernel for the newest GlobalLpPool
        for op, opset in (("GlobalAveragePool", 25), ("GlobalMaxPool", 25), ("GlobalLpPool", 21))
        for x in (X1, X2, X3)
    ),
    {"op": "GlobalLpPool", "inputs": [X2], "attributes": {"p": 3}, "opset": 21},
    *({"op": "MaxPool", "inputs": [x], "attributes": a, "outputs": 2} for x, a in WINDOWS),
    {"op": "MaxPool", "inputs": [X2], "attributes": K3 | {"pads": [1, 0, 1, 0], "storage_order": 1}, "outputs": 2},
    {"op": "MaxUnpool", "inputs": [(1, 1, 2, 2), PLACES], "attributes": K2 | {"strides": [2, 2]}},
    {
        "op": "MaxUnpool",
        "inputs": [(1, 1, 2, 2), PLACES, np.array([1, 1, 5, 5])],
        "attributes": K2 | {"strides": [2, 2]},
    },
]
