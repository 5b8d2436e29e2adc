"""The damage of random noise as large as the rounding error: the noise metric of guided search.

Schaefer et al. (arXiv 2302.01382) rank tensors by how much the loss degrades when Gaussian noise in proportion to the
tensor's range is added to it. Our reading, so that it answers for a *candidate*: the noise has the mean square of the
candidate's own error,

    score = mean_s loss(outputs with v + e),    e ~ N(0, ||Q(v) - v||^2 / n) in each element,

measured, not to second order. What remains between it and the measured damage is how the rounding error differs from
noise: for a quadratic loss its expectation is HAWQ-V2's `1/2 Tr(H)/n ||d||^2`, and the cost is a pass for each
candidate.

Every micro-batch has its own noise, the same in a weight for all its samples; the standard error is over micro-batches,
of noise and samples together.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch
from torch import Tensor

from sensitivity.estimate import ActivationChange, Change, Estimate, Floats, Subject, Unit, WeightChange
from sensitivity.estimators.draws import Draws
from sensitivity.estimators.linearisation import FEWEST_DRAWS, MicroBatch, activation_error, micro_batches, weight_error
from sensitivity.traces import measured_outputs


def noise(subject: Subject) -> Estimate:
    """The mean loss under noise of the size of each candidate's error, for weights and activations."""
    generator = torch.Generator().manual_seed(subject.seed)
    draws = Draws(len(subject.changes))
    sizes = {
        k: math.sqrt(np.square(weight_error(subject, change)).mean()) for k, change in subject.weight_changes.items()
    }
    for batch in micro_batches(subject, FEWEST_DRAWS):
        reference = _outputs(subject, batch, None, 0.0, generator)
        for k, change in enumerate(subject.changes):
            outputs = _outputs(subject, batch, change, sizes.get(k, 0.0), generator)
            lost = subject.loss.sample_loss(outputs, reference)
            draws.add(k, torch.tensor([lost.sum()]), batch.samples)
            subject.check(batch.before + (batch.after - batch.before) * (k + 1) / len(subject.changes))
    return Estimate("noise", Unit.DAMAGE, *draws.mean_and_stderr(), subject.samples)


def _outputs(
    subject: Subject, batch: MicroBatch, change: Change | None, size: float, generator: torch.Generator
) -> dict[str, Floats]:
    """The loss's outputs with noise in what the candidate changes, of root mean square `size` in a weight."""

    def noisy_activation(change: ActivationChange, name: str, value: Tensor) -> Tensor:
        error = activation_error(change, name, value)
        return value + error.double().square().mean().sqrt().item() * _normal(value, generator)

    parameters, through = {}, {}
    if isinstance(change, WeightChange):
        weight = subject.network.parameters[change.initializer].detach()
        parameters = {change.initializer: weight + size * _normal(weight, generator)}
    elif change is not None:
        through = {name: partial(noisy_activation, change, name) for name in change.tensors}
    with torch.no_grad():
        outputs = subject.network.run(batch.inputs, parameters, through)
    named = measured_outputs(subject.network, subject.loss, outputs)
    return {name: np.asarray(output.cpu().numpy()) for name, output in named.items()}


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)
