"""The largest eigenvalue of every weight's block of the Hessian, by power iteration.

At the float weights `H_ii = mean_s J_i' B' B J_i`, and a product with a vector is `J_i' (B' (B J_i v))`: once through
the network forward (by the double-backward trick of `sensitivity.estimators.directional`) and once back.

1. Every block has its own iteration. One product with a vector over all layers, taken apart again, would be
   `sum_j H_ij v_j`, which is not `H_ii v_i`: unlike a trace, an eigenvalue has no cross-layer terms that average out.
   What the blocks share is the forward pass and the linearisation of each micro-batch.
2. The iteration of a block stops on its residual, `||H v - lambda v|| <= rtol lambda`, an error bound: an eigenvalue
   lies within the residual of the Rayleigh quotient `lambda = v' H v`, and the error is quadratic in it where that
   eigenvalue stands alone. PyHessian stops on the change of lambda, which is small wherever progress is slow.
3. A Rayleigh quotient is never above the largest eigenvalue: what has not converged is too small.
4. The standard error over samples is that of `v' H v` at the v found: to first order an eigenvalue moves by `v' dH v`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sensitivity.estimate import Subject
from sensitivity.estimators.directional import OutputChanges
from sensitivity.estimators.linearisation import Linearisation, Linearised, Place, micro_batches, weight_error
from sensitivity.traces import transposed


@dataclass(frozen=True)
class PowerRule:
    """When to stop: the residual of every block at most `rtol` times its eigenvalue, or `max_iterations` products."""

    rtol: float = 0.05
    max_iterations: int = 50

    def __post_init__(self) -> None:
        if not 0 < self.rtol < 1:
            raise ValueError(f"rtol must lie between 0 and 1, got {self.rtol}")
        if self.max_iterations < 1:
            raise ValueError(f"max_iterations must be at least 1, got {self.max_iterations}")


@dataclass(frozen=True, eq=False)
class Eigenvalues:
    """In the order of the weights: `values`, their `stderr` over samples, and whether they `converged`."""

    values: NDArray[np.float64]
    stderr: NDArray[np.float64]
    converged: NDArray[np.bool_]

    def note(self, rule: PowerRule) -> str:
        """How the iteration ended, in words."""
        if self.converged.all():
            return f"all {len(self.values)} eigenvalues converged to a residual of {rule.rtol:g}"
        return (
            f"{np.count_nonzero(self.converged)} of {len(self.values)} eigenvalues converged to a residual of "
            f"{rule.rtol:g} in {rule.max_iterations} iterations; the others are too small"
        )


def largest_eigenvalues(
    subject: Subject, generator: torch.Generator, rule: PowerRule, check: Callable[[float], None]
) -> Eigenvalues:
    """`lambda_max(H_ii)` of every weight of `subject`, over all its samples.

    Args:
        subject: the network, the weights, the samples and the loss; the order of the result is that of its `weights`.
        generator: source of the first vectors.
        rule: when to stop.
        check: called after every iteration with the fraction of the largest number of them.

    Raises:
        ValueError: no candidate rounds a weight.
    """
    linearisation = Linearisation(subject, list(subject.weight_changes.values()), Place.WEIGHT)

    def parts() -> Iterator[tuple[Linearised, OutputChanges]]:
        for batch in micro_batches(subject):
            linearised = linearisation.at(batch.inputs)
            yield linearised, OutputChanges(linearised, subject.loss)

    kept = list(parts()) if subject.samples <= subject.batch else None  # one batch is linearised once
    blocks = [_Block(name, subject.network.parameters[name], generator) for name in subject.weights]
    iterations = 0
    while iterations < rule.max_iterations and not all(block.converged for block in blocks):
        moving = [block for block in blocks if not block.converged]
        for linearised, changes in kept or parts():
            for block in moving:
                root = changes.along({block.name: block.vector})
                weighted = transposed(subject.loss, root, linearised.outputs)
                [product] = linearised.gradients(weighted, of=[block.name]).values()
                block.add(root.double().square().sum(1), product)
        for block in moving:
            block.step(subject.samples, rule.rtol)
        iterations += 1
        check(iterations / rule.max_iterations)
    return Eigenvalues(
        values=np.array([block.value for block in blocks]),
        stderr=np.array([block.stderr for block in blocks]),
        converged=np.array([block.converged for block in blocks]),
    )


def scores_by_size(
    subject: Subject, curvature: NDArray[np.float64], error: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`curvature / n_i ||d||^2` of each candidate of `subject` with its standard error; NaN for activations.

    `curvature` and its standard error `error` have a number for each of the subject's `weights`.
    """
    scores, stderr = np.full((2, len(subject.changes)), np.nan)
    for k, change in subject.weight_changes.items():
        weight = subject.weights.index(change.initializer)
        mean_square = np.square(weight_error(subject, change)).mean()
        scores[k], stderr[k] = curvature[weight] * mean_square, error[weight] * mean_square
    return scores, stderr


class _Block:
    """The power iteration of one block."""

    def __init__(self, name: str, weight: Tensor, generator: torch.Generator) -> None:
        self.name = name
        start = torch.randn(weight.shape, generator=generator, dtype=torch.float64).to(weight)
        self.vector = start / start.norm()
        self.converged = False
        self.value = self.stderr = 0.0
        self._sum = self._square = 0.0
        self._product = torch.zeros_like(self.vector, dtype=torch.float64)

    def add(self, quotients: Tensor, product: Tensor) -> None:
        """One micro-batch's `||B J v||^2` of every sample `[samples]`, and `sum_s J_i' B' B J_i v`."""
        self._sum += quotients.sum().item()
        self._square += quotients.square().sum().item()
        self._product = self._product + product.double()

    def step(self, samples: int, rtol: float) -> None:
        """Ends an iteration in which all samples were added."""
        product = self._product / samples
        self.value = self._sum / samples
        self.stderr = math.sqrt(max(self._square / samples - self.value**2, 0.0) / (samples - 1))
        residual = (product - self.value * self.vector.double()).norm().item()
        self.converged = residual <= rtol * self.value
        if not self.converged:
            self.vector = (product / product.norm()).to(self.vector)
        self._sum = self._square = 0.0
        self._product = torch.zeros_like(self.vector, dtype=torch.float64)
