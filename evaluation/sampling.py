"""An evaluation that reads the search samples in random order and may stop before the last one.

What it must find out is whether the drop *on all these samples* keeps a budget. The test is that of
`evaluation.sequential`, on what each sample loses less its share of the budget; the estimate that a stopped evaluation
leaves is that of `evaluation.control_variate`. Samples must come uniformly at random without replacement, in an order
drawn after the predictions were made, for both to be valid.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evaluation.control_variate import Estimate, difference_estimate
from evaluation.metrics.measurement import DropKind, Measurement, Scores
from evaluation.sequential import SequentialTest, Verdict

# before that many samples a standard error says little, and nothing is stopped
FEWEST_SAMPLES = 32


class Sampling:
    """What is known of a drop after some of the samples.

    Args:
        population: the float network measured against itself on all samples: metric and references, [N]; one that
            `can_be_sampled`.
        max_drop: the budget, in the unit of `kind`.
        kind: absolute or relative drop.
        predicted: [N], the contributions that are expected, fixed beforehand; None for no prediction.
    """

    def __init__(
        self, population: Measurement, max_drop: float, kind: DropKind, predicted: Scores | None = None
    ) -> None:
        self._kind = kind
        self._references = population.references
        self._predicted = np.zeros(population.samples) if predicted is None else predicted
        spent = max_drop * (self._references if kind is DropKind.RELATIVE else np.ones(population.samples))
        self._shift = self._predicted.mean() - self._predicted - spent
        low, high = _bounds(population)
        bounds = float((low + self._shift).min()), float((high + self._shift).max())
        self._test = SequentialTest(population.samples, 0.0, bounds)
        self._parts: list[Measurement] = []
        self._read: list[NDArray[np.int64]] = []

    @property
    def samples(self) -> int:
        return sum(len(read) for read in self._read)

    @property
    def fraction(self) -> float:
        return self.samples / len(self._references)

    def add(self, measurement: Measurement, read: NDArray[np.int64]) -> Verdict:
        """The verdict with the samples `read` [n] too: indices into the population, none read before."""
        self._parts.append(measurement)
        self._read.append(read)
        verdict = self._test.update(measurement.contributions + self._shift[read])
        return verdict if self.samples >= FEWEST_SAMPLES else Verdict.OPEN

    def estimate(self) -> Estimate:
        """The drop on all samples, and its standard error as an estimate of the true drop.

        Of all samples it is the plain drop. A relative drop divides by the mean reference of all samples, which the
        float network alone determines; its standard error is by the delta method.

        Raises:
            MetricNotApplicable: a relative drop of something that is 0.
        """
        measured = Measurement.joined(self._parts)
        read = np.concatenate(self._read)
        if len(read) == len(self._references):
            return Estimate(measured.drop(self._kind), measured.stderr(self._kind))
        mean = difference_estimate(measured.contributions, read, self._predicted)
        if self._kind is DropKind.ABSOLUTE:
            return mean
        per_sample = float(self._references.mean())
        if per_sample <= 0:
            measured.drop(self._kind)  # raises: there is nothing to lose, in these samples as in all
        drop = mean.mean / per_sample
        residual = difference_estimate(
            measured.contributions - drop * self._references[read], read, self._predicted - drop * self._references
        )
        return Estimate(drop, residual.stderr / per_sample)


def can_be_sampled(population: Measurement) -> bool:
    """Whether an evaluation may stop before the last sample: the drop is a mean over samples of bounded numbers."""
    return population.weighted is None and population.bounds is not None


def _bounds(population: Measurement) -> tuple[Scores, Scores]:
    """The least and the most that each sample can contribute, [N] each.

    Where a sample is either right or wrong, one that the float network has right cannot be won, and none of the others
    lost.
    """
    if population.bounds is None:
        raise ValueError(f"{population.metric} has no bounds, and cannot be sampled")
    low, high = population.bounds
    if population.counts and low < 0:
        return np.minimum(population.references - 1, 0.0), population.references
    return np.full(population.samples, low), np.full(population.samples, high)
