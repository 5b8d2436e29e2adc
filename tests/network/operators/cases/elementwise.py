"""Functions of one tensor, each on an interval inside its domain."""

import numpy as np


def between(low: float, high: float) -> np.ndarray:
    return np.random.default_rng(2).uniform(low, high, (3, 4)).astype(np.float32)


INSIDE = {"Acos": (-0.9, 0.9), "Asin": (-0.9, 0.9), "Atanh": (-0.9, 0.9), "Acosh": (1.2, 3.0), "Tan": (-1.0, 1.0)}
POSITIVE = {"Log": (0.1, 3.0), "Sqrt": (0.1, 3.0), "Reciprocal": (0.3, 3.0)}
WHOLE_LINE = ("Abs", "Asinh", "Atan", "Cos", "Cosh", "Erf", "Exp", "Neg", "Sin", "Sinh")
STEPS = np.array([-2.5, -1.5, -0.5, -0.2, 0.0, 0.3, 0.5, 1.5, 2.5, 7.0], dtype=np.float32)

CASES = [
    *({"op": op, "inputs": [between(*interval)]} for op, interval in (INSIDE | POSITIVE).items()),
    *({"op": op, "inputs": [(3, 4)]} for op in WHOLE_LINE),
    *({"op": op, "inputs": [STEPS], "smooth": False} for op in ("Ceil", "Floor", "Round", "Sign")),
    *({"op": op, "inputs": [np.array([-3, 0, 5])]} for op in ("Abs", "Neg", "Sign")),
]
