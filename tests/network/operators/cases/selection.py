"""Elements that values choose."""

import numpy as np

RANDOM = np.random.default_rng(7)
CORNERS = RANDOM.uniform(0, 4, (2, 12, 4)).astype(np.float32)
SCORES = RANDOM.random((2, 3, 12)).astype(np.float32)
LIMITS = [np.array([4]), np.float32([0.2]), np.float32([0.3])]
REPEATED = np.float32([[2, 1, 1], [3, 2, 0], [2, 1, 1]])
COUNTED = {"outputs": 4, "smooth": False}

CASES = [
    {"op": "NonMaxSuppression", "inputs": [CORNERS, SCORES, *LIMITS], "smooth": False},
    {"op": "NonMaxSuppression", "inputs": [CORNERS, SCORES, *LIMITS[:2]], "smooth": False},
    {"op": "NonMaxSuppression", "inputs": [CORNERS, SCORES, LIMITS[0]], "smooth": False},
    {"op": "NonMaxSuppression", "inputs": [CORNERS, SCORES], "smooth": False},
    {
        "op": "NonMaxSuppression",
        "inputs": [CORNERS, SCORES, *LIMITS],
        "attributes": {"center_point_box": 1},
        "smooth": False,
    },
    {"op": "Unique", "inputs": [REPEATED], **COUNTED},
    {"op": "Unique", "inputs": [REPEATED], "attributes": {"sorted": 0}, **COUNTED},
    *({"op": "Unique", "inputs": [REPEATED], "attributes": {"axis": axis}, **COUNTED} for axis in (0, 1, -1)),
    {"op": "Unique", "inputs": [REPEATED], "attributes": {"axis": 0, "sorted": 0}, **COUNTED},
    {"op": "Unique", "inputs": [(3, 4)]},
    {"op": "Compress", "inputs": [(3, 4), np.array([True, False, True])], "attributes": {"axis": 0}},
    {"op": "Compress", "inputs": [(3, 4), np.array([False, True])], "attributes": {"axis": -1}},
    {"op": "Compress", "inputs": [(3, 4), np.array([False, True, True, False, True])]},
    {"op": "Compress", "inputs": [(3, 4), np.array([False, False])], "attributes": {"axis": 0}, "smooth": False},
]
