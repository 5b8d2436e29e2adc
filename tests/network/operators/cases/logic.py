"""Comparisons, truth values, bits, Where."""

import numpy as np

M, J = np.array([[1, 2, 3], [3, 2, 1]]), np.array([1, 2, 2])
F = np.array([[1.0, 2.5, np.nan], [-np.inf, np.inf, 0.0]], dtype=np.float32)
P, Q = np.array([[True, False], [True, True]]), np.array([True, False])
U = np.array([1, 6, 255], dtype=np.uint8)

CASES = [
    *(
        {"op": op, "inputs": [x, y], "smooth": False}
        for op in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
        for x, y in ((M, J), ((2, 3), (3,)))
    ),
    {"op": "Equal", "inputs": [P, Q]},
    *({"op": op, "inputs": [P, Q]} for op in ("And", "Or", "Xor")),
    {"op": "Not", "inputs": [P]},
    {"op": "IsNaN", "inputs": [F], "smooth": False},
    {"op": "IsInf", "inputs": [F], "smooth": False},
    {"op": "IsInf", "inputs": [F], "attributes": {"detect_negative": 0}, "smooth": False},
    {"op": "IsInf", "inputs": [F], "attributes": {"detect_positive": 0}, "smooth": False},
    {"op": "Where", "inputs": [P, (2, 2), (2,)]},
    {"op": "Where", "inputs": [P, np.array([1, 2]), np.array(0)]},
    *({"op": op, "inputs": [U, np.uint8(3)]} for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")),
    {"op": "BitwiseNot", "inputs": [M]},
    {"op": "BitShift", "inputs": [U, np.uint8([1, 2, 3])], "attributes": {"direction": "LEFT"}},
    {"op": "BitShift", "inputs": [U, np.uint8([1, 2, 3])], "attributes": {"direction": "RIGHT"}},
]
