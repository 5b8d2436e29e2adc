"""The diagonal Fisher at the output of the changed layer, as NVIDIA ModelOpt's AutoQuantize scores candidates.

AutoQuantize takes one backward pass of the loss, and for each candidate one forward pass of the layer alone, which
gives the change dy of its output y: the score is `sum_e g_e^2 dy_e^2`, a diagonal Fisher matrix in y. A forward pass of
a layer costs little, and what the weights of one output element do together is inside dy, so that only correlations
*between* outputs are lost; `fisher_weights` also loses those between weights. The score is

    1/2 mean_s sum_e g_{s,e}^2 dy_{s,e}^2 .

Deviations from ModelOpt: g comes from a probe of the outputs (`sensitivity.traces.output_probe`), no label and no loss
of training; its mean square is the diagonal of the Hessian of the damage in y. The factor 1/2 makes the sum a damage.
Of a tied weight the scores of all uses add up: the diagonal does not see that they act together.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from sensitivity.estimate import Change, Estimate, Subject, Unit
from sensitivity.estimators.draws import Draws
from sensitivity.estimators.linearisation import Linearisation, Place, joined
from sensitivity.traces import output_probe


def fisher_outputs(subject: Subject) -> Estimate:
    """`1/2 mean_s sum_e (g_e dy_e)^2` at the outputs of layers, or at the rounded activations."""
    started = time.perf_counter()
    draws = diagonal_draws(subject, subject.changes, Place.OUTPUT)
    scores, stderr = draws.mean_and_stderr()
    return Estimate("fisher_outputs", Unit.DAMAGE, scores, stderr, subject.samples, time.perf_counter() - started)


def diagonal_draws(subject: Subject, changes: Sequence[Change], place: Place) -> Draws:
    """Draws of `1/2 sum_e g_e^2 d_e^2` of each candidate, at its weight or at its layer's output; one pass a batch."""
    linearisation = Linearisation(subject, changes, place)
    generator = torch.Generator().manual_seed(subject.seed)
    draws = Draws(len(changes))
    for batch in linearisation.batches():
        linearised = linearisation.at(batch.inputs)
        gradients = linearised.gradients(output_probe(subject.loss, linearised.outputs, generator))
        for k, change in enumerate(changes):
            squares = [
                linearisation.rows(name, gradients[name] * delta, batch.samples).square().sum(1)
                for name, delta in linearisation.deltas(change, linearised).items()
            ]
            draws.add(k, 0.5 * joined(squares), batch.samples)
        subject.check(batch.after)
    return draws
