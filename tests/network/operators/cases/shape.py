"""The same elements in another shape."""

import numpy as np

X = (2, 3, 4)
INT_MIN, INT_MAX = np.iinfo(np.int64).min, np.iinfo(np.int64).max


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


def cut(starts: tuple, ends: tuple, axes: tuple | None = None, steps: tuple | None = None) -> dict:
    rest = [None if given is None else ints(*given) for given in (axes, steps)]
    return {"op": "Slice", "inputs": [X, ints(*starts), ints(*ends), *rest]}


CASES = [
    {"op": "Reshape", "inputs": [X, ints(4, -1)]},
    {"op": "Reshape", "inputs": [X, ints(0, 2, 0, -1)[[0, 3, 2]]]},
    {
        "op": "Reshape",
        "inputs": [np.zeros((0, 3), np.float32), ints(3, 0)],
        "attributes": {"allowzero": 1},
        "smooth": False,
    },
    *({"op": "Flatten", "inputs": [X], "attributes": {"axis": axis}} for axis in (0, 1, 2, 3, -1)),
    {"op": "Squeeze", "inputs": [(2, 1, 3, 1)]},
    {"op": "Squeeze", "inputs": [(2, 1, 3, 1), ints(-1)]},
    {"op": "Squeeze", "inputs": [(2, 1, 3, 1)], "attributes": {"axes": [1, 3]}, "opset": 11},
    {"op": "Unsqueeze", "inputs": [X, ints(0, -1)]},
    {"op": "Unsqueeze", "inputs": [X, ints(4, 1)]},
    {"op": "Unsqueeze", "inputs": [X], "attributes": {"axes": [2]}, "opset": 11},
    {"op": "Transpose", "inputs": [X]},
    {"op": "Transpose", "inputs": [X], "attributes": {"perm": [1, 0, 2]}},
    {"op": "Concat", "inputs": [(2, 3), (2, 1), (2, 2)], "attributes": {"axis": 1}},
    {"op": "Concat", "inputs": [ints(1, 2), ints(3)], "attributes": {"axis": -1}},
    {"op": "Split", "inputs": [(2, 6), ints(1, 2, 3)], "attributes": {"axis": 1}, "outputs": 3},
    {"op": "Split", "inputs": [(2, 7)], "attributes": {"axis": 1, "num_outputs": 3}, "outputs": 3},
    {"op": "Split", "inputs": [(6, 2)], "outputs": 2, "opset": 13},
    {"op": "Split", "inputs": [(5, 2)], "attributes": {"split": [2, 3]}, "outputs": 2, "opset": 11},
    cut((1,), (3,)),
    cut((0, 1), (2, INT_MAX)),
    cut((-2,), (-1,), (2,)),
    cut((0, 0), (INT_MAX, INT_MAX), (1, 2), (2, 3)),
    cut((3,), (0,), (2,), (-1,)),
    cut((-1, INT_MAX), (INT_MIN, INT_MIN), (1, 2), (-1, -2)),
    cut((-1,), (-3,), (-1,), (-1,)),
    {"op": "Slice", "inputs": [X], "attributes": {"starts": [1], "ends": [9], "axes": [1]}, "opset": 9},
    {"op": "Expand", "inputs": [(3, 1), ints(2, 1, 4)]},
    {"op": "Expand", "inputs": [X, ints(3, 1)]},
    {"op": "Expand", "inputs": [(1,), ints(3, 4)]},
    {"op": "Tile", "inputs": [(2, 3), ints(2, 1)]},
    {"op": "Tile", "inputs": [(2, 3), ints(1, 3)]},
    {"op": "Pad", "inputs": [X, ints(0, 1, 2, 1, 0, 3)]},
    {"op": "Pad", "inputs": [X, ints(0, 1, 2, 1, 0, 3), np.float32(1.5)], "constant": [2]},
    {"op": "Pad", "inputs": [X, ints(0, 1, -1, 1, -1, 3)]},
    {"op": "Pad", "inputs": [X, ints(1, 2), None, ints(-1)]},
    *(
        {"op": "Pad", "inputs": [X, ints(0, 2, 1, 0, 1, 3)], "attributes": {"mode": mode}}
        for mode in ("reflect", "edge", "wrap")
    ),
    {"op": "Pad", "inputs": [np.array([[1, 2], [3, 4]]), ints(1, 0, 0, 1), np.array(7)]},
    {"op": "Pad", "inputs": [X], "attributes": {"pads": [0, 1, 2, 1, 0, 3], "value": 0.5}, "opset": 10},
    {"op": "DepthToSpace", "inputs": [(1, 8, 2, 3)], "attributes": {"blocksize": 2}},
    {"op": "DepthToSpace", "inputs": [(1, 8, 2, 3)], "attributes": {"blocksize": 2, "mode": "CRD"}},
    {"op": "SpaceToDepth", "inputs": [(1, 2, 4, 6)], "attributes": {"blocksize": 2}},
    {"op": "Trilu", "inputs": [(2, 3, 4)]},
    {"op": "Trilu", "inputs": [(3, 4), np.array(1)], "attributes": {"upper": 0}},
    {"op": "Trilu", "inputs": [(3, 4), np.array(-1)]},
    *({"op": "CenterCropPad", "inputs": [(3, 4, 5), ints(*sizes)]} for sizes in ((5, 4, 2), (2, 7, 8), (3, 1, 4))),
    {"op": "CenterCropPad", "inputs": [(3, 4, 5), ints(2, 6)], "attributes": {"axes": [-1, 0]}},
    {"op": "ReverseSequence", "inputs": [(4, 3, 2), ints(4, 1, 2)]},
    {"op": "ReverseSequence", "inputs": [(3, 4), ints(4, 1, 2)], "attributes": {"time_axis": 1, "batch_axis": 0}},
    {
        "op": "Col2Im",
        "inputs": [(2, 2 * 6, 6), ints(4, 5), ints(2, 3)],
        "attributes": {"strides": [2, 1], "dilations": [1, 1]},
    },
    {
        "op": "Col2Im",
        "inputs": [(1, 4, 9), ints(4, 5), ints(2, 2)],
        "attributes": {"pads": [0, 1, 1, 0], "dilations": [2, 1], "strides": [1, 2]},
    },
    {"op": "Col2Im", "inputs": [(1, 2 * 4, 8), ints(3, 3, 2), ints(2, 2, 1)]},
    {"op": "SpaceToDepth", "inputs": [(1, 2, 4, 6)], "attributes": {"blocksize": 2}},
]
