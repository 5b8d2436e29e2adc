"""Q-BERT: the largest eigenvalue's mean and spread over parts of the data, times the squared error.

Q-BERT (Shen et al., arXiv 1909.05840) saw that in transformers the largest eigenvalue of a layer differs much from one
part of the data to another, and scores a layer by `|mean(lambda)| + std(lambda)` over parts: a layer that is flat on
average but sharp somewhere is no safe layer. The score is that over n_i, times `||d||^2`, in the units and with the
deviations of `sensitivity.estimators.hawq`; the paper, whose layers are all of one size, has no n_i. It takes tenths of
the training data; here each part is at most one micro-batch, so that it is linearised once for all layers and
iterations.

The standard error is that of mean and standard deviation over k parts, `sqrt(std^2 / k + std^2 / (2 (k - 1)))`, as if
the eigenvalues were normally distributed.
"""

from __future__ import annotations

import numpy as np
import torch

from sensitivity.estimate import Estimate, Subject, Unit
from sensitivity.estimators.eigenvalues import PowerRule, largest_eigenvalues, scores_by_size, weights_of
from sensitivity.estimators.sample_layout import batch_is_free

PARTS = 5


def q_bert(subject: Subject, rule: PowerRule | None = None) -> Estimate:
    """`(|mean(lambda_max)| + std(lambda_max)) / n_i ||d||^2` for weights, NaN for activations.

    Raises:
        ValueError: no candidate rounds a weight, or the samples do not make two parts.
    """
    rule = rule or PowerRule()
    changes = list(subject.weight_changes.values())
    parts = _parts(subject)
    generator = torch.Generator().manual_seed(subject.seed)
    of_parts = []
    for number, part in enumerate(parts):

        def check(fraction: float, number: int = number) -> None:
            subject.check((number + fraction) / len(parts))

        of_parts.append(largest_eigenvalues(part, changes, generator, rule, check))
        check(1.0)
    values = np.stack([eigenvalues.values for eigenvalues in of_parts])
    spread = values.std(0, ddof=1)
    curvature = np.abs(values.mean(0)) + spread
    error = spread * np.sqrt(1 / len(parts) + 1 / (2 * (len(parts) - 1)))
    scores, stderr = scores_by_size(
        subject, dict(zip(weights_of(changes), zip(curvature, error, strict=True), strict=True))
    )
    open_parts = sum(not eigenvalues.converged.all() for eigenvalues in of_parts)
    note = f"{len(parts)} parts of {parts[0].samples} samples" + (
        f"; in {open_parts} of them: {next(e for e in of_parts if not e.converged.all()).note(rule)}"
        if open_parts
        else ""
    )
    samples = sum(part.samples for part in parts)
    return Estimate("q_bert", Unit.RELATIVE, scores, stderr, samples, note)


def _parts(subject: Subject) -> list[Subject]:
    """Disjoint random parts of the samples, each at most one micro-batch, and a whole one where the network says so."""
    size = subject.batch
    if batch_is_free(subject.network):
        size = min(size, max(subject.samples // PARTS, 2))
    count = min(subject.samples // size, PARTS)
    if count < 2:
        raise ValueError(f"q_bert compares parts of the data, but {subject.samples} samples make no two of {size}")
    order = np.random.default_rng(subject.seed).permutation(subject.samples)
    return [subject.take(order[start : start + size]) for start in range(0, count * size, size)]
