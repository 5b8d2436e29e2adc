"""The certificate: what was measured on held-out samples with the exported file, and what that shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from scipy.stats import norm

from evaluation.intervals import (
    Interval,
    bootstrap_interval,
    difference_interval,
    proportion_interval,
    relative_interval,
)
from evaluation.metrics import CONTRIBUTION_BOUNDS, DropKind, Measurement, Metric

DEFAULT_LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Certificate:
    """The drop of the exported file on held-out samples, with its interval, and whether it meets the budget.

    `low` to `high` holds the true drop with confidence `level`, over all `looks` together: each look at the held-out
    samples used `1 - (1 - level) / looks` (Bonferroni). `met` compares `max_drop` with `drop`, or, with `confidence`
    set, with `high`; that is stricter than needed, since one end of a two-sided interval errs half as often.
    `right_to_wrong` and `wrong_to_right` count samples, for top1 and agreement with one prediction for each sample.
    `resolution` is the smallest drop that this many samples can tell from none; `statement` says all that in words.
    """

    metric: str
    kind: str
    float_value: float
    quantized_value: float
    drop: float
    low: float
    high: float
    level: float
    method: str
    samples: int
    right_to_wrong: int | None
    wrong_to_right: int | None
    max_drop: float
    confidence: float | None
    looks: int
    met: bool
    resolution: float
    statement: str
    synthetic: bool = False

    def __post_init__(self) -> None:
        if self.samples < 1 or self.looks < 1:
            raise ValueError(f"samples and looks must be at least 1, got {self.samples} and {self.looks}")
        if not self.low <= self.high:
            raise ValueError(f"a certificate needs low <= high, got {self.low} and {self.high}")


def certify(
    measurement: Measurement,
    max_drop: float,
    *,
    kind: DropKind | str = DropKind.ABSOLUTE,
    confidence: float | None = None,
    looks: int = 1,
    seed: int = 0,
    synthetic: bool = False,
) -> Certificate:
    """The certificate of `measurement`, made on samples that chose nothing.

    Intervals: top1 by Tango's score interval (relative: Nam and Blackwelder), agreement by Clopper and Pearson, both
    from counts; kl, cosine and sequences, whose positions depend on each other, by a bootstrap over samples.

    Args:
        measurement: both networks on the held-out samples.
        max_drop: the budget, not negative, in the unit of the drop (a fraction, or nats).
        kind: absolute or relative drop.
        confidence: None: the drop itself must meet the budget. Else the upper end of an interval of this level must.
        looks: how often held-out samples have been looked at, this time included.
        seed: of the bootstrap.
        synthetic: the samples were made from the graph's shapes; the statement says so.

    Raises:
        MetricNotApplicable: a relative drop of something that is 0.
        ValueError: `max_drop`, `confidence` or `looks` out of range; fewer than 2 samples.
    """
    if not max_drop >= 0:
        raise ValueError(f"max_drop must not be negative, got {max_drop}")
    if looks < 1:
        raise ValueError(f"looks must be at least 1, got {looks}")
    if measurement.samples < 2:
        raise ValueError("a certificate needs at least 2 samples, got 1")
    kind = DropKind(kind)
    level = DEFAULT_LEVEL if confidence is None else confidence
    each = 1 - (1 - level) / looks
    drop = measurement.drop(kind)
    interval = _interval(measurement, kind, each, seed)
    resolution = _resolution(measurement, kind, each)
    met = (drop if confidence is None else interval.high) <= max_drop
    return Certificate(
        metric=measurement.metric.value,
        kind=kind.value,
        float_value=measurement.float_value,
        quantized_value=measurement.quantized_value,
        drop=drop,
        low=min(interval.low, drop),
        high=max(interval.high, drop),
        level=level,
        method=interval.method,
        samples=measurement.samples,
        right_to_wrong=measurement.right_to_wrong,
        wrong_to_right=measurement.wrong_to_right,
        max_drop=max_drop,
        confidence=confidence,
        looks=looks,
        met=bool(met),
        resolution=resolution,
        statement=_statement(measurement, kind, interval, level, looks, resolution, synthetic),
        synthetic=synthetic,
    )


def _interval(measurement: Measurement, kind: DropKind, level: float, seed: int) -> Interval:
    lost, won, samples = measurement.right_to_wrong, measurement.wrong_to_right, measurement.samples
    if lost is not None and won is not None:
        if measurement.metric is Metric.AGREEMENT:
            return proportion_interval(lost, samples, level)
        if kind is DropKind.RELATIVE:
            return relative_interval(lost, won, int(measurement.references.sum()), samples, level)
        return difference_interval(lost, won, samples, level)
    relative = kind is DropKind.RELATIVE
    scale = 1 / float(measurement.references.mean()) if relative else 1.0
    bounds = {Metric.TOP1: (-scale, scale), Metric.AGREEMENT: (0.0, scale)}.get(measurement.metric)
    references = measurement.references if relative else None
    interval = bootstrap_interval(measurement.contributions, level, seed, references=references, bounds=bounds)
    # where few samples differ the bootstrap knows no end
    least, most = (scale * bound for bound in CONTRIBUTION_BOUNDS[measurement.metric])
    return replace(interval, low=max(interval.low, least), high=min(interval.high, most))


def _resolution(measurement: Measurement, kind: DropKind, level: float) -> float:
    """The smallest drop whose interval, at its shortest, excludes 0.

    From counts: when every change goes from right to wrong. Otherwise: what lies as far from 0 as the normal interval
    with the standard error of these samples reaches.
    """
    samples = measurement.samples
    if not measurement.counts:
        return float(norm.ppf(1 - (1 - level) / 2) * measurement.stderr(kind))
    if measurement.metric is Metric.AGREEMENT:
        return 1 / samples
    fewest = next(
        (lost for lost in range(1, samples + 1) if difference_interval(lost, 0, samples, level).low > 0), samples
    )
    return fewest / samples / (measurement.float_value if kind is DropKind.RELATIVE else 1.0)


def _statement(
    measurement: Measurement,
    kind: DropKind,
    interval: Interval,
    level: float,
    looks: int,
    resolution: float,
    synthetic: bool,
) -> str:
    """What the sample size can and cannot show, in sentences."""
    unit = _amount(measurement.metric, kind)
    samples = measurement.samples
    parts = [
        f"On {samples:,} held-out samples the {kind} drop of {measurement.metric} is {unit(measurement.drop(kind))}; "
        f"with {level:.4g} confidence the true drop lies between {unit(interval.low)} and {unit(interval.high)}"
        + (f", counting {looks} looks at these samples." if looks > 1 else ".")
    ]
    if measurement.counts and measurement.metric is Metric.TOP1:
        scale = measurement.float_value if kind is DropKind.RELATIVE else 1.0
        none = difference_interval(0, 0, samples, interval.level).high
        parts.append(
            f"One sample is {unit(1 / samples / scale)}; {samples:,} samples cannot tell a drop below "
            f"{unit(resolution)} from none, and even without any change they would not exclude one of "
            f"{unit(none / scale)}."
        )
    elif measurement.counts:
        none = proportion_interval(0, samples, interval.level).high
        parts.append(
            f"One sample is {unit(resolution)}; even without any change {samples:,} samples would not exclude a drop "
            f"of {unit(none)}."
        )
    else:
        parts.append(
            f"{samples:,} samples like these cannot tell apart drops that differ by less than {unit(resolution)}."
        )
    if synthetic:
        parts.append(
            "The samples were made from the graph's shapes, not taken from real data: the drop on real data may "
            "be quite another."
        )
    return " ".join(parts)


def _amount(metric: Metric, kind: DropKind) -> Callable[[float], str]:
    """How a drop is written: accuracies in points, their relative drops in percent, divergences in nats."""
    if metric in (Metric.TOP1, Metric.AGREEMENT):
        unit = " points" if kind is DropKind.ABSOLUTE else " %"
        return lambda value: f"{100 * value:.3g}{unit}"
    unit = " nats" if metric is Metric.KL and kind is DropKind.ABSOLUTE else ""
    return lambda value: f"{value:.3g}{unit}"
