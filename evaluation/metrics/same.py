"""Outputs that hold no floats: indices of ArgMax and TopK, masks, names of classes."""

from __future__ import annotations

import numpy as np

from evaluation.errors import MetricNotApplicable
from evaluation.metrics.measurement import Measurement
from evaluation.metrics.pair import Metric, Pair, over_samples
from evaluation.metrics.predictions import require_samples

_KINDS = "biuUSO"  # booleans, integers, strings


def same(pair: Pair) -> list[Measurement]:
    """Share of elements of each sample that are those of the float network, at the same places."""
    before, after = pair.single
    require_samples("same", pair.name, before)
    if before.dtype.kind not in _KINDS:
        raise MetricNotApplicable(
            f"same compares outputs of integers, booleans or strings, got {before.dtype} in {pair.name!r}, where "
            "rounding alone makes a difference; use explained"
        )
    if before.dtype.kind == "O" or after.dtype.kind == "O":
        before, after = before.astype(np.str_), after.astype(np.str_)
    equal = over_samples(np.broadcast_to(np.asarray(before == after, dtype=np.bool_), before.shape))
    single = before[0].size == 1
    return [Measurement("same", 1.0, float(equal.mean()), 1.0 - equal, np.ones_like(equal), single, bounds=(0.0, 1.0))]


SAME = Metric("same", same)
