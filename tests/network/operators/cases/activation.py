"""Activation functions."""

import numpy as np

X = (3, 4)
WIDE = np.array([-50.0, -21.0, -4.0, -3.1, -2.0, -0.7, 0.1, 2.0, 2.9, 3.5, 21.0, 50.0], dtype=np.float32)
PLAIN = ("Relu", "LeakyRelu", "ThresholdedRelu", "Elu", "Selu", "Celu", "Sigmoid", "HardSigmoid", "HardSwish")
SMOOTH = ("Tanh", "Softplus", "Softsign", "Gelu", "Mish")

CASES = [
    *({"op": op, "inputs": [X]} for op in (*PLAIN, *SMOOTH, "Shrink")),
    *({"op": op, "inputs": [WIDE]} for op in (*PLAIN, *SMOOTH)),
    {"op": "Relu", "inputs": [np.array([-1, 2], dtype=np.int32)]},
    {"op": "LeakyRelu", "inputs": [X], "attributes": {"alpha": 0.2}},
    {"op": "PRelu", "inputs": [(2, 3, 4), (3, 1)]},
    {"op": "PRelu", "inputs": [(2, 3, 4), (1,)]},
    {"op": "ThresholdedRelu", "inputs": [X], "attributes": {"alpha": 0.3}},
    {"op": "Elu", "inputs": [X], "attributes": {"alpha": 2.0}},
    {"op": "Selu", "inputs": [X], "attributes": {"alpha": 1.5, "gamma": 0.7}},
    {"op": "Celu", "inputs": [X], "attributes": {"alpha": 2.0}},
    {"op": "HardSigmoid", "inputs": [X], "attributes": {"alpha": 0.5, "beta": 0.3}},
    {"op": "Gelu", "inputs": [X], "attributes": {"approximate": "tanh"}},
    # ONNX Runtime inlines the function that defines Swish up to opset 24 only
    {"op": "Swish", "inputs": [X], "opset": 24},
    {"op": "Swish", "inputs": [WIDE], "opset": 24},
    {"op": "Swish", "inputs": [X], "attributes": {"alpha": 1.7}, "opset": 24},
    {"op": "Shrink", "inputs": [X], "attributes": {"lambd": 0.8, "bias": 0.3}},
    {"op": "Softmax", "inputs": [(2, 3, 4)]},
    {"op": "Softmax", "inputs": [(2, 3, 4)], "attributes": {"axis": 1}, "opset": 13},
    {"op": "LogSoftmax", "inputs": [(2, 3, 4)]},
    {"op": "LogSoftmax", "inputs": [(2, 3, 4)], "attributes": {"axis": 0}},
    {"op": "Hardmax", "inputs": [(2, 3, 4)], "smooth": False},
    {"op": "Hardmax", "inputs": [(2, 3, 4)], "attributes": {"axis": 1}, "smooth": False},
]
