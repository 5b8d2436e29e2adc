"""Reductions, positions of extremes, cumulative sums, TopK."""

import numpy as np

X = (2, 3, 4)
M = np.array([[3, 1, 3, 2], [5, 5, 0, 5]])
I32 = M.astype(np.int32)
TIES = M.astype(np.float32)
POSITIVE = np.random.default_rng(1).uniform(0.5, 2.0, X).astype(np.float32)
REDUCTIONS = [f"Reduce{name}" for name in ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSumExp")]


def axes(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


CASES = [
    *(
        case
        for op in [*REDUCTIONS, "ReduceLogSum"]
        for data in [POSITIVE if op == "ReduceLogSum" else X]
        for case in (
            {"op": op, "inputs": [data]},
            {"op": op, "inputs": [data, axes(1)]},
            {"op": op, "inputs": [data, axes(-1, 0)], "attributes": {"keepdims": 0}},
            {"op": op, "inputs": [data], "attributes": {"noop_with_empty_axes": 1}},
            {"op": op, "inputs": [data, axes()]},
        )
    ),
    *(
        {"op": op, "inputs": [X], "attributes": {"axes": [1, 2], "keepdims": 0}, "opset": 13}
        for op in REDUCTIONS
        if op != "ReduceSum"
    ),
    *({"op": f"Reduce{op}", "inputs": [I32, axes(1)]} for op in ("Sum", "Mean", "Max", "Min", "Prod")),
    *(
        {"op": op, "inputs": [x], "attributes": a, "smooth": False}
        for op in ("ArgMax", "ArgMin")
        for x in (TIES, M)
        for a in ({}, {"axis": 1, "keepdims": 0}, {"axis": -1, "select_last_index": 1})
    ),
    *(
        {"op": "CumSum", "inputs": [X, np.array(1)], "attributes": {"exclusive": exclusive, "reverse": reverse}}
        for exclusive in (0, 1)
        for reverse in (0, 1)
    ),
    {"op": "CumSum", "inputs": [I32, np.array(-1)]},
    {"op": "TopK", "inputs": [X, axes(2)], "outputs": 2},
    {"op": "TopK", "inputs": [X, axes(2)], "attributes": {"axis": 1, "largest": 0}, "outputs": 2},
    {"op": "TopK", "inputs": [TIES, axes(3)], "outputs": 2, "smooth": False},
    {"op": "TopK", "inputs": [TIES, axes(3)], "attributes": {"largest": 0}, "outputs": 2, "smooth": False},
    *(
        {"op": op, "inputs": [np.zeros((2, 0, 3), dtype), np.array([1])], "smooth": False}
        for op in ("ReduceMax", "ReduceMin")
        for dtype in (np.float32, np.int32)
    ),
]
