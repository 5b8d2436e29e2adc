"""HAWQ-V2: the mean Hessian trace times the squared error, for weights and for activations.

HAWQ-V2 (Dong et al., arXiv 1911.03852): `Omega = Tr(H)/n ||Q(w) - w||^2`. The score is `1/2 Omega`, the expected
second-order damage of an error with equal energy along all eigenvectors of H. Weights: `sensitivity.traces`, which also
lists what differs from the paper. Activations, in the paper's own words matrix-free: for every sample s the trace of
the Hessian in that sample's activation a_s and its own error,

    mean_s Tr(H_{a_s}) / n_a ||Q(a_s) - a_s||^2 ,

with a probe of the outputs instead of one of the activations: `E ||J_s' B' u_s||^2 = Tr(H_{a_s})` for all samples of a
batch and all activations from one ordinary backward pass. Where samples cannot be told apart
(`sensitivity.estimators.sample_layout`), the mean trace of a batch stands beside its mean error. A site of several
activations has the sum of its activations' scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sensitivity.estimate import Estimate, Subject, Unit
from sensitivity.estimators.linearisation import (
    Linearisation,
    Linearised,
    MicroBatch,
    Place,
    joined,
    weight_error,
)
from sensitivity.estimators.probed_parts import probed_draws
from sensitivity.hutchinson import TraceEstimate, TraceRule
from sensitivity.traces import hessian_traces

Floats = NDArray[np.float64]


def hawq_v2(subject: Subject, rule: TraceRule | None = None) -> Estimate:
    """`1/2 Omega` for weights and activations; `rule` says when the traces of the weights are known well enough.

    The standard error is of the traces: the squared error of a weight is known exactly.
    """
    if subject.weights:
        return hawq_v2_with_traces(subject, subject.weights, rule)[0]
    scores, stderr = _of_activations(subject, 0.0)
    return Estimate("hawq_v2", Unit.DAMAGE, scores, stderr, subject.samples)


def hawq_v2_with_traces(
    subject: Subject, weights: Sequence[str], rule: TraceRule | None = None
) -> tuple[Estimate, TraceEstimate]:
    """The same, and the traces that it rests on: of these `weights`, in their order.

    Args:
        subject: with candidates of weights, of activations, or of both.
        weights: at least one initializer; all that a candidate changes are among them.
        rule: when the traces are known well enough.
    """
    changes, activations = subject.weight_changes, list(subject.activation_changes)
    share = len(changes) / len(subject.changes)  # of the progress; the two parts cost about as much for a candidate
    traces = hessian_traces(
        subject.network,
        weights,
        subject.inputs,
        subject.loss,
        torch.Generator().manual_seed(subject.seed),
        rule,
        subject.batch,
        lambda fraction: subject.check(share * fraction),
        subject.spread,
    )
    rows = [weights.index(change.initializer) for change in changes.values()]
    squared = np.array([np.square(weight_error(subject, change)).sum() for change in changes.values()])
    scores, stderr = np.empty((2, len(subject.changes)))
    scores[list(changes)] = 0.5 * (traces.trace_mean[rows] * squared)
    stderr[list(changes)] = 0.5 * (traces.trace_stderr[rows] * squared)
    if activations:
        scores[activations], stderr[activations] = _of_activations(subject, share)
    subject.check(1.0)  # the traces may have ended early
    return Estimate("hawq_v2", Unit.DAMAGE, scores, stderr, subject.samples), traces


def _of_activations(subject: Subject, done: float) -> tuple[Floats, Floats]:
    changes = list(subject.activation_changes.values())
    linearisation = Linearisation(subject, changes, Place.OUTPUT)

    def work(batch: MicroBatch, linearised: Linearised, gradients: Mapping[str, Tensor]) -> dict[str, list[Tensor]]:
        sums = []
        for change in changes:
            parts = []
            for name, delta in linearisation.deltas(change, linearised).items():
                g, d = (linearisation.rows(name, value, batch.samples) for value in (gradients[name], delta))
                parts.append(g.square().mean(1) * d.square().sum(1))
            sums.append(0.5 * joined(parts))
        return {"hawq_v2": sums}

    def check(fraction: float) -> None:
        subject.check(done + (1 - done) * fraction)

    return probed_draws(subject, linearisation, "activations", work, check)["hawq_v2"].mean_and_stderr()
