"""Share of right classes over all positions together: long samples count more than short ones."""

from __future__ import annotations

import numpy as np

from evaluation.metrics.classes import shares_right
from evaluation.metrics.measurement import Measurement
from evaluation.metrics.pair import Metric, Pair
from evaluation.metrics.predictions import Predictions
from evaluation.metrics.ratios import ratio


def accuracy(pair: Pair) -> list[Measurement]:
    """Share of all counted positions whose class is right; `top1` averages within each sample first.

    Labels below 0 do not count. Without labels the float network's classes are right.
    """
    sequence = pair.single[0].ndim == 3  # [samples, positions, classes] by custom; images have no such
    return [_measurement("accuracy", Predictions.of("accuracy", pair, last=sequence))]


def next_token(pair: Pair) -> list[Measurement]:
    """Share of positions whose likeliest token is the next one, of outputs `[samples, positions, tokens]`.

    Labels `[samples, positions]` are the next token at each position, below 0 where there is none. Without labels it is
    the share of positions with the same likeliest token as the float network.
    """
    return [_measurement("next_token", Predictions.of("next_token", pair, last=True))]


def _measurement(metric: str, predictions: Predictions) -> Measurement:
    right = [each == predictions.truth for each in (predictions.before, predictions.after)]
    if not predictions.labelled or right[0].shape[1] == 1:  # as many positions in each sample: a mean over samples
        return shares_right(metric, right[0], right[1], predictions.counted)
    positions = predictions.counted.sum(1).astype(np.float64)
    values = [ratio((each & predictions.counted).sum(1).astype(np.float64), positions) for each in right]
    return Measurement.of_set(metric, values[0], values[1], len(positions), bounds=(-1.0, 1.0))


ACCURACY = Metric("accuracy", accuracy, ("labels",), options=("axis", "threshold"))
NEXT_TOKEN = Metric("next_token", next_token, ("labels",), options=("axis",))
