"""C: what each candidate adds to the second-order damage of one plan, from one Hessian-vector product.

With d the errors of all candidates of the plan together, `s_i = 1/2 d_i' (H d)_i = 1/2 sum_j c_ij` is half the i-th row
sum of the interactions within the plan (see `tests.oracles.interactions.products`), and `sum_i s_i = 1/2 d' H d`: own
damage and half of every interaction. A share is negative where a candidate undoes what others do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sensitivity.estimate import Subject
from sensitivity.estimators.linearisation import FEWEST_DRAWS, micro_batches
from sensitivity.plan_losses import require_compatible
from tests.oracles.interactions.displacement import Curvature, DisplacedNetwork, inner_product
from tests.oracles.interactions.matrix import FloatArray, mean_and_stderr


@dataclass(frozen=True, eq=False)
class RowSums:
    """`shares` `[len(plan)]` in the order of the plan, and their sum `damage`, with standard errors over batches."""

    shares: FloatArray
    stderr: FloatArray
    damage: float
    damage_stderr: float
    samples: int


def row_sums(subject: Subject, plan: Sequence[int]) -> RowSums:
    """The shares of the candidates at these places of `subject.changes`, at most one of each site.

    Raises:
        ValueError: the plan is empty, or two of its candidates change the same thing.
    """
    chosen = [subject.changes[place] for place in plan]
    require_compatible(chosen)
    if not chosen:
        raise ValueError("the plan is empty; expected at least one candidate")
    sums, counts = [], []
    for batch in micro_batches(subject, FEWEST_DRAWS):
        displaced = DisplacedNetwork.of(subject, batch, chosen)
        errors = [displaced.errors(subject, change) for change in chosen]
        product = Curvature(displaced).times({name: value for error in errors for name, value in error.items()})
        shares = np.array([inner_product(error, product) / 2 for error in errors])
        sums.append(np.append(shares, shares.sum()))
        counts.append(batch.samples)
        subject.check(batch.after)
    mean, stderr = mean_and_stderr(sums, counts)
    return RowSums(mean[:-1], stderr[:-1], float(mean[-1]), float(stderr[-1]), subject.samples)
