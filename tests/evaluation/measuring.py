"""One metric of one output, as tests want it."""

from __future__ import annotations

import numpy as np

from evaluation.metrics.measurement import DropKind, Measurement
from evaluation.metrics.pair import Pair
from evaluation.metrics.registry import metric_of
from evaluation.metrics.truth import Truth

BASIC = ("top1", "agreement", "kl", "cosine")
KINDS = (DropKind.ABSOLUTE, DropKind.RELATIVE)


def measure(metric: str, before: np.ndarray, after: np.ndarray, labels: np.ndarray | None = None) -> Measurement:
    """The only part of a metric of the output `y`."""
    truth = Truth({} if labels is None else {"labels": labels})
    (part,) = metric_of(metric).measure(Pair(("y",), (before,), (after,), truth))
    return part
