"""A: interactions measured pair by pair, `I_ij = L(ij) - L(i) - L(j) + L(0)`, as CLADO (Deng et al., arXiv 2307.05657).

Of a quadratic loss `I_ij = d_i' H d_j` without error; else it also holds what lies beyond second order. K candidates
take `K (K + 1) / 2` passes over the samples: this is an oracle for small cases. Our losses have the float outputs as
their reference, so `L(0) = 0`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from network.graph import Network
from sensitivity.estimate import Change
from sensitivity.loss import Loss
from sensitivity.plan_losses import MeasuredPlans
from tests.oracles.interactions.matrix import Interactions


def pairs(
    network: Network,
    changes: Sequence[Change],
    inputs: Mapping[str, NDArray[np.generic]],
    loss: Loss,
    *,
    threads: int = 1,
    batch: int = 64,
    check: Callable[[float], None] = lambda _fraction: None,
) -> Interactions:
    """`I_ij` of all candidates of different sites, and `2 L(i)` on the diagonal.

    Two candidates of one site have 0: they are never made together. Standard errors are over samples. `check` is
    called after every row with the fraction done; the other arguments are those of `MeasuredPlans`.
    """
    measured = MeasuredPlans(network, changes, inputs, loss, threads=threads, batch=batch)
    alone = [measured.losses([place]) for place in range(len(changes))]
    samples = len(alone[0])
    matrix, stderr = np.zeros((2, len(changes), len(changes)))

    def enter(i: int, j: int, values: NDArray[np.float64]) -> None:
        matrix[i, j] = matrix[j, i] = values.mean()
        stderr[i, j] = stderr[j, i] = values.std(ddof=1) / np.sqrt(samples)

    for place, values in enumerate(alone):
        enter(place, place, 2 * values)
    for done, (i, j) in enumerate(combinations(range(len(changes)), 2), start=1):
        if changes[i].site != changes[j].site:
            enter(i, j, measured.losses([i, j]) - alone[i] - alone[j])
        check(2 * done / (len(changes) * (len(changes) - 1)))
    return Interactions(matrix, stderr, samples)
