"""M-FAC: the curvature as a sum of one rank-one term for each sample, never a matrix.

M-FAC (Frantar et al., arXiv 2107.03356) and oBERT (Kurtic et al., arXiv 2203.07259) work with the empirical Fisher
matrix `F = mean_s g_s g_s'`, so that `d' F d = mean_s (g_s' d)^2` needs one inner product for each sample. The score
is `1/2 mean_s (g_s' d)^2`, with all correlations between the elements of d, and between tied uses.

Deviations:

1. `g_s = J_s' B' u_s` with independent random signs u_s instead of the gradient of a loss with labels: our loss has
   zero gradient at the float weights, and `E g_s g_s' = J_s' B' B J_s` is its Hessian in one sample, exactly. So the
   estimate is unbiased for `1/2 d' H d`, what `directional` computes without noise.
2. No gradient of one sample in the weights exists: `g_s' d = sum_e g_{y,e} dy_e` at the output y of the layer, where
   one backward pass of a batch keeps the samples apart. That is also how activations are covered.
3. No inverse and no damping: the candidates' errors are given, none is solved for.

Where samples cannot be told apart (see `sensitivity.estimators.sample_layout`) a micro-batch gives one draw, the square
of its sum: unbiased since the signs of samples are independent, with more noise.
"""

from __future__ import annotations

import time

import torch

from sensitivity.estimate import Estimate, Subject, Unit
from sensitivity.estimators.draws import Draws
from sensitivity.estimators.linearisation import Linearisation, Place, joined
from sensitivity.traces import output_probe


def m_fac(subject: Subject) -> Estimate:
    """`1/2 mean_s (g_s' d)^2` for weights and activations."""
    started = time.perf_counter()
    linearisation = Linearisation(subject, subject.changes, Place.OUTPUT)
    generator = torch.Generator().manual_seed(subject.seed)
    draws = Draws(len(subject.changes))
    for batch in linearisation.batches():
        linearised = linearisation.at(batch.inputs)
        gradients = linearised.gradients(output_probe(subject.loss, linearised.outputs, generator))
        for k, change in enumerate(subject.changes):
            along = joined(
                [
                    linearisation.rows(name, gradients[name] * delta, batch.samples).sum(1)
                    for name, delta in linearisation.deltas(change, linearised).items()
                ]
            )
            draws.add(k, 0.5 * along.square(), batch.samples)
        subject.check(batch.after)
    scores, stderr = draws.mean_and_stderr()
    return Estimate("m_fac", Unit.DAMAGE, scores, stderr, subject.samples, time.perf_counter() - started)
