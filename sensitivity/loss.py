"""The loss whose rise is called damage, as a function of the network's outputs.

`kl`: `KL(softmax(z_float) || softmax(z))` in nats, for classifiers. `squared_error`: `1/2 ||z - z_float||^2`, for
everything else. Both are zero with zero gradient at the float weights, so HAWQ's first assumption holds exactly there,
and their Hessian in the weights is the Gauss-Newton matrix `J' C J`, which is positive semidefinite. `C = B' B` is the
Hessian in the outputs; `root_times` gives `B dz`.

Outputs are `[samples, ..., classes]`; positions before the last axis count as one more mean (for `kl`: each position of
a sequence is one prediction).
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

Array = NDArray[np.float32] | NDArray[np.float64]


class Loss(StrEnum):
    """Which loss; `kl` for outputs that are logits over classes."""

    KL = "kl"
    SQUARED_ERROR = "squared_error"


def torch_loss(loss: Loss, outputs: torch.Tensor, float_outputs: torch.Tensor) -> torch.Tensor:
    """Mean loss over the samples (scalar), twice differentiable in `outputs` `[samples, ..., classes]`."""
    if loss is Loss.KL:
        reference = torch.log_softmax(float_outputs.detach(), dim=-1)
        change = reference - torch.log_softmax(outputs, dim=-1)
        return (reference.exp() * change).sum(-1).mean()
    difference = (outputs - float_outputs.detach()).flatten(1)
    return 0.5 * difference.square().sum(1).mean()


def sample_loss(loss: Loss, outputs: Array, float_outputs: Array) -> NDArray[np.float64]:
    """The loss of every sample, `[samples]`, in nats (kl) or squared output units."""
    z, reference = outputs.astype(np.float64), float_outputs.astype(np.float64)
    if loss is Loss.KL:
        log_p, log_q = log_softmax(reference, axis=-1), log_softmax(z, axis=-1)
        divergence = (np.exp(log_p) * (log_p - log_q)).sum(-1)
        return np.asarray(divergence.reshape(len(z), -1).mean(1))
    difference = (z - reference).reshape(len(z), -1)
    return np.asarray(0.5 * np.square(difference).sum(1))


def root_times(loss: Loss, change: Array, float_outputs: Array) -> NDArray[np.float64]:
    """`B dz` of every sample, flattened to `[samples, outputs]`, so that `1/2 ||B dz||^2` is the loss to second order.

    For kl: `sqrt(p) (dz - p'dz)` at each position, over the square root of the number of positions, p the float
    softmax. `change` and `float_outputs`: `[samples, ..., classes]`.
    """
    dz = change.astype(np.float64)
    if loss is Loss.KL:
        p = softmax(float_outputs.astype(np.float64), axis=-1)
        dz = np.sqrt(p) * (dz - (p * dz).sum(-1, keepdims=True))
        positions = int(np.prod(dz.shape[1:-1]))
        dz /= np.sqrt(positions)
    return np.asarray(dz.reshape(len(dz), -1))
