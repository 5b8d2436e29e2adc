"""B: all interactions `c_ij = d_j' (H d_i)_j`, from one Hessian-vector product for each candidate.

`H d_i`, with d_i in place i and 0 elsewhere, is nonzero everywhere that interacts with i, and costs no more than one of
its parts: so K products give all K^2 entries, where `pairs` takes K^2 / 2 passes. C is symmetric but for rounding; what
is returned is the mean of both triangles. At the float network H is Gauss-Newton, so C is positive semidefinite, and
`C = 2 G` of `sensitivity.cross_layer` wherever the outputs are linear in what is displaced.
"""

from __future__ import annotations

import numpy as np

from sensitivity.estimate import Subject
from sensitivity.estimators.linearisation import FEWEST_DRAWS, micro_batches
from tests.oracles.interactions.displacement import Curvature, DisplacedNetwork, inner_product
from tests.oracles.interactions.matrix import Interactions, mean_and_stderr


def products(subject: Subject) -> Interactions:
    """`c_ij` of all candidates, two of one site included; the standard error is over micro-batches.

    Activations are rounded at their float values; see `tests.oracles.interactions.displacement`.
    """
    sums, counts = [], []
    for batch in micro_batches(subject, FEWEST_DRAWS):
        displaced = DisplacedNetwork.of(subject, batch, subject.changes)
        errors = [displaced.errors(subject, change) for change in subject.changes]
        curvature = Curvature(displaced)
        matrix = np.empty((len(errors), len(errors)))
        for i, error in enumerate(errors):
            product = curvature.times(error)
            matrix[i] = [inner_product(other, product) for other in errors]
            done = (i + 1) / len(errors)
            subject.check(batch.before + done * (batch.after - batch.before))
        sums.append((matrix + matrix.T) / 2)
        counts.append(batch.samples)
    mean, stderr = mean_and_stderr(sums, counts)
    return Interactions(mean, stderr, subject.samples)
