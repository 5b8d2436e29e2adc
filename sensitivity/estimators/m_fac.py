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

from collections.abc import Sequence

from torch import Tensor

from sensitivity.estimate import Estimate, Subject
from sensitivity.estimators.fisher_outputs import from_products
from sensitivity.estimators.linearisation import joined


def m_fac(subject: Subject) -> Estimate:
    """`1/2 mean_s (g_s' d)^2` for weights and activations."""
    return from_products(subject, {"m_fac": square_of_sum})["m_fac"]


def square_of_sum(products: Sequence[Tensor]) -> Tensor:
    """`(sum_e g_e d_e)^2` of each unit, from the products `[units, elements]` of every value."""
    return joined([rows.sum(1) for rows in products]).square()
