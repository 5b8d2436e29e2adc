"""Outputs that are picked from others: behind an ArgMax, a TopK or a NonMaxSuppression no small change is seen.

What is picked from is looked at instead: scores before they are sorted, boxes before most of them are dropped.
"""

from __future__ import annotations

from network.graph import Network
from network.onnx_graph import names_read

PICKING = frozenset({"ArgMax", "ArgMin", "TopK", "NonMaxSuppression", "NonZero", "Hardmax", "Compress", "Unique"})
# They only move, cut, compare or convert what was picked.
_MOVING = frozenset(
    {"Cast", "Concat", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "OneHot", "Pad"}
    | {"Reshape", "Shape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where"}
    | {"And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "Or"}
)


def picked_from(network: Network, output: str) -> tuple[str, ...]:
    """The values that an output is picked from, in the order in which they are made; () where nothing is picked.

    Walks back through operators that move values to those that pick, and from these on to what a computation makes.
    """
    if not _picks(network, output):
        return ()
    found: set[str] = set()
    seen: set[str] = set()
    waiting = [output]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        maker = network.makers.get(name)
        if maker is None:
            continue
        if maker.op_type in PICKING or maker.op_type in _MOVING:
            waiting += [read for read in names_read(maker) if read not in network.initializers]
        else:
            found.add(name)
    return tuple(name for name in network.makers if name in found)


def _picks(network: Network, output: str) -> bool:
    """Whether a picking operator lies behind the operators that make this output from computed values."""
    seen: set[str] = set()
    waiting = [output]
    while waiting:
        name = waiting.pop()
        maker = network.makers.get(name)
        if name in seen or maker is None:
            continue
        seen.add(name)
        if maker.op_type in PICKING:
            return True
        if maker.op_type in _MOVING:
            waiting += names_read(maker)
    return False
