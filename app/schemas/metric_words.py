"""What metrics are about, in words."""

from __future__ import annotations

from collections.abc import Mapping

ABSOLUTE: Mapping[str | None, str] = {
    None: "For every output a metric is chosen that fits it. Of right classes, at most {count} may be lost; of other "
    "numbers, at least {kept} of the variance of every channel must be kept.",
    "top1": "At most {count} held-out samples more may be classified wrongly than by your network.",
    "top5": "At most {count} held-out samples more may miss their class among the {k} highest than with your network.",
    "accuracy": "Of all positions (tokens, pixels) of the held-out samples, at most {count} more may get a wrong class "
    "than from your network.",
    "miou": "The mean intersection over union of the segments may fall by at most {points}.",
    "agreement": "At most {count} held-out samples may get another class than from your network.",
    "next_token": "At most {count} next tokens more may be predicted wrongly than by your network.",
    "perplexity": "The perplexity may rise by at most {value}.",
    "flips": "At most {count} held-out samples more may end on the wrong side of the threshold than with your network.",
    "auc": "The area under the ROC curve may fall by at most {points}.",
    "ctc": "Of {of} symbols of the right text, at most {number} more may be read wrongly than by your network.",
    "same": "At most {count} elements of the outputs may differ from those of your network.",
    "mse": "The mean squared error may rise by at most {value}, in squared units of the output.",
    "mae": "The mean absolute error may rise by at most {value}, in units of the output.",
    "r2": "R² may fall by at most {points} in any channel: that share of the variance of the targets.",
    "sqnr_db": "The outputs must stay at least {decibels} dB above their error against your network; where the data "
    "hold targets, at most {value} dB may be lost.",
    "explained": "At least {kept} of the variance of every output channel must be kept.",
    "rank_correlation": "The rank correlation, of which 1 is perfect, may fall by at most {value}.",
    "recall_at_k": "Of the right ones among the {k} nearest of each sample, at most {count} may be lost.",
    "detection_f1": "F1 of the detections may fall by at most {points}.",
    "detection_map": "The mean average precision of the detections may fall by at most {points}.",
    "kl": "The predicted distributions may move away from your network's by at most {value} nats on average.",
    "cosine": "The mean cosine between the outputs and those of your network must be at least {cosine}.",
}
"""The promise of an absolute budget, by metric; None: none is named."""

NOUNS: Mapping[str | None, str] = {
    None: "metric that is chosen",
    "top1": "accuracy",
    "top5": "top-k accuracy",
    "accuracy": "accuracy over all positions",
    "miou": "mean intersection over union",
    "agreement": "agreement with your network",
    "next_token": "accuracy of the next token",
    "perplexity": "perplexity",
    "flips": "accuracy at the threshold",
    "auc": "area under the ROC curve",
    "ctc": "label error rate",
    "same": "share of equal elements",
    "mse": "mean squared error",
    "mae": "mean absolute error",
    "r2": "R²",
    "sqnr_db": "signal-to-noise ratio",
    "explained": "explained variance of every output channel",
    "rank_correlation": "rank correlation",
    "recall_at_k": "recall",
    "detection_f1": "F1 of the detections",
    "detection_map": "mean average precision",
    "kl": "KL divergence",
    "cosine": "cosine",
}
"""What each metric measures."""
