"""Work in parts: whoever calls may find them stored, or share them out among processes that do the same work.

A function that takes a `Spread` gives it the names of all parts, each of which says all that its part depends on beside
the function's other arguments, and what computes the part at a place. It may be called for some places only, in any
order, and gives the same bytes wherever and whenever it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from network.graph import Network

Part = Mapping[str, NDArray[np.generic]]

# multiply-accumulates of a part that is worth to be stored by itself: some tenths of a second
LEAST_MACS = 1e9
# of a forward and a backward pass, in forward passes
BACKWARD_PASSES = 3


def worth(network: Network, samples: float) -> float:
    """How many parts are worth to be made of so many samples in forward passes; may be below 1."""
    return sum(site.macs for site in network.sites) * samples / LEAST_MACS


class Spread(Protocol):
    """Gives all parts in order.

    `ahead` are the parts behind the one that is asked for that may be computed before it is known whether they are
    needed; None for all.
    """

    def __call__(
        self, names: Sequence[str], compute: Callable[[int], Part], ahead: int | None = None
    ) -> Iterable[Part]: ...


def in_order(names: Sequence[str], compute: Callable[[int], Part], ahead: int | None = None) -> Iterable[Part]:  # noqa: ARG001
    """Every part is computed when it is asked for."""
    return map(compute, range(len(names)))
