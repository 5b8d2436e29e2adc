"""HAWQ: the largest eigenvalue of every layer's block of the Hessian, times the squared error.

HAWQ (Dong et al., arXiv 1905.03696) orders layers by `lambda_max(H_ii) / n_i`, and weighs their errors as
`lambda_max ||Q(W_i) - W_i||^2`. The score is `lambda_max(H_ii) / n_i ||d||^2`, what HAWQ-V2 later wrote with the trace
in the place of the eigenvalue. It only orders (`Unit.RELATIVE`): `1/2 lambda_max ||d||^2` would bound the second-order
damage from above, reached by an error along one single direction; over n_i it is neither bound nor estimate.

Deviations: the loss is the damage and its Hessian Gauss-Newton (`sensitivity.loss`); the iteration stops on its
residual and the result has a standard error (`sensitivity.estimators.eigenvalues`); a random part of the samples is
used, because an iteration costs two passes for *each* layer.
"""

from __future__ import annotations

import torch

from sensitivity.estimate import Estimate, Subject, Unit
from sensitivity.estimators.eigenvalues import PowerRule, largest_eigenvalues, scores_by_size, weights_of

SAMPLES = 256


def hawq(subject: Subject, rule: PowerRule | None = None) -> Estimate:
    """`lambda_max(H_ii) / n_i ||d||^2` for weights, NaN for activations; the note says how the iteration ended.

    Raises:
        ValueError: no candidate rounds a weight.
    """
    rule = rule or PowerRule()
    changes = list(subject.weight_changes.values())
    generator = torch.Generator().manual_seed(subject.seed)
    count = min(max(SAMPLES, subject.batch), subject.samples)
    count = count // subject.batch * subject.batch or count  # whole batches, for networks that fix their size
    part = subject.take(torch.randperm(subject.samples, generator=generator)[:count].numpy())
    eigenvalues = largest_eigenvalues(part, changes, generator, rule, subject.check)
    subject.check(1.0)
    values = zip(eigenvalues.values, eigenvalues.stderr, strict=True)
    scores, stderr = scores_by_size(subject, dict(zip(weights_of(changes), values, strict=True)))
    return Estimate("hawq", Unit.RELATIVE, scores, stderr, part.samples, eigenvalues.note(rule))
