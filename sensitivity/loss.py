"""The loss whose rise is called damage, as a function of the network's outputs.

`kl`: `KL(softmax(z_float) || softmax(z))` in nats, for classifiers; `kl_probabilities`: the same where z is past its
softmax. `squared_error`: `1/2 ||z - z_float||^2`, for everything else. All are zero with zero gradient at the float
weights, so HAWQ's first assumption holds exactly there, and their Hessian in the weights is the Gauss-Newton matrix
`J' B' B J`, which is positive semidefinite; `B' B` is the Hessian in the outputs z. `root_times` gives `B dz`,
`transposed_root_times` gives `B' u`.

Outputs are `[samples, ..., classes]`; positions before the last axis count as one more mean (for `kl`: each position of
a sequence is one prediction).
"""

from __future__ import annotations

import math
from enum import StrEnum

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

Array = NDArray[np.float32] | NDArray[np.float64]

# A softmax in float32 underflows to zero; what lies below this cannot be told from it.
SMALLEST_PROBABILITY = 1e-12
# Of a logit: exp(-100) is no probability any more. Keeps a class that one network masks with -inf a finite loss.
LARGEST_CHANGE = 100.0


class Loss(StrEnum):
    """Which loss; `kl` for outputs that are logits over classes, `kl_probabilities` for outputs of a softmax."""

    KL = "kl"
    KL_PROBABILITIES = "kl_probabilities"
    SQUARED_ERROR = "squared_error"


def sample_loss(loss: Loss, outputs: Array, float_outputs: Array) -> NDArray[np.float64]:
    """The loss of every sample, `[samples]`, in nats (kl) or squared output units."""
    z, reference = _as_logits(loss, outputs), _as_logits(loss, float_outputs)
    if loss is Loss.SQUARED_ERROR:
        return np.asarray(0.5 * np.square((z - reference).reshape(len(z), -1)).sum(1))
    log_p, log_q = log_softmax(reference, axis=-1), log_softmax(z, axis=-1)
    p = np.exp(log_p)
    with np.errstate(invalid="ignore"):  # a class that is masked in both has -inf in both
        divergence = np.where(p > 0, p * np.minimum(log_p - log_q, LARGEST_CHANGE), 0.0).sum(-1)
    # a divergence is not negative, but for rounding
    return np.asarray(np.maximum(divergence.reshape(len(z), -1).mean(1), 0.0))


def root_times(loss: Loss, outputs: Array, float_outputs: Array) -> NDArray[np.float64]:
    """`B dz` of every sample, flattened to `[samples, outputs]`, so that `1/2 ||B dz||^2` is the loss to second order.

    For kl: `sqrt(p) (dz - p'dz)` at each position, over the square root of the number of positions, p the float
    softmax. For kl_probabilities z is the logarithm of the outputs: the change of a probability from near 0 to 0.1 is
    no small change in itself, but is one in its logarithm. Both arguments: `[samples, ..., classes]`.
    """
    z, reference = _as_logits(loss, outputs), _as_logits(loss, float_outputs)
    with np.errstate(invalid="ignore"):
        dz = z - reference
    if loss is not Loss.SQUARED_ERROR:
        p = softmax(reference, axis=-1)
        dz = np.where(p > 0, np.clip(dz, -LARGEST_CHANGE, LARGEST_CHANGE), 0.0)
        dz = np.sqrt(p) * (dz - (p * dz).sum(-1, keepdims=True))
        dz /= math.sqrt(math.prod(dz.shape[1:-1]))
    return np.asarray(dz.reshape(len(dz), -1))


def _as_logits(loss: Loss, outputs: Array) -> NDArray[np.float64]:
    z = np.asarray(outputs, dtype=np.float64)
    return np.log(np.maximum(z, SMALLEST_PROBABILITY)) if loss is Loss.KL_PROBABILITIES else z


def transposed_root_times(loss: Loss, probe: torch.Tensor, float_outputs: torch.Tensor) -> torch.Tensor:
    """`B' u` of every sample, in the shape of the outputs `[samples, ..., classes]`; the transpose of `root_times`.

    For kl: `sqrt(p) u - p (sqrt(p)' u)` at each position, over the square root of the number of positions; for
    kl_probabilities `u / sqrt(p)`, the outputs being p itself.
    """
    if loss is Loss.SQUARED_ERROR:
        return probe
    root_positions = math.sqrt(math.prod(probe.shape[1:-1]))
    if loss is Loss.KL_PROBABILITIES:
        return probe / float_outputs.clamp_min(SMALLEST_PROBABILITY).sqrt() / root_positions
    p = torch.softmax(float_outputs, dim=-1)
    scaled = p.sqrt() * probe
    return (scaled - p * scaled.sum(-1, keepdim=True)) / root_positions
