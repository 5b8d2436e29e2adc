"""Constants, shapes as tensors, ranges, element types."""

import numpy as np
from onnx import TensorProto, numpy_helper

X = (2, 3, 4)
F = np.array([-2.7, -0.2, 0.0, 0.6, 3.0], dtype=np.float32)

CASES = [
    {"op": "Constant", "inputs": [], "attributes": {"value": numpy_helper.from_array(F)}},
    {"op": "Constant", "inputs": [], "attributes": {"value": numpy_helper.from_array(np.array([1, 2]))}},
    {"op": "Constant", "inputs": [], "attributes": {"value_float": 1.5}},
    {"op": "Constant", "inputs": [], "attributes": {"value_floats": [1.5, 2.5]}},
    {"op": "Constant", "inputs": [], "attributes": {"value_int": 3}},
    {"op": "Constant", "inputs": [], "attributes": {"value_ints": [3, 4]}},
    {"op": "ConstantOfShape", "inputs": [np.array([2, 3])], "smooth": False},
    {
        "op": "ConstantOfShape",
        "inputs": [np.array([2, 3])],
        "attributes": {"value": numpy_helper.from_array(np.array([7], dtype=np.int32))},
    },
    {"op": "Range", "inputs": [np.array(1), np.array(10), np.array(3)]},
    {"op": "Range", "inputs": [np.array(5), np.array(0), np.array(-2)]},
    {"op": "Range", "inputs": [np.float32(0), np.float32(1), np.float32(0.25)], "smooth": False},
    {"op": "Shape", "inputs": [X], "smooth": False},
    {"op": "Shape", "inputs": [X], "attributes": {"start": 1, "end": -1}, "smooth": False},
    {"op": "Size", "inputs": [X], "smooth": False},
    {"op": "Cast", "inputs": [F], "attributes": {"to": TensorProto.INT64}, "smooth": False},
    {"op": "Cast", "inputs": [F], "attributes": {"to": TensorProto.BOOL}, "smooth": False},
    {"op": "Cast", "inputs": [F], "attributes": {"to": TensorProto.FLOAT}},
    {"op": "Cast", "inputs": [np.array([-1, 5])], "attributes": {"to": TensorProto.FLOAT}},
    {"op": "Cast", "inputs": [np.array([True, False])], "attributes": {"to": TensorProto.INT32}},
    {"op": "CastLike", "inputs": [F, np.array([1])], "smooth": False},
    {"op": "CastLike", "inputs": [np.array([1, 2]), F], "smooth": False},
    {"op": "Identity", "inputs": [X]},
    {"op": "Dropout", "inputs": [X]},
    {"op": "Dropout", "inputs": [X, np.float32(0.3), np.array(False)], "constant": [1]},
    {"op": "Dropout", "inputs": [X], "attributes": {"ratio": 0.3}, "opset": 10},
    {"op": "EyeLike", "inputs": [(3, 4)], "smooth": False},
    {"op": "EyeLike", "inputs": [(3, 4)], "attributes": {"k": -1, "dtype": TensorProto.INT64}, "smooth": False},
]
