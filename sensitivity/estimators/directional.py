"""The second-order damage of each candidate itself, without probes: `1/2 d' H d`.

At the float weights H is the Gauss-Newton matrix (see `sensitivity.loss`), so

    1/2 d' H d = 1/2 mean_s ||B J_s d||^2 ,

one Jacobian-vector product for each candidate and micro-batch. It has no error but that of the samples, and is what the
scores with probes estimate; what it cannot see is what the damage does beyond second order.

`J d` by the double-backward trick: `g(u) = J' B' u` is linear in u, and the gradient of `<g(u), d>` in u is `B J d`.
Chosen over forward-mode differentiation because every operator rule is twice differentiable and tested to be, while
some of torch's operators have no forward mode; and because g is built once for all candidates of a batch, after which a
product walks only the part of the network behind its candidate.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sensitivity.estimate import Estimate, Subject, Unit
from sensitivity.estimators.draws import Draws
from sensitivity.estimators.linearisation import Linearisation, Linearised, Place, micro_batches
from sensitivity.loss import Loss
from sensitivity.traces import derivatives, root_length, transposed


class OutputChanges:
    """`B J d` of one micro-batch for many d, from one linearisation."""

    def __init__(self, linearised: Linearised, loss: Loss) -> None:
        like = linearised.outputs[loss.outputs[0]]
        self._zero = like.new_zeros((len(like), root_length(loss, linearised.outputs)), requires_grad=True)
        self._gradients = linearised.gradients(transposed(loss, self._zero, linearised.outputs), differentiable=True)

    def along(self, deltas: Mapping[str, Tensor]) -> Tensor:
        """`B sum_v J_v d_v`, `[samples, root_length]`."""
        products = [(self._gradients[name] * delta).sum() for name, delta in deltas.items()]
        total = torch.stack(products).sum()
        if not total.requires_grad:  # no output of the loss depends on any of the values
            return torch.zeros_like(self._zero)
        [root] = derivatives([total], [self._zero], retain_graph=True)
        return root


def directional(subject: Subject) -> Estimate:
    """`1/2 d' H d` for weights and activations; the standard error is over samples."""
    linearisation = Linearisation(subject, subject.changes, Place.WEIGHT)
    draws = Draws(len(subject.changes))
    for batch in micro_batches(subject):
        linearised = linearisation.at(batch.inputs)
        changes = OutputChanges(linearised, subject.loss)
        for k, change in enumerate(subject.changes):
            root = changes.along(linearisation.deltas(change, linearised))
            draws.add(k, 0.5 * root.double().square().sum(1), batch.samples)
            subject.check(batch.before + (batch.after - batch.before) * (k + 1) / len(subject.changes))
    return Estimate("directional", Unit.DAMAGE, *draws.mean_and_stderr(), subject.samples)
