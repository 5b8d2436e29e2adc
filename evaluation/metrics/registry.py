"""All metrics by name."""

from __future__ import annotations

from evaluation.errors import MetricNotApplicable
from evaluation.metrics.classes import AGREEMENT, KL, TOP1, TOP5
from evaluation.metrics.ctc import CTC
from evaluation.metrics.decisions import AUC, FLIPS
from evaluation.metrics.detection import DETECTION_F1, DETECTION_MAP
from evaluation.metrics.embeddings import RANK_CORRELATION, RECALL_AT_K
from evaluation.metrics.pair import Metric
from evaluation.metrics.perplexity import PERPLEXITY
from evaluation.metrics.positions import ACCURACY, NEXT_TOKEN
from evaluation.metrics.residuals import MAE, MSE, R2, SQNR_DB
from evaluation.metrics.same import SAME
from evaluation.metrics.segmentation import MIOU
from evaluation.metrics.values import COSINE, EXPLAINED

_CLASSES = (TOP1, TOP5, ACCURACY, AGREEMENT, KL, MIOU, NEXT_TOKEN, PERPLEXITY, CTC, SAME)
_SCORES = (FLIPS, AUC)
_VALUES = (COSINE, EXPLAINED, MSE, MAE, R2, SQNR_DB)
_EMBEDDINGS = (RANK_CORRELATION, RECALL_AT_K)
_DETECTIONS = (DETECTION_F1, DETECTION_MAP)
METRICS = {metric.name: metric for metric in (*_CLASSES, *_SCORES, *_VALUES, *_EMBEDDINGS, *_DETECTIONS)}


def metric_of(name: str) -> Metric:
    """The metric of this name.

    Raises:
        MetricNotApplicable: there is none.
    """
    if name not in METRICS:
        raise MetricNotApplicable(f"there is no metric {name!r}; expected one of {', '.join(sorted(METRICS))}")
    return METRICS[name]
