"""How far interactions are to be trusted: the weight lambda of them that fits measured plans best.

With own damages D and the matrix G of `sensitivity.cross_layer` (G_off: off its diagonal), the predicted damage is

    damage(plan) = D' x + lambda x' G_off x,

x the plan's candidates. `lambda = 0` adds up the own damages, `lambda = 1` with `D = diag G` is the full second order;
damage that saturates makes it smaller. The residuals of the fit are *relative*, `(predicted - measured) / measured`:

1. Damage spans orders of magnitude between fine and coarse plans, and predictions err in proportion to it; absolute
   residuals would leave the fit to the few coarsest plans, which no budget allows.
2. Unlike residuals of logarithms they are linear in lambda, so the least-squares lambda is unique and closed, and they
   are defined where a negative interaction outweighs the own damages.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sensitivity.interaction_matrix import InteractionMatrix

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LambdaFit:
    """The fitted weight, and its standard error by least squares; infinite where nothing says what it is."""

    value: float
    stderr: float


def fit_lambda(own: Floats, matrix: InteractionMatrix, plans: NDArray[np.int64], measured: Floats) -> LambdaFit:
    """The lambda whose predictions are closest to the measured damages, in the sense of relative least squares.

    It is at least 0 and at most so large that no plan of the fit gets a negative prediction.

    Args:
        own: damage of each candidate alone, `[K]`, at least 0.
        matrix: G, `[K, K]`; its diagonal does not count.
        plans: the places of the S candidates of each plan among the K, `[P, S]`.
        measured: damage of each plan, `[P]`, above 0.

    Raises:
        ValueError: shapes do not fit, there is no plan, own damage is negative, or a measured one is not positive.
    """
    _require_fitting(own, matrix, plans, measured)
    alone = own[plans].sum(1)
    others = np.stack([matrix.block(plan, plan).sum(1) for plan in plans]) - matrix.own[plans]
    off = (own[plans] + others).sum(1) - alone
    slope, gap = off / measured, 1 - alone / measured  # the residual is lambda * slope - gap
    curvature = float(slope @ slope)
    falling = off < 0
    largest = float(np.min(alone[falling] / -off[falling])) if falling.any() else math.inf
    best = float(slope @ gap) / curvature if curvature > 0 else 0.0
    value = min(max(best, 0.0), largest)
    residual = value * slope - gap
    spread = float(residual @ residual) / (len(plans) - 1) if len(plans) > 1 else math.inf
    return LambdaFit(value, math.sqrt(spread / curvature) if curvature > 0 else math.inf)


def _require_fitting(own: Floats, matrix: InteractionMatrix, plans: NDArray[np.int64], measured: Floats) -> None:
    if own.ndim != 1 or matrix.shape != (len(own), len(own)) or plans.ndim != 2 or measured.shape != plans.shape[:1]:
        raise ValueError(
            f"own {own.shape}, matrix {matrix.shape}, plans {plans.shape} and measured {measured.shape} do not fit; "
            "expected [K], [K, K], [P, S], [P]"
        )
    if not plans.size or not 0 <= plans.min() <= plans.max() < len(own):
        raise ValueError(f"expected plans of places below {len(own)}, got {plans.tolist()}")
    if not np.all(measured > 0) or not np.isfinite(measured).all():
        raise ValueError("a measured damage is not above 0; leave out plans that changed nothing")
    if np.any(own < 0) or not np.isfinite(own).all():
        raise ValueError("own damage is negative or not finite; expected damages, not scores that only order")
