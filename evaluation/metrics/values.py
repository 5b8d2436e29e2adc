"""Metrics of continuous outputs, against the float network: the cosine, and the share that is explained.

The share explained looks at every channel group by itself (`evaluation.channels`): `1 - error / error of the mean
outputs`, so that a network that answers the mean of each channel explains nothing, whatever its units. The drop is the
share that is not explained any more, of the worst channel: pixels cannot drown probabilities.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from evaluation.channels import Channels
from evaluation.errors import MetricNotApplicable
from evaluation.metrics.measurement import Measurement, Output, Scores, Unit
from evaluation.metrics.pair import Metric, Pair, chunks, require_finite_float, require_floats

MOST_UNEXPLAINED = 1e6
"""What a value that is not finite counts as: a million times the error of the mean outputs."""

LARGEST = 1e100
"""Float outputs and targets must not be larger: sums of their squares would overflow in float64."""


def cosine(pair: Pair) -> list[Measurement]:
    """Mean cosine between the outputs of each sample, flattened; 1 where both are zero, 0 where only one is.

    A value of the quantized network that is not finite counts as -1.
    """
    before, after = require_values("cosine", pair)
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

    The variance is the error of the mean output, the float network's on these samples, position by position. Places
    where nothing changed in any sample count in neither: a cache holds copies of its input, which explain nothing. A
    channel that is the same for all samples cannot be explained; its error is measured against the mean square of its
    values.
    """
    if pair.options.get("padded"):  # rows that one sample has more of than another
        filled = [_filled(before, after) for before, after in zip(pair.before, pair.after, strict=True)]
        pair = replace(pair, before=tuple(b for b, _ in filled), after=tuple(a for _, a in filled))
    output, other = require_values("explained", pair)
    channels = Channels.of(output, axis_of_channels(pair))
    errors, variances = unexplained(output, other, channels, _changed(output, other))
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


def unexplained(
    before: Output, after: Output, channels: Channels, places: NDArray[np.bool_] | None = None
) -> tuple[Scores, Scores]:
    """`[samples, groups]` each: the square error of each sample over the variance of its channel group, and the square
    of its distance from the mean output over the same, whose mean over the samples is 1.

    Args:
        places: of the shape of one sample, those that count in the variance; None for all.
    """
    errors, variances = [], []
    for first, second in chunks(before, after):
        spread = channels.spread_like(first)
        with np.errstate(invalid="ignore", over="ignore"):
            error = channels.mean_by_group(np.square((second - first) / spread))
            deviation = (first - channels.mean) / spread
            variance = channels.mean_by_group(
                np.square(deviation if places is None else np.where(places, deviation, 0))
            )
        errors.append(np.where(np.isfinite(error), np.minimum(error, MOST_UNEXPLAINED), MOST_UNEXPLAINED))
        variances.append(variance)
    error, variance = np.concatenate(errors), np.concatenate(variances)
    whole = variance.mean(0)
    # a channel that never varies, or no place of it that counts: its size is all there is to compare with
    varies = ~channels.constant_groups & (whole > 0)
    whole = np.where(varies, whole, 1.0)
    return error / whole, np.where(varies, variance / whole, 1.0)


def _filled(before: Output, after: Output) -> tuple[Output, Output]:
    """Rows that neither has are 0 in both; a row that one network alone has is as wrong as one of another sample."""
    first, second = np.nan_to_num(before, nan=0.0), np.nan_to_num(after, nan=0.0)
    alone = np.isnan(before) != np.isnan(after)
    wrong = math.sqrt(2.0) * float(first.std())
    return first, np.where(alone, first.astype(np.float64) + wrong, second)


def _changed(before: Output, after: Output) -> NDArray[np.bool_]:
    """Of the shape of one sample: the places where the networks differ in any sample."""
    changed = np.zeros(before.shape[1:], dtype=bool)
    for first, second in chunks(before, after):
        changed |= ~(first == second).all(0)
    return changed


def require_values(metric: str, pair: Pair) -> tuple[Output, Output]:
    """The only output of both networks, where it holds finite floats of the float network, at least one a sample.

    Raises:
        MetricNotApplicable: it does not.
    """
    before, after = pair.single
    for output in (before, after):
        require_floats(metric, pair.name, output)
        if output.ndim == 0 or output.size == 0:
            raise MetricNotApplicable(
                f"{metric} needs samples with at least one number each, got {list(output.shape)} in {pair.name!r}"
            )
    require_finite_float(metric, pair.name, before)
    _require_small(f"output {pair.name!r} of the float network", before)
    return before, after


def targets_of(pair: Pair) -> Scores | None:
    """The targets in the shape of the only output, None where the data have none; axes of length 1 make no difference.

    Raises:
        MetricNotApplicable: targets of another shape, or not finite.
    """
    targets = pair.truth.targets(pair.name)
    if targets is None:
        return None
    shape = pair.before[0].shape
    if _without_ones(targets.shape) != _without_ones(shape):
        raise MetricNotApplicable(
            f"targets have the shape {list(targets.shape)}, the network's output {pair.name!r} {list(shape)}; expected "
            f"targets {list(shape)}, one for each number of the output: reshape them, or send them as "
            f"`targets.{pair.name}`"
        )
    targets = targets.reshape(shape)
    usable = np.isfinite(targets).reshape(len(targets), -1).all(1)
    if not usable.all():
        raise MetricNotApplicable(
            f"targets of sample {int(np.argmin(usable))} are NaN or infinity; expected numbers: remove the sample"
        )
    _require_small("the targets", targets)
    return targets


def axis_of_channels(pair: Pair) -> int | None:
    """The option `axis`, None where the request leaves it open.

    Raises:
        MetricNotApplicable: the output has no such axis, or it is the axis of samples.
    """
    axis: int | None = pair.options.get("axis")
    dimensions = pair.before[0].ndim
    if axis is not None and (not -dimensions <= axis < dimensions or axis % dimensions == 0):
        raise MetricNotApplicable(
            f"output {pair.name!r} {list(pair.before[0].shape)} has no axis of channels {axis}; expected 1 to "
            f"{dimensions - 1}: leave the option `axis` out to have it found"
        )
    return axis


def _require_small(what: str, values: Output) -> None:
    if values.dtype.itemsize > 4 and max(float(values.max()), -float(values.min())) > LARGEST:
        raise MetricNotApplicable(
            f"{what} has numbers beyond {LARGEST:g}, whose squares overflow; expected less: scale the network's output"
        )


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[:1], *(length for length in shape[1:] if length != 1))


COSINE = Metric("cosine", cosine, generic=True)
EXPLAINED = Metric("explained", explained, generic=True, options=("axis",))
