"""Biases: what is added behind a layer, in both files."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quantization.inspection.closeness import Closeness
from quantization.inspection.findings import Finding, defect, note, warning
from quantization.inspection.matching import Match, cosine

# of a row of the weight: smaller biases are none
_LEAST_BIAS = 1e-3
# a weight whose relative error is below this needs no correction of its bias that anybody could see
_FINE = 0.02
_SAME = 0.98  # of the cosine


def wrong_bias(pair: Match, close: Closeness, rows: NDArray[np.float64] | None) -> Finding | None:
    """What is wrong with the bias behind a matched layer; `rows` are the factors of an equalized weight."""
    shifts, tail = pair.shifts, pair.quantized.tail
    if shifts is None or tail is None:
        return None
    wanted, got = shifts
    if rows is not None:
        wanted = wanted * rows
    name = pair.float.node or pair.float.name
    if tail.is_saturated:
        return defect(
            "bias_differs",
            name,
            "a bias lies at the end of what int32 can hold: the product of the scales of input and weight is too "
            "small for it; widen the scale of its channel",
        )
    norm = float(np.linalg.norm(wanted))
    weights = pair.values[0]
    of_a_row = float(np.linalg.norm(weights)) / np.sqrt(len(weights))
    if norm / np.sqrt(len(wanted)) < _LEAST_BIAS * of_a_row:
        return None
    is_unsure = tail.is_open or (pair.float.tail is not None and pair.float.tail.is_open)
    if not got.any():
        text = "nothing is added behind this layer; the float network adds a bias: keep it, as int32 or as float"
        return note("bias_missing", name, text) if is_unsure else defect("bias_missing", name, text)
    if rows is not None and cosine(wanted, got) > _SAME:
        return None  # the factors of a layer are known up to one for all its channels
    difference = float(np.linalg.norm(got - wanted)) / norm
    multiple = float(np.vdot(got, wanted)) / norm**2
    rest = float(np.linalg.norm(got - multiple * wanted)) / norm
    dropped = (np.abs(got) < 1e-3 * np.abs(wanted)) & (np.abs(wanted) > 0.3 * np.abs(wanted).max())
    if abs(multiple - 1) > 0.1 and rest < 0.3 * abs(multiple - 1):
        text = f"the bias is {multiple:.3g} times that of the float network; expected 1: its scale is wrong"
    elif close.error < _FINE and (difference > 0.5 or dropped.any()):
        text = (
            f"the bias differs from that of the float network by {difference:.0%} (cosine {cosine(wanted, got):.2f}); "
            "the weight's rounding is too fine to be corrected for: take the bias of the float network"
        )
    elif difference > 1:
        text = f"the bias differs from that of the float network by {difference:.0%}; a correction may explain it"
        return warning("bias_differs", name, text)
    else:
        return None
    return warning("bias_differs", name, text) if is_unsure else defect("bias_differs", name, text)
