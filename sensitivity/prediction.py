"""From scores of single candidates to the predicted damage of whole plans.

Shapes: `K` candidates over all sites, flattened in site order, `P` plans, `S` sites. A plan is a row of `S` candidate
indices, one of each site.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sensitivity.interaction_matrix import InteractionMatrix

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a method says a plan costs: the sum of `own` `[K]`, as HAWQ-V2 and most others plan, or `x' G x` with G the
    `interactions` `[K, K]`.

    The diagonal of the interactions is `own`; entries between candidates of one site mean nothing.
    """

    method: str
    own: Floats
    interactions: InteractionMatrix | None = None

    def __post_init__(self) -> None:
        if self.interactions is not None and self.interactions.shape != 2 * self.own.shape:
            raise ValueError(
                f"interactions of shape {self.interactions.shape} do not fit {len(self.own)} candidates; expected "
                f"{2 * self.own.shape}"
            )

    def damages(self, plans: NDArray[np.int64]) -> Floats:
        """[P]: the predicted damage of each plan of `plans` [P, S]; NaN where the method does not cover every site."""
        if self.interactions is None:
            return np.asarray(self.own[plans].sum(axis=1))
        return np.array([self.interactions.block(plan, plan).sum() for plan in plans])

    def times(self, scale: float) -> Prediction:
        """The same order in other units."""
        own, interactions = scale * self.own, self.interactions
        if interactions is not None:
            interactions = replace(interactions, anchors=scale * interactions.anchors, own=own)
        return replace(self, own=own, interactions=interactions)


def cross_layer_prediction(matrix: InteractionMatrix) -> Prediction:
    """Own damages and interactions to second order, from the cross-layer matrix."""
    return Prediction("cross_layer", matrix.own, matrix)


def augmented(measured: Floats, matrix: InteractionMatrix) -> Prediction:
    """The augmented score: own damages as measured, and interactions from the cross-layer matrix in their proportion.

        S_k(plan) = D_k + 1/2 sum_l c_kl,    c_kl = 2 s_k s_l G_kl,    s_k = sqrt(D_k / G_kk)

    over the other candidates l of the plan; the sum over its candidates is `x' G' x` with `G' = s G s`. D_k is what the
    loss really rose by with candidate k alone, where second order overshoots or falls short; the change of the outputs
    that meets the others is taken to be as much larger or smaller. As a congruence of a positive semidefinite matrix,
    `G'` is one too. A candidate without any second-order damage interacts with none: its own damage stands alone.

    [ours]; after "Augmenting Hessians with Inter-Layer Dependencies" (arXiv 2306.04879), whose formula is not public.
    HAWQ-V2's trace in the place of D_k is in `benchmarks.agreement`.

    Args:
        measured: [K], the mean loss with each candidate alone; not negative, as both losses are.
        matrix: [K, K], the cross-layer matrix G.
    """
    own, measured = matrix.own, np.asarray(measured, dtype=np.float64)
    scale = np.sqrt(np.divide(measured, own, out=np.zeros_like(own), where=own > 0))
    return Prediction("augmented", measured, replace(matrix, scale=scale, own=measured))
