"""LSTM, GRU and RNN: X of 4 steps, 3 samples and 2 inputs; 3 hidden units."""

from __future__ import annotations

from typing import Any

import numpy as np

STEPS, SAMPLES, INPUTS, HIDDEN = 4, 3, 2, 3
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
LENGTHS = np.array([4, 1, 2], dtype=np.int32)


def case(
    op: str, direction: str = "forward", *, bias: bool = True, states: bool = False, lengths: Any = None, **more: Any
) -> dict[str, Any]:
    directions, rows = 1 + (direction == "bidirectional"), GATES[op] * HIDDEN
    inputs: list[Any] = [(STEPS, SAMPLES, INPUTS), (directions, rows, INPUTS), (directions, rows, HIDDEN)]
    inputs += [(directions, 2 * rows) if bias else None, lengths]
    initial = (directions, SAMPLES, HIDDEN) if states else None
    inputs += [initial, initial] if op == "LSTM" else [initial]
    if more.pop("peepholes", False):
        inputs.append((directions, 3 * HIDDEN))
    smooth = "Relu" not in more.get("activations", ())
    attributes = {"hidden_size": HIDDEN, "direction": direction, **more}
    return {"op": op, "inputs": inputs, "attributes": attributes, "outputs": 2 + (op == "LSTM"), "smooth": smooth}


CASES = [
    *(case(op, direction) for op in GATES for direction in ("forward", "reverse", "bidirectional")),
    *(case(op, "bidirectional", states=True, bias=False) for op in GATES),
    *(case(op, "bidirectional", states=True, lengths=LENGTHS) for op in GATES),
    case("GRU", "reverse", linear_before_reset=1, states=True),
    case("GRU", "bidirectional", linear_before_reset=1, lengths=LENGTHS),
    case("LSTM", "bidirectional", peepholes=True, states=True),
    case("LSTM", activations=["Sigmoid", "Tanh", "Sigmoid"]),
    case("GRU", "bidirectional", activations=["Sigmoid", "Tanh", "Tanh", "Sigmoid"]),
    case("RNN", activations=["Relu"]),
]
