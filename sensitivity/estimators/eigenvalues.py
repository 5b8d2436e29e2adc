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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sensitivity.estimate import Subject, WeightChange
from sensitivity.estimators.directional import OutputChanges
from sensitivity.estimators.linearisation import Linearisation, Linearised, Place, micro_batches, weight_error
from sensitivity.loss import Loss, transposed_root_times


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
    subject: Subject,
    changes: Sequence[WeightChange],
    generator: torch.Generator,
    rule: PowerRule,
    check: Callable[[float], None],
) -> Eigenvalues:
    """`lambda_max(H_ii)` of every weight that one of `changes` rounds, over all samples of `subject`.

    Args:
        subject: the network, the samples and the loss.
        changes: which weights; the order of the result is that of `weights_of`.
        generator: source of the first vectors.
        rule: when to stop.
        check: called after every iteration with the fraction of the largest number of them.

    Raises:
        ValueError: there are no candidates.
    """
    linearisation = Linearisation(subject, changes, Place.WEIGHT)

    def products() -> Iterator[_Products]:
        for batch in micro_batches(subject):
            yield _Products(linearisation.at(batch.inputs), subject.loss)

    kept = list(products()) if subject.samples <= subject.batch else None  # one batch is linearised once
    blocks = [_Block(name, subject.network.parameters[name], generator) for name in weights_of(changes)]
    iterations = 0
    while iterations < rule.max_iterations and not all(block.converged for block in blocks):
        moving = [block for block in blocks if not block.converged]
        for product in kept or products():
            for block in moving:
                block.add(*product.times(block.name, block.vector))
        for block in moving:
            block.step(subject.samples, rule.rtol)
        iterations += 1
        check(iterations / rule.max_iterations)
    return Eigenvalues(
        values=np.array([block.value for block in blocks]),
        stderr=np.array([block.stderr for block in blocks]),
        converged=np.array([block.converged for block in blocks]),
    )


def weights_of(changes: Sequence[WeightChange]) -> list[str]:
    """The initializers that the candidates round, each once, in the order of the candidates."""
    return list(dict.fromkeys(change.initializer for change in changes))


def scores_by_size(
    subject: Subject, curvature: Mapping[str, tuple[float, float]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`curvature / n_i ||d||^2` of each candidate of `subject` with its standard error; NaN for activations.

    `curvature` has for each initializer a number and its standard error.
    """
    scores, stderr = np.full((2, len(subject.changes)), np.nan)
    for k, change in subject.weight_changes.items():
        mean_square = np.square(weight_error(subject, change)).mean()
        scores[k], stderr[k] = (number * mean_square for number in curvature[change.initializer])
    return scores, stderr


class _Products:
    """Products with the blocks of the Hessian of the summed loss of one micro-batch."""

    def __init__(self, linearised: Linearised, loss: Loss) -> None:
        self._linearised = linearised
        self._loss = loss
        self._changes = OutputChanges(linearised, loss)

    def times(self, name: str, vector: Tensor) -> tuple[Tensor, Tensor]:
        """`||B J v||^2` of every sample `[samples]`, and `sum_s J_i' B' B J_i v` in the shape of the weight."""
        root = self._changes.along({name: vector})
        outputs = self._linearised.outputs
        if not outputs.requires_grad:
            return torch.zeros(len(root)), torch.zeros_like(vector)
        [product] = torch.autograd.grad(
            outputs,
            self._linearised.values[name],
            transposed_root_times(self._loss, root, outputs.detach()),
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        return root.flatten(1).double().square().sum(1), product


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
        """One micro-batch's part of the product and of the Rayleigh quotient."""
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
