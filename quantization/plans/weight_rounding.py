"""One weight of a plan rounded anew in the format it has: GPTQ, then coordinate descent.

integers      GPTQ; coordinate descent, in which zero points and the scales of blocks stay
power grids   the same, on the grid of the weight that is rounded
rotated       the same in the rotated basis, with H rotated
coded         GPTQ that counts bits, alone
codebooks     GPTQ with tables fitted to the codes; coordinate descent on codes and tables
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from network.graph import ChannelAxis
from quantization.formats import (
    CodebookFormat,
    CodedFormat,
    HadamardFormat,
    IntegerFormat,
    PowerFormat,
    WeightFormat,
)
from quantization.plans.codebook_descent import codebook_descent, row_tables
from quantization.plans.coordinate_descent import SWEEPS, coordinate_descent, sweeps_for
from quantization.rounding.gptq import Prepared, gptq, prepare
from quantization.rounding.gptq_codebooks import codebook_gptq
from quantization.rounding.gptq_coded import coded_gptq, coded_gptq_from
from quantization.rounding.gptq_grids import power_gptq
from quantization.rounding.gptq_rotations import prepare_rotated, runs_along_inputs, turned_back
from quantization.rounding.reduction import Reduction
from quantization.rounding.statistics import InputStatistics
from quantization.storage.codebooks import CodebookWeight
from quantization.storage.coded import CodedWeight
from quantization.storage.weights import Floats, QuantizedWeight


def reason_to_keep(weight: QuantizedWeight, reduction: Reduction) -> str:
    """Why a weight cannot be rounded anew; empty if it can."""
    name = weight.format.name
    match weight.format:
        case IntegerFormat() | PowerFormat() | CodedFormat():
            return ""
        case HadamardFormat():
            return "" if runs_along_inputs(reduction) else f"blocks of {name} do not run along its inputs"
    if not isinstance(weight, CodebookWeight):
        return f"GPTQ does not round {name} anew"
    return f"an output sums over values of several tables of {name}" if row_tables(weight, reduction) is None else ""


def round_anew(
    weight: Floats,
    format_: WeightFormat,
    channel_axis: ChannelAxis,
    statistics: InputStatistics,
    damping: float,
    sweeps: int = SWEEPS,
    check: Callable[[], None] = lambda: None,
    begun: QuantizedWeight | None = None,
) -> tuple[QuantizedWeight, str]:
    """`weight` in `format_`, for `statistics` and towards what `quantization.rounding.gptq.prepare` says; GPTQ's note.

    Args:
        weight: finite float32; there is no `reason_to_keep` what it has in `format_`.
        channel_axis: axis of the output channels.
        damping: of H, as a fraction of its mean.
        sweeps: of coordinate descent, for a weight of few columns.
        check: called again and again; what it raises ends the work.
        begun: the weight in `format_` as it was rounded by itself, if it was.

    Raises:
        TypeError: no weight in `format_` is rounded anew.
    """
    sweeps = sweeps_for(statistics.shape[1], sweeps)
    if isinstance(format_, HadamardFormat):
        prepared = prepare_rotated(weight, channel_axis, statistics, damping)
    else:
        prepared = prepare(weight, statistics, damping)
    hessian = _damped(prepared) if sweeps else prepared.hessian
    problem = prepared.matrix, hessian, prepared.reduction, sweeps, check
    quantized: QuantizedWeight
    match format_:
        case IntegerFormat():
            (integers,) = gptq(prepared, [format_], channel_axis)
            quantized = coordinate_descent(integers, *problem)
        case HadamardFormat():
            (integers,) = gptq(prepared, [IntegerFormat(format_.bits)], channel_axis)
            quantized = turned_back(coordinate_descent(integers, *problem))
        case PowerFormat():
            (power,) = power_gptq(prepared, [format_], channel_axis)
            quantized = coordinate_descent(power, *problem)
        case CodebookFormat():
            (codebook,) = codebook_gptq(prepared, [format_], channel_axis, check)
            quantized = codebook_descent(codebook, *problem)
        case CodedFormat() if isinstance(begun, CodedWeight):
            quantized = coded_gptq_from(begun, prepared, check)
        case CodedFormat():
            (quantized,) = coded_gptq(prepared, [format_], check)
        case _:
            raise TypeError(f"a weight in {format_.name} cannot be rounded anew; keep it")
    return quantized, prepared.note


def _damped(prepared: Prepared) -> NDArray[np.float64]:
    """H `[groups, reduced, reduced]` as GPTQ damped it."""
    damped = prepared.hessian.copy()
    means = np.einsum("gii->g", damped) / damped.shape[1]
    np.einsum("gii->gi", damped)[:] += (prepared.factor.damping * np.where(means == 0, 1.0, means))[:, None]
    return damped
