"""HAWQ-V2's score of a candidate, from the mean trace and the quantization error."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def omega(
    trace_mean: NDArray[np.float64], squared_error: NDArray[np.float64], trace_stderr: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`Omega_i(f) = Tr(H_ii)/n_i * ||Q_f(W_i) - W_i||^2` (arXiv 1911.03852), with its standard error.

    The *mean* trace times the *total* squared error. `1/2 Omega` is the expected damage if the error had equal energy
    along all eigenvectors of H_ii. All arrays have one entry per candidate. Negative traces (possible with a task
    loss) give negative scores: they are reported as they are.
    """
    return trace_mean * squared_error, trace_stderr * squared_error
