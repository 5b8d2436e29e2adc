"""FIT: the diagonal of the Fisher matrix in the weights, and in the activations.

FIT (Zandonati et al., arXiv 2210.08502) takes the change of the loss as `sum_j F_jj d_j^2`, F the Fisher information
with the correlations between parameters left out, over weights and activations alike. The score is

    1/2 sum_j F_jj d_j^2 ,

the second-order term with a diagonal Hessian; exact where the errors of different weights have no correlation.

How it differs from FIT as published:

1. Without labels. FIT has the empirical Fisher, the mean square of the *task* loss's gradient in one sample, which
   trusts that the labels are distributed as the network believes. Here `g = J' B' u` with random signs u of the outputs
   (`sensitivity.traces.output_probe`); `E g_j^2` is the diagonal of the Hessian of the damage itself, and for KL that
   is the true Fisher information of the float network. No gradient of a single sample is needed: with signs independent
   between samples, the squared gradient of a whole batch is unbiased.
2. FIT takes the mean of F over a layer times the noise power of a uniform quantizer, `step^2 / 12`. Here every weight's
   own error stands beside its own F: rounding that avoids the important weights is seen as such.
3. The factor 1/2.

Each micro-batch is one draw for a weight; activations are told apart by samples.
"""

from __future__ import annotations

from sensitivity.estimate import Estimate, Subject
from sensitivity.estimators.fisher_outputs import from_products, sum_of_squares
from sensitivity.estimators.linearisation import Place


def fisher_weights(subject: Subject) -> Estimate:
    """`1/2 sum_j F_jj d_j^2` for weights, `1/2 mean_s sum_e F_ee d_e^2` for activations."""
    return from_products(subject, {"fisher_weights": sum_of_squares}, Place.WEIGHT)["fisher_weights"]
