"""Metrics of continuous outputs, against the float network: the cosine, and the share that is explained.

The share explained looks at every channel group by itself (`evaluation.channels`): `1 - error / error of the mean
outputs`, so that a network that answers the mean of each channel explains nothing, whatever its units. The drop is the
share that is not explained any more, of the worst channel: pixels cannot drown probabilities.
"""

from __future__ import annotations

import numpy as np

from evaluation.channels import Channels
from evaluation.errors import MetricNotApplicable
from evaluation.metrics.measurement import Measurement, Output, Scores, Unit
from evaluation.metrics.pair import Metric, Pair, chunks, require_finite_float, require_floats

MOST_UNEXPLAINED = 1e6
"""What a value that is not finite counts as: a million times the error of the mean outputs."""


def cosine(pair: Pair) -> list[Measurement]:
    """Mean cosine between the outputs of each sample, flattened; 1 where both are zero, 0 where only one is.

    A value of the quantized network that is not finite counts as -1.
    """
    before, after = pair.single
    require_floats("cosine", pair.name, before)
    if before.ndim == 0 or len(before) == 0:
        raise MetricNotApplicable(f"cosine needs samples, got outputs {list(before.shape)}")
    require_finite_float("cosine", pair.name, before)
    parts = []
    for first, second in chunks(before, after):
        x, y = first.reshape(len(first), -1), second.reshape(len(second), -1)
        with np.errstate(invalid="ignore", over="ignore"):
            norms = np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1)
            product = norms[0] * norms[1]
            cosines = np.divide((x * y).sum(1), product, out=np.zeros(len(x)), where=product > 0)
        cosines[(norms[0] == 0) & (norms[1] == 0)] = 1.0
        cosines[~np.isfinite(y).all(1)] = -1.0
        parts.append(np.clip(cosines, -1.0, 1.0))
    cosines = np.concatenate(parts)
    return [
        Measurement(
            "cosine", 1.0, float(cosines.mean()), 1.0 - cosines, np.ones_like(cosines), False, (0.0, 2.0), Unit.SHARE
        )
    ]


def explained(pair: Pair) -> list[Measurement]:
    """The share of the variance of each channel group that the quantized network explains, one part for each group.

    Means and variances are those of the float network on these samples. A channel that is the same for all samples
    cannot be explained; its error is measured against the mean square of its values.
    """
    before, after = pair.single
    require_floats("explained", pair.name, before)
    require_finite_float("explained", pair.name, before)
    channels = Channels.of(before, pair.options.get("axis"))
    errors, variances = unexplained(before, after, channels)
    drops = errors.mean(0)
    # the variance is an estimate too, and what one sample adds to both is what it contributes to their ratio
    contributions = errors + drops * (1 - variances)
    return [
        Measurement(
            "explained",
            1.0,
            float(1 - drops[index]),
            contributions[:, index],
            np.ones(len(contributions)),
            part=f"{pair.name}{channels.label(index)}",
        )
        for index in range(channels.groups)
    ]


def unexplained(before: Output, after: Output, channels: Channels) -> tuple[Scores, Scores]:
    """`[samples, groups]` each: the mean square error of each sample over the variance of its channel group, and the
    square of its distance from the mean outputs over the same, whose mean over the samples is 1."""
    errors, variances = [], []
    for first, second in chunks(before, after):
        spread = channels.spread_like(first)
        with np.errstate(invalid="ignore", over="ignore"):
            error = channels.mean_by_group(np.square((second - first) / spread))
            variance = channels.mean_by_group(np.square((first - channels.mean_like(first)) / spread))
        errors.append(np.where(np.isfinite(error), np.minimum(error, MOST_UNEXPLAINED), MOST_UNEXPLAINED))
        variances.append(variance)
    constant = channels.constant_groups
    return np.concatenate(errors), np.where(constant, 1.0, np.concatenate(variances))


COSINE = Metric("cosine", cosine, generic=True)
EXPLAINED = Metric("explained", explained, generic=True, options=("axis",))
