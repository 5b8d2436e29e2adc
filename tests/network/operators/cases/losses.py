"""Losses over classes."""

import numpy as np

X, TARGET = (3, 5, 2), np.array([[0, 4], [2, 2], [3, 1]])
WEIGHT = np.float32([0.5, 1.0, 2.0, 0.1, 0.7])

CASES = [
    {"op": op, "inputs": [X, TARGET, *weights], "attributes": {"reduction": reduction} | ignored, "constant": [2]}
    for op in ("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss")
    for weights in ((), (WEIGHT,))
    for reduction in ("mean", "sum", "none")
    for ignored in ({}, {"ignore_index": 2})
] + [{"op": "SoftmaxCrossEntropyLoss", "inputs": [X, TARGET], "outputs": 2}]
