"""Normalisation."""

import numpy as np

X = (2, 4, 3, 3)
C = (4,)
VARIANCE = np.array([0.5, 1.0, 2.0, 0.1], dtype=np.float32)
ZERO_ROW = np.array([[0.0, 0.0, 0.0], [3.0, -4.0, 1.0]], dtype=np.float32)

CASES = [
    {"op": "BatchNormalization", "inputs": [X, C, C, C, VARIANCE]},
    {"op": "BatchNormalization", "inputs": [(3, 4), C, C, C, VARIANCE], "attributes": {"epsilon": 0.01}, "opset": 13},
    {"op": "BatchNormalization", "inputs": [(2, 4, 5), C, C, C, VARIANCE]},
    {"op": "LayerNormalization", "inputs": [(2, 3, 4), (4,), (4,)]},
    {"op": "LayerNormalization", "inputs": [(2, 3, 4), (4,)], "attributes": {"epsilon": 0.1}},
    {"op": "LayerNormalization", "inputs": [(2, 3, 4), (3, 4), (3, 4)], "attributes": {"axis": 1}, "opset": 17},
    {"op": "LayerNormalization", "inputs": [(2, 3, 4), (4,), (4,)], "attributes": {"axis": -2}},
    {"op": "LayerNormalization", "inputs": [(2, 3, 4), (4,), (4,)], "outputs": 3},
    {"op": "RMSNormalization", "inputs": [(2, 3, 4), (4,)]},
    {"op": "RMSNormalization", "inputs": [(2, 3, 4), (3, 4)], "attributes": {"axis": 1, "epsilon": 0.1}},
    {"op": "InstanceNormalization", "inputs": [X, C, C]},
    {"op": "InstanceNormalization", "inputs": [(2, 4, 5), C, C], "attributes": {"epsilon": 0.1}},
    {"op": "InstanceNormalization", "inputs": [(1, 4, 2, 3, 2), C, C]},
    {"op": "GroupNormalization", "inputs": [X, C, C], "attributes": {"num_groups": 2}},
    {"op": "GroupNormalization", "inputs": [X, C, C], "attributes": {"num_groups": 4, "epsilon": 0.1}},
    {"op": "GroupNormalization", "inputs": [X, (2,), (2,)], "attributes": {"num_groups": 2}, "opset": 18},
    {"op": "LpNormalization", "inputs": [(2, 3, 4)]},
    {"op": "LpNormalization", "inputs": [(2, 3, 4)], "attributes": {"p": 1, "axis": 1}},
    {"op": "LpNormalization", "inputs": [ZERO_ROW], "smooth": False},
    {"op": "LpNormalization", "inputs": [ZERO_ROW], "attributes": {"p": 1}, "smooth": False},
    {"op": "MeanVarianceNormalization", "inputs": [X]},
    {"op": "MeanVarianceNormalization", "inputs": [(2, 3, 4)], "attributes": {"axes": [0, 2]}},
    {"op": "LRN", "inputs": [X], "attributes": {"size": 3, "alpha": 0.5, "beta": 0.6, "bias": 2.0}},
    {"op": "LRN", "inputs": [X], "attributes": {"size": 5}},
]
