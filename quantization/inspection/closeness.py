"""How far a dequantized weight is from the float one, and whether rounding explains it.

Rounding to nearest leaves an error of `step / sqrt(12)` in each value that has nothing to do with the value itself;
clipping, GPTQ and learned rounding leave a small multiple of it. A wrong scale, a shifted zero point, scales of other
channels, another layer's values leave errors that grow with the values, have a mean, or fill whole channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantization.inspection.findings import Finding, defect
from quantization.inspection.matching import Match, cosine

Floats = NDArray[np.float64]

# a layer whose values have less in common with the float ones carries next to nothing of them
_LEAST_COSINE = 0.5
# so does one whose codes say less than this about a value, unless the float values are as few
_LEAST_BITS = 1.0
_MOST_ERROR_OF_FEW = 0.5
# errors of this many steps (root mean square) are rounding, whatever the row's values are; to nearest leaves 0.29
_ROUNDING_STEPS = 0.75
# a mean error of this many steps is a zero point that is off; of codes of 2 bits, the values themselves are skewed
_MEAN_STEPS = 0.4
_MEAN_STEPS_OF_FEW = 0.7
# what clipping and sequential rounding may add to the error of the widest range
_ABOVE_ROUNDING = 2.5
_LEAST_ERROR = 0.02


@dataclass(frozen=True, slots=True)
class Closeness:
    """`error` is `||dequantized - float|| / ||float||`, `multiple` the number by which the float weight comes closest
    to the dequantized one, `expected_error` that of rounding to nearest over the whole range at the bits in use, None
    where the codes are no grid."""

    error: float
    cosine: float
    multiple: float
    expected_error: float | None


def closeness(pair: Match) -> Closeness:
    """Of a matched pair."""
    wanted, got = pair.values
    norm = max(float(np.linalg.norm(wanted)), 1e-30)
    error = float(np.linalg.norm(got - wanted)) / norm
    multiple = float(np.vdot(got, wanted)) / norm**2
    return Closeness(error, cosine(wanted, got), multiple, _expected(pair, wanted))


def wrong_values(pair: Match, close: Closeness) -> Finding | None:
    """The one thing that is most wrong with a weight's values, None where rounding explains them."""
    wanted, got = pair.values
    name = pair.float.name
    if not np.linalg.norm(wanted):
        return None
    if close.cosine < _LEAST_COSINE:
        return defect(
            "near_chance_layer",
            name,
            f"the dequantized weight has next to nothing of the float one (cosine {close.cosine:.2f}, relative error "
            f"{close.error:.2f}; matched by {pair.by}); expected a cosine near 1: quantize this layer again",
        )
    carried = pair.quantized.stored.carried_bits
    if carried is not None and carried < _LEAST_BITS and close.error > _MOST_ERROR_OF_FEW:
        return defect(
            "near_chance_layer",
            name,
            f"its codes carry {carried:.2f} bits for each value, stored in {pair.quantized.stored.stored_bits:g}, and "
            f"leave a relative error of {close.error:.2f}: its scale is too wide, calibrate again",
        )
    rest = float(np.linalg.norm(got - close.multiple * wanted) / np.linalg.norm(wanted))
    if abs(close.multiple - 1) > 0.05 + 1.5 * rest**2:
        return defect(
            "scale_wrong",
            name,
            f"the dequantized weight is {close.multiple:.3f} times the float one; expected 1.000: its scale is wrong",
        )
    if (finding := _shifted(pair, wanted, got)) is not None:
        return finding
    if (rows := _wrong_rows(pair, wanted, got)).size:
        return defect(
            "scale_wrong",
            name,
            f"{len(rows)} of {len(wanted)} channels are wrong by more than rounding explains, first "
            f"{', '.join(map(str, rows[:5]))}; expected each near its float values: look at their scales and codes",
        )
    if close.expected_error is not None and close.error > _ABOVE_ROUNDING * close.expected_error + _LEAST_ERROR:
        return defect(
            "scale_wrong",
            name,
            f"the relative error is {close.error:.3f}; rounding at {pair.quantized.stored.used_bits:.0f} bits over the "
            f"whole range leaves {close.expected_error:.3f}: values are clipped or codes are wrong, calibrate again",
        )
    return None


def _shifted(pair: Match, wanted: Floats, got: Floats) -> Finding | None:
    step = pair.step
    if step is None or wanted.size < 32:
        return None
    steps = (got - wanted) / np.where(step > 0, step, np.inf)
    mean = float(steps.mean())
    few = pair.quantized.stored.used_bits < 3
    if abs(mean) <= (_MEAN_STEPS_OF_FEW if few else _MEAN_STEPS) or float(steps.std()) > max(1.0, abs(mean)):
        return None
    return defect(
        "scale_wrong",
        pair.float.name,
        f"all values are shifted by {mean:+.1f} steps of the scale on average; expected 0: its zero point is wrong",
    )


def _wrong_rows(pair: Match, wanted: Floats, got: Floats) -> NDArray[np.intp]:
    """Channels that are a multiple of what they should be, where that is more than a few steps."""
    norms = np.linalg.norm(wanted, axis=1)
    matters = norms > 1e-3 * norms.max()
    safe = np.where(norms > 0, norms, 1)
    multiple = (got * wanted).sum(axis=1) / safe**2
    rest = np.linalg.norm(got - multiple[:, None] * wanted, axis=1) / safe
    allowed = 0.1 + 1.5 * rest**2 + 4 * rest / np.sqrt(wanted.shape[1])
    wrong = matters & (np.abs(multiple - 1) > allowed)
    step = pair.step
    if step is not None:
        steps = (got - wanted) / np.where(step > 0, step, np.inf)
        wrong &= np.sqrt((steps**2).mean(axis=1)) > _ROUNDING_STEPS
        if wanted.shape[1] >= 16:
            wrong |= matters & (np.abs(steps.mean(axis=1)) > 1.5)
    return np.flatnonzero(wrong)


def _expected(pair: Match, wanted: Floats) -> float | None:
    """The relative error of rounding to nearest over the range of the tensor, or of each row, at the bits in use."""
    stored = pair.quantized.stored
    if not stored.granularity or not 0.9 < stored.used_bits <= 16 or (pair.step is None and not stored.is_float):
        return None
    largest = np.abs(wanted).max(axis=1, keepdims=True) if stored.granularity != "tensor" else np.abs(wanted).max()
    errors = np.minimum(2 * largest / (2**stored.used_bits - 1) / np.sqrt(12), np.sqrt((wanted**2).mean()))
    norm = float(np.linalg.norm(wanted))
    return float(np.sqrt((np.broadcast_to(errors, wanted.shape) ** 2).sum())) / norm if norm > 0 else None
