"""Which matrices of a table the samples reach: another is rounded blindly, and nothing sees its damage."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from network.graph import Layer, Network
from network.onnx_graph import attributes


class Routing:
    """The entries that a Gather picks along its axis of `length`, over all batches."""

    def __init__(self, length: int) -> None:
        self._reached = np.zeros(length, dtype=np.bool_)

    @property
    def total(self) -> int:
        """How many entries there are."""
        return len(self._reached)

    @property
    def unreached(self) -> int:
        """How many of them no index has named."""
        return int((~self._reached).sum())

    def add(self, indices: NDArray[np.generic]) -> None:
        """Count integers from `-length` to `length - 1`, of any shape."""
        self._reached[indices.astype(np.int64).ravel()] = True


def unreached_note(unreached: int, total: int) -> str:
    """What the plan says of a weight of so many matrices; empty if samples reach them all."""
    return f"{unreached} of {total} matrices were reached by no calibration sample" if unreached else ""


def routed_by(network: Network, layer: Layer) -> tuple[str, int] | None:
    """The indices that pick a layer's matrices, and how many there are along their axis; None where none are picked."""
    if layer.op_type != "Gather" or not layer.stacked or layer.view:
        return None
    node = network.nodes[layer.name]
    return node.input[1], network.initializers[layer.weight].dims[attributes(node).get("axis", 0)]
