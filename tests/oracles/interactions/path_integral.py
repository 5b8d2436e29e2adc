"""D: what each candidate adds to the *true* damage of one plan: Aumann and Shapley's cost sharing on a straight path.

With d the errors of all candidates of the plan and F the loss as a function of the displacement,

    phi_i = integral over t from 0 to 1 of <grad_i F(t d), d_i>,        sum_i phi_i = F(d) - F(0) = F(d):

the shares add up to what the plan really costs, saturation and all (Aumann and Shapley, Values of Non-Atomic Games,
1974; as attributions: Sundararajan et al., arXiv 1703.01365). The integral is taken by K midpoints `t = (k + 1/2) / K`,
each one forward and one backward pass. Midpoints are exact for quadratics, where `phi_i` is the half row sum of
`row_sums`; their error falls like `K^-2`, and its sum over the candidates is known by one more forward pass: what the
shares sum to minus the measured F(d).

An activation's error is taken from the run with the whole plan made, where all of it arrives already changed: so the
end of the path is the quantized network itself, and F(d) its measured damage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from sensitivity.cross_layer import changed_names
from sensitivity.estimate import ActivationChange, Change, Subject, WeightChange
from sensitivity.estimators.linearisation import FEWEST_DRAWS, MicroBatch, activation_error, micro_batches
from sensitivity.plan_losses import require_compatible
from tests.oracles.interactions.displacement import DisplacedNetwork, inner_product
from tests.oracles.interactions.matrix import FloatArray, mean_and_stderr


@dataclass(frozen=True, eq=False)
class PathIntegral:
    """`shares` `[len(plan)]` in the order of the plan, with standard errors over batches.

    `damage` is the measured damage of the plan; `quadrature_error` is the sum of the shares minus it, from `points`
    midpoints.
    """

    shares: FloatArray
    stderr: FloatArray
    damage: float
    damage_stderr: float
    quadrature_error: float
    points: int
    samples: int


def path_integral(subject: Subject, plan: Sequence[int], points: int = 2) -> PathIntegral:
    """The shares of the candidates at these places of `subject.changes`, at most one of each site.

    Raises:
        ValueError: the plan is empty, two of its candidates change the same thing, or `points` is below 1.
    """
    chosen = [subject.changes[place] for place in plan]
    require_compatible(chosen)
    if not chosen or points < 1:
        raise ValueError(f"expected a plan and at least one point, got {len(chosen)} candidates and {points} points")
    sums, counts = [], []
    for batch in micro_batches(subject, FEWEST_DRAWS):
        displaced = DisplacedNetwork.of(subject, batch, chosen)
        errors = _errors(subject, displaced, batch, chosen)
        together = {name: value for error in errors for name, value in error.items()}
        shares = np.zeros(len(chosen))
        for point in range(points):
            t = (point + 0.5) / points
            gradients = displaced.gradients({name: t * value for name, value in together.items()})
            shares += [inner_product(error, gradients) / points for error in errors]
            subject.check(batch.before + (point + 1) / points * (batch.after - batch.before))
        with torch.no_grad():
            damage = displaced.losses(together).double().sum().item()
        sums.append(np.append(shares, damage))
        counts.append(batch.samples)
    mean, stderr = mean_and_stderr(sums, counts)
    shares, damage = mean[:-1], float(mean[-1])
    error = float(shares.sum()) - damage
    return PathIntegral(shares, stderr[:-1], damage, float(stderr[-1]), error, points, subject.samples)


def _errors(
    subject: Subject, displaced: DisplacedNetwork, batch: MicroBatch, chosen: Sequence[Change]
) -> list[dict[str, Tensor]]:
    """Each candidate's displacements, those of activations at the values that the whole plan makes."""
    weights: dict[str, Tensor] = {}
    for change in chosen:
        if isinstance(change, WeightChange):
            weights.update(displaced.errors(subject, change))
    found: dict[str, Tensor] = dict(weights)

    def round_and_record(change: ActivationChange, name: str, value: Tensor) -> Tensor:
        found[name] = activation_error(change, name, value)
        return value + found[name]

    through = {
        name: partial(round_and_record, change, name)
        for change in chosen
        if isinstance(change, ActivationChange)
        for name in change.tensors
    }
    if through:
        with torch.no_grad():
            parameters = {name: displaced.values[name] + error for name, error in weights.items()}
            subject.network.run(batch.inputs, parameters, through)
    return [{name: found[name] for name in changed_names(change)} for change in chosen]
