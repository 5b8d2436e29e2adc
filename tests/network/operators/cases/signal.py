"""Fourier transforms, windows and mel filters."""

import numpy as np
from onnx import TensorProto

REAL, COMPLEX = (2, 5, 4, 1), (2, 5, 4, 2)


def length(number: int) -> np.ndarray:
    return np.array(number)


CASES = [
    *({"op": "DFT", "inputs": [x]} for x in (REAL, COMPLEX)),
    {"op": "DFT", "inputs": [REAL, None, np.array(1)], "attributes": {"onesided": 1}, "opset": 25},
    {"op": "DFT", "inputs": [COMPLEX, length(7), np.array(1)], "opset": 25},
    {"op": "DFT", "inputs": [COMPLEX, length(3), np.array(-3)], "attributes": {"inverse": 1}, "opset": 25},
    {"op": "DFT", "inputs": [REAL, length(4)], "attributes": {"axis": 2, "onesided": 1}, "opset": 17},
    {"op": "STFT", "inputs": [(2, 11, 1), length(3), None, length(4)], "opset": 17},
    {"op": "STFT", "inputs": [(2, 11, 1), length(2), (4,), length(4)], "attributes": {"onesided": 0}, "opset": 17},
    *(
        {"op": f"{name}Window", "inputs": [length(5)], "attributes": {"periodic": periodic}, "smooth": False}
        for name in ("Hann", "Hamming", "Blackman")
        for periodic in (0, 1)
    ),
    {
        "op": "HannWindow",
        "inputs": [length(4)],
        "attributes": {"output_datatype": TensorProto.FLOAT},
        "smooth": False,
    },
    {
        "op": "MelWeightMatrix",
        "inputs": [length(6), length(32), length(8000), np.float32(0), np.float32(4000)],
        "smooth": False,
    },
]
