"""Errors of continuous outputs: mean squared and mean absolute error, R², signal-to-quantization-noise ratio.

Where the data have `targets`, both networks are compared with them. Else the quantized network is compared with the
float outputs, which then are without error. A value of the quantized network that is not finite counts as
`MOST_ERROR` times the size of the signal, and no error counts more than that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evaluation.channels import Channels
from evaluation.metrics.measurement import Measurement, Output, Scores, Unit
from evaluation.metrics.pair import Metric, Pair, chunks
from evaluation.metrics.values import axis_of_channels, explained, require_values, targets_of, unexplained

MOST_ERROR = 1e6
"""A root mean square error counts as at most so many times the root mean square of the signal."""
MOST_DECIBEL = 100.0
"""The signal-to-noise ratio of outputs without noise; `-MOST_DECIBEL` that of noise without a signal."""
_LARGEST = 1e290  # squares of float64 overflow; sums of these do not


def mse(pair: Pair) -> list[Measurement]:
    """Mean squared error, in squared units of the output; each sample's is the mean over its numbers.

    Relative: divided by the float network's own error; without targets by the mean square of the float outputs.
    """
    return _error_of("mse", pair, 2)


def mae(pair: Pair) -> list[Measurement]:
    """Mean absolute error, in units of the output; each sample's is the mean over its numbers.

    Relative: divided by the float network's own error; without targets by the mean size of the float outputs.
    """
    return _error_of("mae", pair, 1)


def r2(pair: Pair) -> list[Measurement]:
    """Coefficient of determination against targets, one part for each channel group of the targets.

    `1 - squared error / squared distance of the targets from their mean`, both over samples and positions of a channel.
    A channel whose targets are all the same is measured against the mean square of them. Without targets this is the
    metric explained: the float outputs stand in for the targets.
    """
    require_values("r2", pair)
    targets = targets_of(pair)
    if targets is None:
        return [_renamed(part) for part in explained(pair)]
    before, after = pair.single
    channels = Channels.of(targets, axis_of_channels(pair))
    own, variances = unexplained(targets, before, channels)
    errors, _ = unexplained(targets, after, channels)
    drops, missed = (errors - own).mean(0), own.mean(0)
    # the variance of the targets is an estimate too: what one sample adds to a ratio of means
    contributions = errors - own + drops * (1 - variances)
    references = 1 - own - missed * (1 - variances)
    return [
        Measurement(
            "r2",
            float(1 - missed[index]),
            float(1 - errors[:, index].mean()),
            contributions[:, index],
            references[:, index],
            part=f"{pair.name}{channels.label(index)}",
        )
        for index in range(channels.groups)
    ]


def sqnr_db(pair: Pair) -> list[Measurement]:
    """Signal-to-quantization-noise ratio of all samples together, `10 log10(signal power / noise power)`, in dB.

    Without targets the noise is the distance from the float outputs. Those have no noise, which counts as 100 dB, as
    does any ratio above. The drop is what is missing of 100 dB, so that a budget of 60 asks for at least 40 dB. With
    targets these are the signal, the noise of each network is its error, and the drop is the difference in dB.
    """
    before, after = require_values("sqnr_db", pair)
    targets = targets_of(pair)
    noise = _errors(before if targets is None else targets, before, after, 2)

    def ratio(power: Scores, weights: Scores) -> Scores:
        signals, noises = weights @ (noise.signal / noise.unit), weights @ (power / noise.unit)
        with np.errstate(divide="ignore", invalid="ignore"):
            decibel = 10 * (np.log10(signals) - np.log10(noises))
        return np.clip(np.where(noises > 0, decibel, MOST_DECIBEL), -MOST_DECIBEL, MOST_DECIBEL)

    return [
        Measurement.of_set(
            "sqnr_db",
            lambda weights: ratio(noise.before, weights),
            lambda weights: ratio(noise.after, weights),
            pair.samples,
            unit=Unit.DECIBEL,
        )
    ]


@dataclass(frozen=True, eq=False)
class _Errors:
    """Means of `|error| ** power` over each sample, [samples], of both networks; of the signal the mean of
    `|signal| ** power`, and over all samples the `unit`, which is positive."""

    before: Scores
    after: Scores
    signal: Scores
    unit: float


def _errors(signal: Output, before: Output, after: Output, power: int) -> _Errors:
    columns: list[tuple[Scores, ...]] = []
    with np.errstate(over="ignore", invalid="ignore"):
        for wanted, first, second in chunks(signal, before, after):
            rows = (first - wanted, second - wanted, wanted)
            columns.append(tuple((np.abs(row) ** power).reshape(len(row), -1).mean(1) for row in rows))
        own, errors, size = (np.concatenate(column) for column in zip(*columns, strict=True))
        size = np.nan_to_num(np.minimum(size, _LARGEST))
        own = np.nan_to_num(np.minimum(own, _LARGEST), nan=_LARGEST)
        unit = max(float(size.mean()), float(own.mean())) or 1.0
        most = min(max(MOST_ERROR**power * unit, float(own.max())), _LARGEST)
        errors = np.where(np.isfinite(errors), np.minimum(errors, most), most)
    return _Errors(own, errors, size, unit)


def _error_of(metric: str, pair: Pair, power: int) -> list[Measurement]:
    before, after = require_values(metric, pair)
    targets = targets_of(pair)
    errors = _errors(before if targets is None else targets, before, after, power)
    return [
        Measurement(
            metric,
            float(errors.before.mean()),
            float(errors.after.mean()),
            errors.after - errors.before,
            errors.signal if targets is None else errors.before,
            unit=Unit.SQUARED_OUTPUT if power == 2 else Unit.OUTPUT,
        )
    ]


def _renamed(part: Measurement) -> Measurement:
    return Measurement(
        "r2", part.float_value, part.quantized_value, part.contributions, part.references, part=part.part
    )


MSE = Metric("mse", mse, ("targets",), unit=Unit.SQUARED_OUTPUT, generic=True)
MAE = Metric("mae", mae, ("targets",), unit=Unit.OUTPUT, generic=True)
R2 = Metric("r2", r2, ("targets",), options=("axis",), generic=True)
SQNR_DB = Metric("sqnr_db", sqnr_db, ("targets",), unit=Unit.DECIBEL, generic=True)
