"""Which entries of a table the samples reach: another is rounded blindly, and nothing sees its damage.

An entry is a matrix of a stack, or a row: of a table of words, or of positions of which a sample takes as many as it is
long.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from network.graph import Network, Site
from network.onnx_graph import attributes, is_standard


@dataclass(frozen=True, slots=True)
class Pick:
    """A Gather or a Slice that takes entries along one axis: `operands` say which."""

    op_type: str
    axis: int
    operands: tuple[str, ...]


class Routing:
    """The entries that the nodes which read a weight pick along its axis of `length`, over all batches.

    Args:
        picks: all of one axis.
        length: of that axis.
        entries: what they are called.
        constants: the operands that are constants.
    """

    def __init__(
        self, picks: tuple[Pick, ...], length: int, entries: str, constants: Mapping[str, NDArray[np.generic]]
    ) -> None:
        self._picks = picks
        self._entries = entries
        self._constants = dict(constants)
        self._arrived: dict[str, NDArray[np.generic]] = {}
        self._reached = np.zeros(length, dtype=np.bool_)
        for pick in picks:
            if constants.keys() >= set(pick.operands):
                self._mark(pick)

    @property
    def operands(self) -> tuple[str, ...]:
        """The values that have to be seen."""
        names = dict.fromkeys(name for pick in self._picks for name in pick.operands)
        return tuple(name for name in names if name not in self._constants)

    def add(self, name: str, values: NDArray[np.generic]) -> None:
        """Count an operand of one batch: integers from `-length` to `length - 1`, or bounds of a Slice."""
        self._arrived[name] = values
        for pick in self._picks:
            if name in pick.operands and all(own in self._arrived or own in self._constants for own in pick.operands):
                self._mark(pick)
        if self._arrived.keys() >= set(self.operands):
            self._arrived = {}

    def note(self) -> str:
        """What the plan says of the weight; empty if samples reach all of it."""
        return unreached_note(int((~self._reached).sum()), len(self._reached), self._entries)

    def _mark(self, pick: Pick) -> None:
        values = [
            np.asarray(self._constants.get(name, self._arrived.get(name))).astype(np.int64).ravel()
            for name in pick.operands
        ]
        if pick.op_type == "Gather":
            self._reached[values[0]] = True
        else:
            start, end, *step = (int(own[0]) for own in values)
            backwards_to_the_first = bool(step) and step[0] < 0 and end < -len(self._reached)
            self._reached[slice(start, None if backwards_to_the_first else end, *step)] = True


def unreached_note(unreached: int, total: int, entries: str) -> str:
    """What the plan says of a weight of so many entries; empty if samples reach them all."""
    return f"{unreached} of {total} {entries} were reached by no calibration sample" if unreached else ""


def routing_of(network: Network, site: Site) -> Routing | None:
    """The entries of a weight that samples may reach; None where something reads it whole."""
    picks = [_pick(network, node, site) for node in network.readers.get(site.weight, ())]
    known = tuple(pick for pick in picks if pick is not None)
    if not known or len(known) < len(picks) or len({pick.axis for pick in known}) > 1:
        return None
    names = {name for pick in known for name in pick.operands} & network.initializers.keys()
    constants = {name: numpy_helper.to_array(network.initializers[name]) for name in names}
    is_stack = any(layer.stacked for layer in site.layers)
    return Routing(known, site.shape[known[0].axis], "matrices" if is_stack else "rows", constants)


def _pick(network: Network, node: onnx.NodeProto, site: Site) -> Pick | None:
    """What a node takes out of the weight; None where it takes all, or what is not known."""
    if not is_standard(node) or node.input[0] != site.weight or list(node.input).count(site.weight) > 1:
        return None
    if node.op_type == "Gather":
        return Pick("Gather", attributes(node).get("axis", 0) % len(site.shape), (node.input[1],))
    if node.op_type != "Slice" or len(node.input) < 4 or node.input[3] not in network.initializers:
        return None
    axes = numpy_helper.to_array(network.initializers[node.input[3]]).ravel()
    if len(axes) != 1:
        return None
    steps = [name for name in node.input[4:5] if name]
    return Pick("Slice", int(axes[0]) % len(site.shape), (node.input[1], node.input[2], *steps))
