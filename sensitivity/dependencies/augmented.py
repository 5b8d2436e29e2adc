"""Damage of whole plans: own terms of any estimator, and interactions with a weight that is fitted.

"Augmenting Hessians with inter-layer dependencies" (arXiv 2306.04879) adds to a layer's own Hessian term what it has in
common with the others; its formula is not public, ours is

    S_i = 1/2 Omega_i + lambda 1/2 sum_{j != i} c_ij,         damage(plan) = sum_i S_i = own' x + lambda x' G_off x,

i and j the candidates of the plan x, `G = C / 2` from `sensitivity.cross_layer` or `sensitivity.dependencies.products`
and G_off its entries off the diagonal. `lambda = 0` is HAWQ-V2 (with `own = 1/2 Omega`), `lambda = 1` with
`own = diag G` is the full second order. In between it says how far the interactions are to be trusted: own terms from
traces are blind to direction, damage saturates, and both change what interactions add.

`fit_lambda` chooses it by measured plans. Its residuals are *relative*, `(predicted - measured) / measured`:

1. Damage spans orders of magnitude between fine and coarse plans, and prediction errs in proportion to it; absolute
   residuals would leave the fit to the few coarsest plans, which no budget allows.
2. Unlike residuals of logarithms they are linear in lambda, so the least-squares lambda is unique and closed, and they
   are defined where a negative interaction outweighs the own terms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sensitivity.dependencies.interactions import FloatArray

PlanArray = NDArray[np.int64]


def augmented_scores(own: FloatArray, matrix: FloatArray, plans: PlanArray, lam: float) -> FloatArray:
    """`S_i` of every candidate within its plan, `[P, S]`.

    Args:
        own: damage of each candidate alone, `[K]`: `1/2 Omega`, or any other estimate in units of the loss.
        matrix: G, `[K, K]`; its diagonal is not read.
        plans: the places of the S candidates of each plan among the K, `[P, S]`.
        lam: weight of the interactions, at least 0.

    Raises:
        ValueError: shapes do not fit, a place is out of range, or lambda is negative.
    """
    _require_shapes(own, matrix, plans)
    if not lam >= 0:
        raise ValueError(f"lambda must be at least 0, got {lam}")
    between = matrix[plans[:, :, None], plans[:, None, :]]
    others = between.sum(2) - np.diagonal(matrix)[plans]
    return np.asarray(own[plans] + lam * others)


def predicted_damage(own: FloatArray, matrix: FloatArray, plans: PlanArray, lam: float) -> FloatArray:
    """`own' x + lambda x' G_off x` of each plan, `[P]`; arguments and errors of `augmented_scores`."""
    return np.asarray(augmented_scores(own, matrix, plans, lam).sum(1))


@dataclass(frozen=True)
class LambdaFit:
    """The fitted weight of the interactions.

    `stderr` is that of least squares, from the residuals, and infinite where one plan or no interaction leaves it open;
    `relative_error` is the root mean square of the relative residuals, `relative_error_alone` the same with lambda = 0;
    `limited` says that the plain optimum lay outside the range and an end of it was taken.
    """

    value: float
    stderr: float
    relative_error: float
    relative_error_alone: float
    limited: bool
    plans: int


def fit_lambda(own: FloatArray, matrix: FloatArray, plans: PlanArray, measured: FloatArray) -> LambdaFit:
    """The lambda whose predictions are closest to the measured damages, in the sense of relative least squares.

    It is at least 0 and at most so large that no plan of the fit gets a negative prediction.

    Args:
        own, matrix, plans: as for `augmented_scores`, with no negative own damage.
        measured: damage of each plan, `[P]`, above 0.

    Raises:
        ValueError: shapes do not fit, there is no plan, own damage is negative, or a measured one is not positive.
    """
    require_positive(measured, len(plans))
    if np.any(own < 0) or not np.isfinite(own).all():
        raise ValueError("own damage is negative or not finite; expected damages, not scores that only order")
    alone = predicted_damage(own, matrix, plans, 0.0)
    off = predicted_damage(own, matrix, plans, 1.0) - alone
    slope, gap = off / measured, 1 - alone / measured  # the residual is lambda * slope - gap
    curvature = float(slope @ slope)
    falling = off < 0
    largest = float(np.min(alone[falling] / -off[falling])) if falling.any() else math.inf
    best = float(slope @ gap) / curvature if curvature > 0 else 0.0
    value = min(max(best, 0.0), largest)
    residual = value * slope - gap
    spread = float(residual @ residual) / (len(plans) - 1) if len(plans) > 1 else math.inf
    return LambdaFit(
        value=value,
        stderr=math.sqrt(spread / curvature) if curvature > 0 else math.inf,
        relative_error=float(np.sqrt(np.mean(np.square(residual)))),
        relative_error_alone=float(np.sqrt(np.mean(np.square(gap)))),
        limited=value != best,
        plans=len(plans),
    )


def require_positive(measured: FloatArray, plans: int) -> None:
    """Relative residuals need one positive measurement for each of the plans.

    Raises:
        ValueError: there are others.
    """
    if measured.shape != (plans,) or plans == 0:
        raise ValueError(f"measured damages have shape {measured.shape}; expected one for each of {plans} plans")
    if not np.all(measured > 0) or not np.isfinite(measured).all():
        raise ValueError("a measured damage is not above 0; leave out plans that changed nothing")


def _require_shapes(own: FloatArray, matrix: FloatArray, plans: PlanArray) -> None:
    if own.ndim != 1 or matrix.shape != (len(own), len(own)) or plans.ndim != 2:
        raise ValueError(
            f"own {own.shape}, matrix {matrix.shape} and plans {plans.shape} do not fit; expected [K], [K, K], [P, S]"
        )
    if plans.size and not 0 <= plans.min() <= plans.max() < len(own):
        raise ValueError(f"plans name candidates {plans.min()} to {plans.max()}; expected places below {len(own)}")
