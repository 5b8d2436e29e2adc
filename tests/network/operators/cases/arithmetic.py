"""Arithmetic of several tensors, broadcast; Clip."""

import numpy as np

A, B = (2, 3, 4), (3, 1)
POSITIVE = np.random.default_rng(1).uniform(0.5, 2.0, (2, 3)).astype(np.float32)
M, J = np.array([[7, -7, 5], [0, -1, 9]]), np.array([2, 3, -4])
I32 = M.astype(np.int32)
HALF, TWO, THREE = (np.array(number, dtype=np.float32) for number in (0.5, 2.0, 3.0))

CASES = [
    *({"op": op, "inputs": [A, B]} for op in ("Add", "Sub", "Mul")),
    *({"op": op, "inputs": [A, B], "opset": 13} for op in ("Add", "Sub", "Mul")),
    *({"op": op, "inputs": [M, J]} for op in ("Add", "Sub", "Mul", "Div", "Min", "Max", "Mod")),
    {"op": "Div", "inputs": [(2, 3), POSITIVE]},
    {"op": "Div", "inputs": [I32, J.astype(np.int32)]},
    {"op": "Mod", "inputs": [M, J], "attributes": {"fmod": 1}},
    {"op": "Mod", "inputs": [(2, 3), POSITIVE], "attributes": {"fmod": 1}},
    {"op": "Pow", "inputs": [POSITIVE, (2, 3)]},
    {"op": "Pow", "inputs": [(2, 3), TWO], "constant": [1]},
    {"op": "Pow", "inputs": [(2, 3), THREE.reshape(1)], "constant": [1]},
    {"op": "Pow", "inputs": [POSITIVE, HALF]},
    {"op": "Pow", "inputs": [POSITIVE, HALF], "constant": [1]},
    {"op": "Pow", "inputs": [(2, 3), np.array(3)]},
    {"op": "Pow", "inputs": [(3,), np.array([[[2]]])]},
    {"op": "Pow", "inputs": [M, TWO], "smooth": False},
    {"op": "Pow", "inputs": [M, np.array(2)]},
    {"op": "Pow", "inputs": [POSITIVE, np.array([1, 2, 3], dtype=np.int32)]},
    *({"op": op, "inputs": [A, B, (4,)]} for op in ("Min", "Max", "Sum", "Mean")),
    *({"op": op, "inputs": [A]} for op in ("Min", "Max", "Sum", "Mean")),
    {"op": "Clip", "inputs": [A, -HALF, HALF]},
    {"op": "Clip", "inputs": [A, -HALF, HALF], "constant": [1, 2]},
    {"op": "Clip", "inputs": [A, -HALF, HALF], "constant": [1]},
    {"op": "Clip", "inputs": [A, None, HALF]},
    {"op": "Clip", "inputs": [A, -HALF]},
    {"op": "Clip", "inputs": [A]},
    {"op": "Clip", "inputs": [M, np.array(-2), np.array(4)]},
    {"op": "Clip", "inputs": [A], "attributes": {"min": 0.0, "max": 6.0}, "opset": 6},
    *(
        {"op": op, "inputs": [np.array([7, 200, 3], dtype), np.array([2, 9, 250], dtype)]}
        for op in ("Add", "Sub", "Mul", "Div", "Mod", "Min", "Max")
        for dtype in (np.uint32, np.uint64)
    ),
]
