"""The rounding error alone, normalised by the tensor's range: the baseline that knows nothing of the network.

Schaefer et al. (arXiv 2302.01382) rank tensors by their quantization error. Our reading: the root mean square of the
error over the largest magnitude,

    sqrt(mean (Q(v) - v)^2) / max |v| ,

so that tensors of different scales compare. It only orders (`Unit.RELATIVE`), and sees neither how much a tensor
matters nor how much of it there is. A site of several activations has their mean. The standard error of activations is
over micro-batches, by `std(sqrt(x)) ~ std(x) / (2 sqrt(x))`; the largest magnitude is that of all samples.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from sensitivity.estimate import ActivationChange, Estimate, Subject, Unit
from sensitivity.estimators.draws import Draws
from sensitivity.estimators.linearisation import FEWEST_DRAWS, activation_error, micro_batches, weight_error


def quantization_error(subject: Subject) -> Estimate:
    """The normalised error of weights and activations; exact for weights."""
    scores, stderr = np.zeros((2, len(subject.changes)))
    for k, change in subject.weight_changes.items():
        largest = subject.network.parameters[change.initializer].detach().abs().max().item()
        scores[k] = _over(np.sqrt(np.square(weight_error(subject, change)).mean()), largest)
    activations = subject.activation_changes
    if activations:
        scores[list(activations)], stderr[list(activations)] = _of_activations(subject, list(activations.values()))
    subject.check(1.0)
    return Estimate("quantization_error", Unit.RELATIVE, scores, stderr, subject.samples)


def _of_activations(subject: Subject, changes: list[ActivationChange]) -> tuple[list[float], list[float]]:
    """Scores and standard errors, from one pass over the samples."""
    pairs = [(change, name) for change in changes for name in change.tensors]
    largest = {name: 0.0 for _, name in pairs}
    draws = Draws(len(pairs))

    def measure(name: str, samples: int, value: Tensor) -> Tensor:
        largest[name] = max(largest[name], value.abs().max().item())
        for row, (change, other) in enumerate(pairs):
            if other == name:
                mean_square = activation_error(change, name, value).double().square().mean()
                draws.add(row, samples * mean_square.reshape(1), samples)
        return value

    for batch in micro_batches(subject, FEWEST_DRAWS):
        with torch.no_grad():
            subject.network.run(batch.inputs, through={n: partial(measure, n, batch.samples) for n in largest})
        subject.check(batch.after)
    mean, error = draws.mean_and_stderr()
    roots, ranges = np.sqrt(mean), np.array([largest[name] for _, name in pairs])
    normalised = _over(roots, ranges), _over(_over(error, 2 * roots), ranges)
    rows = [[row for row, (other, _) in enumerate(pairs) if other is change] for change in changes]
    scores, stderr = ([float(values[own].mean()) for own in rows] for values in normalised)
    return scores, stderr


def _over(part: ArrayLike, whole: ArrayLike) -> NDArray[np.float64]:
    """Their ratio; 0 of a tensor that is all zero, which has no error either."""
    whole = np.asarray(whole, dtype=np.float64)
    return np.asarray(np.divide(part, whole, out=np.zeros_like(whole), where=whole > 0))
