"""What a metric says of two networks on the same samples: the drop, sample by sample, and how sure it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from evaluation.errors import MetricNotApplicable

Output = NDArray[np.generic]
Outputs = Mapping[str, Output]
Scores = NDArray[np.float64]
Weighted = Callable[[Scores], Scores]
"""From weights of the samples, `[draws, samples]`, the drops under them, `[draws]`."""


class DropKind(StrEnum):
    """`absolute`: the drop itself. `relative`: divided by the float network's own value, or what the metric's table
    says. `of_null`: divided by the drop of a network that answers the mean of the outputs, whatever it is asked."""

    ABSOLUTE = "absolute"
    RELATIVE = "relative"
    OF_NULL = "of_null"


class Unit(StrEnum):
    """What a drop is counted in; `share` is a fraction of something, and printed in points of a percent."""

    SHARE = "share"
    NATS = "nats"
    DECIBEL = "dB"
    OUTPUT = "units of the output"
    SQUARED_OUTPUT = "squared units of the output"
    NONE = "none"


@dataclass(frozen=True, eq=False)
class Measurement:
    """A metric of both networks on the same samples.

    `contributions` [samples] are the drops of each sample, `references` [samples] what a relative drop is divided by;
    the drop is the mean of the first, or the ratio of the two sums. `counts` says whether each sample is either right
    or wrong (contributions -1, 0, 1), so that the drop is a difference of proportions. `bounds`: what a contribution
    can be, None where nobody knows; then `extent` is how far apart the numbers of samples were seen to be, so that
    samples which all lose the same do not seem to exclude others.

    A metric that is no mean over samples (an area under a curve, a mean over classes) has `weighted`, its drop as a
    function of weights of the samples. Its contributions are those of the jackknife, shifted so that their mean is the
    drop: right for a standard error, and not for a sum over parts of the samples.

    `part` names the channel group that is meant, where a metric looks at several, such as `boxes[2]`.
    """

    metric: str
    float_value: float
    quantized_value: float
    contributions: Scores
    references: Scores
    counts: bool = False
    bounds: tuple[float, float] | None = None
    unit: Unit = Unit.SHARE
    part: str = ""
    weighted: Weighted | None = None
    extent: float | None = None

    def __post_init__(self) -> None:
        if self.contributions.ndim != 1 or self.contributions.shape != self.references.shape:
            raise ValueError(
                "contributions and references must be [samples], got "
                f"{self.contributions.shape} and {self.references.shape}"
            )
        if len(self.contributions) == 0:
            raise ValueError("a measurement needs at least one sample")

    @classmethod
    def joined(cls, parts: Sequence[Measurement]) -> Measurement:
        """One measurement of several on different samples, by the same metric, a mean over samples; at least one."""
        weights = np.array([part.samples for part in parts], dtype=np.float64)
        weights /= weights.sum()
        first = parts[0]
        if first.weighted is not None:
            raise ValueError(f"{first.metric} is no mean over samples, and cannot be joined from parts of them")
        return cls(
            first.metric,
            float(weights @ [part.float_value for part in parts]),
            float(weights @ [part.quantized_value for part in parts]),
            np.concatenate([part.contributions for part in parts]),
            np.concatenate([part.references for part in parts]),
            first.counts,
            first.bounds,
            first.unit,
            first.part,
            extent=max((part.extent for part in parts if part.extent is not None), default=None),
        )

    @classmethod
    def of_set(
        cls,
        metric: str,
        float_value: Weighted,
        quantized_value: Weighted,
        samples: int,
        *,
        higher_is_better: bool = True,
        unit: Unit = Unit.SHARE,
        part: str = "",
        bounds: tuple[float, float] | None = None,
    ) -> Measurement:
        """Of a metric that is no mean over samples.

        Args:
            float_value, quantized_value: from weights `[draws, samples]`, the value of each network, `[draws]`. Finite
                for any weights that are not negative and have a positive sum (where a draw holds nothing to measure,
                the value of all samples is fine).
            samples: how many.
            higher_is_better: whether the drop is float - quantized.
        """
        sign = 1.0 if higher_is_better else -1.0

        def weighted(weights: Scores) -> Scores:
            return np.asarray(sign * (float_value(weights) - quantized_value(weights)), dtype=np.float64)

        everything = np.ones((1, samples))
        drop = float(weighted(everything)[0])
        own = float(float_value(everything)[0])
        contributions = np.full(samples, drop)
        if samples > 1:
            for start in range(0, samples, _ROWS):
                rows = np.arange(start, min(start + _ROWS, samples))
                without = np.ones((len(rows), samples))
                without[np.arange(len(rows)), rows] = 0.0
                contributions[rows] = drop + (samples - 1) * (drop - weighted(without))
            contributions += drop - contributions.mean()
        value = float(quantized_value(everything)[0])
        references = np.full(samples, own)
        return cls(metric, own, value, contributions, references, False, bounds, unit, part, weighted)

    @property
    def samples(self) -> int:
        return len(self.contributions)

    @property
    def right_to_wrong(self) -> int | None:
        """Samples that the float network had right and the quantized network has wrong; None unless `counts`."""
        return int((self.contributions > 0).sum()) if self.counts else None

    @property
    def wrong_to_right(self) -> int | None:
        return int((self.contributions < 0).sum()) if self.counts else None

    def drop(self, kind: DropKind = DropKind.ABSOLUTE) -> float:
        """The drop; larger is worse, negative when the quantized network does better.

        Raises:
            MetricNotApplicable: a relative drop of something that is 0.
        """
        if kind is DropKind.ABSOLUTE:
            return float(self.contributions.sum() / self.samples)
        total = self.references.sum()
        if total <= 0:
            raise MetricNotApplicable(
                f"a {kind} drop of {self.metric} needs something to lose, but there is "
                f"{total / self.samples:g}; ask for an absolute drop"
            )
        return float(self.contributions.sum() / total)

    def stderr(self, kind: DropKind = DropKind.ABSOLUTE) -> float:
        """Standard error of the drop from the paired differences; of a ratio by the delta method.

        NaN for a single sample.
        """
        if self.samples < 2:
            return float("nan")
        if kind is DropKind.ABSOLUTE:
            return float(self.contributions.std(ddof=1) / np.sqrt(self.samples))
        residuals = self.contributions - self.drop(kind) * self.references
        return float(residuals.std(ddof=1) / np.sqrt(self.samples) / self.references.mean())


_ROWS = 256  # weights of so many draws at once
