"""Certify: from what was measured on held-out samples with the exported file, to the certificate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import norm

from evaluation.certificate import Certificate, ClaimResult, PartResult
from evaluation.intervals import (
    Interval,
    bootstrap_interval,
    difference_interval,
    proportion_interval,
    relative_interval,
)
from evaluation.metrics.claim import Claim, Measured, scale_of
from evaluation.metrics.measurement import DropKind, Measurement
from evaluation.nulls import Blind
from evaluation.statement import statement

DEFAULT_LEVEL = 0.95
# Of the parts of a claim, so many of those with the largest drops get an interval by resampling, the others one by the
# normal distribution, which decides only if it reaches further.
_RESAMPLED = 4
_SHOWN = 16  # parts of a claim
# A contribution that reaches this far is a distance; below, it is a share of predictions, of which few may be rare.
_DISTANCE = 2.0


@dataclass(frozen=True)
class Terms:
    """What a certificate is measured against: the budget, and how often held-out samples have been looked at."""

    max_drop: float
    kind: DropKind = DropKind.ABSOLUTE
    confidence: float | None = None
    looks: int = 1
    seed: int = 0
    synthetic: bool = False

    def __post_init__(self) -> None:
        if not self.max_drop >= 0:
            raise ValueError(f"max_drop must not be negative, got {self.max_drop}")
        if self.looks < 1:
            raise ValueError(f"looks must be at least 1, got {self.looks}")

    @property
    def level(self) -> float:
        return DEFAULT_LEVEL if self.confidence is None else self.confidence

    @property
    def each(self) -> float:
        """The level of each look."""
        return 1 - (1 - self.level) / self.looks


def certify(
    measured: Measured,
    terms: Terms,
    *,
    nulls: Sequence[dict[str, float]] = (),
    blind_to: Sequence[Blind] = (),
) -> Certificate:
    """The certificate of `measured`, made on samples that chose nothing.

    Intervals: top1 by Tango's score interval (relative: Nam and Blackwelder), agreement by Clopper and Pearson, both
    from counts; everything else by a bootstrap over samples, of metrics that are no mean over samples in the linear
    form of their jackknife.

    Args:
        measured: all claims of both networks on the held-out samples.
        nulls: by claim, the drops of networks that know nothing.
        blind_to: what no claim can see.

    Raises:
        MetricNotApplicable: a relative drop of something that is 0.
        ValueError: fewer than 2 samples.
    """
    if measured.samples < 2:
        raise ValueError("a certificate needs at least 2 samples, got 1")
    count = len(measured.every)
    results, intervals = [], []
    for place, claim in enumerate(measured.claims):
        result, interval = _claim(claim, measured.parts[place], terms, count)
        results.append(replace(result, null=nulls[place] if nulls else {}))
        intervals.append(interval)
    scales = [scale_of(claim, terms.max_drop) for claim in measured.claims]
    scaled = [result.drop * scale for result, scale in zip(results, scales, strict=True)]
    worst = int(np.argmax(scaled))
    head = results[worst]
    measurement = _named(measured.parts[worst], head.part)
    scale = scales[worst]
    drop = scaled[worst]
    low = min(max(result.low * each for result, each in zip(results, scales, strict=True)), drop)
    high = max(max(result.high * each for result, each in zip(results, scales, strict=True)), drop)
    level = intervals[worst].level
    resolution = _resolution(measurement, terms.kind, terms.each) * scale
    certificate = Certificate(
        metric=head.metric,
        kind=terms.kind.value,
        float_value=head.float_value,
        quantized_value=head.quantized_value,
        drop=drop,
        low=low,
        high=high,
        level=terms.level,
        method=intervals[worst].method,
        samples=measured.samples,
        right_to_wrong=measurement.right_to_wrong if count == 1 else None,
        wrong_to_right=measurement.wrong_to_right if count == 1 else None,
        max_drop=terms.max_drop,
        confidence=terms.confidence,
        looks=terms.looks,
        met=all(result.met for result in results) and not measured.not_finite,
        resolution=resolution,
        statement="",
        synthetic=terms.synthetic,
        claims=tuple(results),
        blind_to=tuple(blind_to),
        not_finite=measured.not_finite,
    )
    return replace(certificate, statement=statement(certificate, measurement, level))


def _claim(claim: Claim, parts: Sequence[Measurement], terms: Terms, count: int) -> tuple[ClaimResult, Interval]:
    """A claim from its parts, and the interval of the worst; `count` parts there are in all claims."""
    max_drop = terms.max_drop if claim.max_drop is None else claim.max_drop
    drops = np.array([part.drop(terms.kind) for part in parts])
    errors = np.nan_to_num([part.stderr(terms.kind) for part in parts])
    order = np.argsort(-(drops + 2 * errors), kind="stable")
    worst = int(drops.argmax())
    resampled = {worst, *map(int, order[:_RESAMPLED])}
    ends = {place: _interval(parts[place], terms.kind, terms.each, terms.seed) for place in resampled}
    normal = float(norm.ppf((1 + terms.each) / 2))
    highs = [
        ends[place].high if place in ends else float(drops[place] + normal * errors[place])
        for place in range(len(parts))
    ]
    several = float(norm.ppf(1 - (1 - terms.each) / (2 * count)))
    lows = [
        ends[place].low if count == 1 else float(drops[place] - several * errors[place]) for place in range(len(parts))
    ]
    lows = [min(low, float(drop)) for low, drop in zip(lows, drops, strict=True)]
    highs = [max(high, float(drop)) for high, drop in zip(highs, drops, strict=True)]
    high, low = max(highs), min(max(lows), float(drops[worst]))
    part = parts[worst]
    shown = [
        PartResult(parts[i].part, parts[i].float_value, parts[i].quantized_value, float(drops[i]), lows[i], highs[i])
        for i in np.argsort(-drops, kind="stable")[:_SHOWN]
    ]
    result = ClaimResult(
        metric=claim.metric,
        outputs=claim.outputs,
        reason=claim.reason,
        unit=part.unit.value,
        part=part.part,
        float_value=part.float_value,
        quantized_value=part.quantized_value,
        drop=float(drops[worst]),
        low=low,
        high=high,
        max_drop=max_drop,
        met=bool((drops[worst] if terms.confidence is None else high) <= max_drop),
        parts=len(parts),
        worst=tuple(shown) if len(parts) > 1 else (),
        options=dict(claim.options),
    )
    return result, ends[worst]


def _named(parts: Sequence[Measurement], name: str) -> Measurement:
    return next(part for part in parts if part.part == name)


def _interval(measurement: Measurement, kind: DropKind, level: float, seed: int) -> Interval:
    lost, won, samples = measurement.right_to_wrong, measurement.wrong_to_right, measurement.samples
    if lost is not None and won is not None and kind is not DropKind.OF_NULL:
        if _only_lost(measurement):
            return proportion_interval(lost, samples, level)
        if kind is DropKind.RELATIVE:
            return relative_interval(lost, won, int(measurement.references.sum()), samples, level)
        return difference_interval(lost, won, samples, level)
    relative = kind is not DropKind.ABSOLUTE
    scale = 1 / float(measurement.references.mean()) if relative else 1.0
    bounds = None if measurement.bounds is None else (scale * measurement.bounds[0], scale * measurement.bounds[1])
    certain = bounds if measurement.bounds is not None and measurement.bounds[1] < _DISTANCE else None
    if measurement.extent and np.ptp(measurement.contributions) == 0:  # few samples cannot exclude rare others
        certain = (-scale * measurement.extent, scale * measurement.extent)
    references = measurement.references if relative else None
    interval = bootstrap_interval(measurement.contributions, level, seed, references=references, bounds=certain)
    if bounds is None:
        return _ended(interval, measurement.drop(kind), measurement.stderr(kind))
    # where few samples differ the bootstrap knows no end
    return replace(interval, low=max(interval.low, bounds[0]), high=min(interval.high, bounds[1]))


def _ended(interval: Interval, drop: float, stderr: float) -> Interval:
    """An end that resamples of a few different samples leave open reaches as far as Chebyshev's inequality."""
    reach = stderr / float(np.sqrt((1 - interval.level) / 2))
    low = interval.low if np.isfinite(interval.low) else drop - reach
    high = interval.high if np.isfinite(interval.high) else drop + reach
    return replace(interval, low=min(low, drop), high=max(high, drop))


def _only_lost(measurement: Measurement) -> bool:
    """Whether the float network is right by definition, so that nothing can be won."""
    return measurement.bounds is not None and measurement.bounds[0] >= 0


def _resolution(measurement: Measurement, kind: DropKind, level: float) -> float:
    """The smallest drop whose interval, at its shortest, excludes 0.

    From counts: when every change goes from right to wrong. Otherwise: what lies as far from 0 as the normal interval
    with the standard error of these samples reaches.
    """
    samples = measurement.samples
    if measurement.extent and np.ptp(measurement.contributions) == 0:
        scale = 1.0 if kind is DropKind.ABSOLUTE else 1 / float(measurement.references.mean())
        return float(scale * measurement.extent * (1 - ((1 - level) / 2) ** (1 / samples)))
    if not measurement.counts or kind is DropKind.OF_NULL:
        return float(norm.ppf(1 - (1 - level) / 2) * measurement.stderr(kind))
    if _only_lost(measurement):
        return 1 / samples
    fewest = next(
        (lost for lost in range(1, samples + 1) if difference_interval(lost, 0, samples, level).low > 0), samples
    )
    return fewest / samples / (measurement.float_value if kind is DropKind.RELATIVE else 1.0)
