"""GPTQ on power grids.

Exponent and scales are those of least squared error in the weights (`quantization.rounding.power_grids`); then the
columns make up for each other's errors, and each scale takes the value that suits its codes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from quantization.formats import PowerFormat
from quantization.rounding.gptq import Prepared
from quantization.rounding.gptq_grids import gptq_to_grids
from quantization.rounding.power_grids import optimal_power
from quantization.storage.powers import PowerWeight, ascending


def power_gptq(prepared: Prepared, formats: Sequence[PowerFormat], channel_axis: int) -> list[PowerWeight]:
    """The target of `prepared` (`quantization.rounding.gptq.prepare`) in each of `formats`, rounded by GPTQ.

    Args:
        channel_axis: axis of the output channels.

    Raises:
        ValueError: a channel axis along which the layer sums.
    """
    weights = []
    for format_ in formats:
        scale, table = optimal_power(prepared.target, format_, channel_axis)
        values = ascending(table).astype(np.float32)
        # of a negative scale the highest code has the lowest value
        rows = np.sort(scale.reshape(-1, 1) * values, axis=1)
        (found,) = gptq_to_grids(prepared, [rows], channel_axis)
        places = np.where(scale < 0, len(values) - 1 - found.codes.astype(np.int16), found.codes)
        codes = (places - len(values) // 2).astype(np.int8)
        if found.factors is not None:
            scale = scale * found.factors.reshape(scale.shape)
        weights.append(PowerWeight(format_, codes, scale, table))
    return weights
