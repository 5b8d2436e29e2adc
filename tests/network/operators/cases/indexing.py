"""Elements chosen or replaced by index."""

import numpy as np

X = (3, 4, 2)
I32 = np.array([[0, 2], [-1, 1]], dtype=np.int32)
REDUCTIONS = [{}, *({"reduction": name} for name in ("add", "mul", "max", "min"))]

CASES = [
    {"op": "TensorScatter", "inputs": [(2, 3, 6, 4), (2, 3, 2, 4), np.array([1, 4])]},
    {"op": "TensorScatter", "inputs": [(2, 6, 4), (2, 2, 4)], "attributes": {"axis": 1}},
    {
        "op": "TensorScatter",
        "inputs": [(2, 6, 4), (2, 3, 4), np.array([1, 5])],
        "attributes": {"axis": -2, "mode": "circular"},
    },
    {"op": "Gather", "inputs": [X, np.array([[0, 2], [1, -1]])]},
    {"op": "Gather", "inputs": [X, np.array([3, 3, 0])], "attributes": {"axis": 1}},
    {"op": "Gather", "inputs": [X, np.array(-1)], "attributes": {"axis": 2}},
    {"op": "Gather", "inputs": [np.array([5, 6, 7]), np.array(1)]},
    {"op": "Gather", "inputs": [X, I32], "attributes": {"axis": -1 + 1}},
    {"op": "GatherElements", "inputs": [X, np.array([[[0, 1]], [[-1, 2]]])], "attributes": {"axis": 0}},
    {"op": "GatherElements", "inputs": [(2, 3), I32], "attributes": {"axis": 1}},
    {"op": "GatherND", "inputs": [X, np.array([[0, 1], [2, -1]])]},
    {"op": "GatherND", "inputs": [X, np.array([[[0, 1, 1]], [[2, 3, 0]]])]},
    {"op": "GatherND", "inputs": [X, np.array([[1], [0], [-1]])], "attributes": {"batch_dims": 1}},
    {"op": "GatherND", "inputs": [(2, 2, 3), np.array([[[0], [2]], [[1], [1]]])], "attributes": {"batch_dims": 2}},
    *(
        case
        for attributes in REDUCTIONS
        for case in (
            {
                "op": "ScatterElements",
                "inputs": [(3, 3), np.array([[1, 0, 2], [0, -1, 1]]), (2, 3)],
                "attributes": attributes,
                "smooth": attributes.get("reduction") != "mul",
            },
            {
                "op": "ScatterND",
                "inputs": [X, np.array([[0], [-1]]), (2, 4, 2)],
                "attributes": attributes,
                "smooth": attributes.get("reduction") != "mul",
            },
            {
                "op": "ScatterND",
                "inputs": [X, np.array([[0, 1, 1], [2, -1, 0]]), (2,)],
                "attributes": attributes,
                "smooth": attributes.get("reduction") != "mul",
            },
        )
    ),
    {"op": "ScatterElements", "inputs": [(1, 5), np.array([[1, 3]]), (1, 2)], "attributes": {"axis": 1}, "opset": 13},
    {
        "op": "ScatterElements",
        "inputs": [(1, 5), np.array([[1, 1]]), (1, 2)],
        "attributes": {"axis": 1, "reduction": "add"},
    },
    {"op": "ScatterND", "inputs": [(5,), np.array([[1], [1]]), (2,)], "attributes": {"reduction": "add"}},
    {"op": "OneHot", "inputs": [np.array([0, 2, -1, 7]), np.array(3), (2,)]},
    {"op": "OneHot", "inputs": [np.array([[0, 2]]), np.array([3]), np.array([5, 6])], "attributes": {"axis": 0}},
    {"op": "NonZero", "inputs": [np.array([[1, 0, 2], [0, 3, 0]])]},
]
