"""How candidates interact, four ways that are too dear for a job: one file for each.

To second order the damage of a plan is `1/2 sum_ij d_i' H_ij d_j` over its candidates, d_i the rounding error of the
i-th and H the Hessian of the loss. With `c_ij = d_i' H_ij d_j`:

| file | what it gives | cost |
|---|---|---|
| `pairs` | `L(ij) - L(i) - L(j)`, measured (CLADO, arXiv 2307.05657) | one pass for each pair |
| `products` | all `c_ij` | one Hessian-vector product for each candidate |
| `row_sums` | `1/2 sum_j c_ij` within one plan | one Hessian-vector product |
| `path_integral` | each candidate's share of a plan's true damage | K gradients |
| `sensitivity.cross_layer`, in the product | `G = C / 2` | one forward pass for each candidate |

On a quadratic all five agree.
"""
