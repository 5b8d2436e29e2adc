"""All metrics by name."""

from __future__ import annotations

from evaluation.errors import MetricNotApplicable
from evaluation.metrics.classes import AGREEMENT, KL, TOP1
from evaluation.metrics.pair import Metric
from evaluation.metrics.values import COSINE, EXPLAINED

METRICS = {metric.name: metric for metric in (TOP1, AGREEMENT, KL, COSINE, EXPLAINED)}


def metric_of(name: str) -> Metric:
    """The metric of this name.

    Raises:
        MetricNotApplicable: there is none.
    """
    if name not in METRICS:
        raise MetricNotApplicable(f"there is no metric {name!r}; expected one of {', '.join(sorted(METRICS))}")
    return METRICS[name]
