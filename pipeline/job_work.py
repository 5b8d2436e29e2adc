"""What the stages of a job will do, counted before they begin (`pipeline.cost_model` has the units).

Numbers that only the job can tell are those that jobs had on average: how many plans the search evaluates, on how many
of its samples, and how many of them are looked at for the certificate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from network.activations import ActivationSite
from network.graph import Network, Site
from pipeline.config import JobConfig
from pipeline.cost_model import (
    CALL_LOOPS,
    CANDIDATE_PASS,
    CERTIFICATE_LOOPS,
    FILE_LOOPS,
    FRONTIER_LOOPS,
    PART_LOOPS,
    STAGE_LOOPS,
    TAPPED,
    MatrixShape,
    Work,
    loaded_file,
    rounded_anew,
    rounded_to_formats,
    second_moments,
)
from pipeline.forecast import FLOAT64_BYTES
from pipeline.methods import float_passes, remaining_shares
from pipeline.plan_rounding import BATCH, POSITIONS_PER_SAMPLE, SAMPLES
from pipeline.stages import agreement
from pipeline.stages.calibrate import candidates_of, statistics_groups
from pipeline.stages.certify import TIMED_SECONDS
from pipeline.workspace import Inputs
from planner.search import SAFEST
from quantization.formats import UnsignedFormat, WeightFormat
from quantization.rounding.statistics import InputStatistics, input_statistics
from sensitivity.anchors import ANCHORS, FEW
from sensitivity.estimators import AT_OUTPUTS

EVALUATIONS = 4.0
"""Plans that a search evaluates [2 to 8; the geometric mean of 18 jobs with nine networks, as errors are ratios]."""
EVALUATIONS_AFTER_ANOTHER = 1.5
"""The same where an earlier job measured how much accuracy a predicted damage costs."""
READ = 0.9
"""Of the search samples, until it is certain whether a plan keeps the budget."""
LOOKS = 1.2
"""Plans that are measured on the held-out samples [mostly 1, at most 6; their geometric mean]."""
LOADED_AGAIN = 3
"""Loads of the delivered file: for the samples that lose most, and to read it back."""


@dataclass(frozen=True)
class JobWork:
    """The work of each stage of one job."""

    inputs: Inputs
    config: JobConfig

    def of(self, stage: str) -> Work:
        """What a stage does; nothing for those whose time is small beside the others'."""
        work = {
            "calibrate": self._calibrate,
            "cross_layer": self._cross_layer,
            "sensitivity": self._sensitivity,
            "agreement": self._agreement,
            "plan": self._plan,
            "certify": self._certify,
        }
        return work[stage]() + Work(loops=STAGE_LOOPS) if stage in work else Work()

    @cached_property
    def network(self) -> Network:
        return self.inputs.network

    @cached_property
    def shapes(self) -> list[MatrixShape]:
        """Of every site's weight, as calibration sees it."""
        return [_shape(self.network, site) for site in self.network.sites]

    @cached_property
    def formats(self) -> list[Sequence[WeightFormat]]:
        """Of every site, those that its weight is rounded to."""
        weights, _ = self._candidates
        return [weights[site.name] for site in self.network.sites]

    @cached_property
    def measured(self) -> list[int]:
        """Candidates of every site that `cross_layer` measures (`sensitivity.anchors`), activations after weights."""
        every = self.config.cross_layer is not None and self.config.cross_layer.every
        counts = [len(own) for own in self.formats]
        weights = [count if every or count <= max(FEW, ANCHORS) else ANCHORS for count in counts]
        return [*weights, *self.activations]

    @cached_property
    def activations(self) -> list[int]:
        """Candidates of every activation."""
        _, activations = self._candidates
        return [len(own) for own in activations.values()]

    @cached_property
    def groups(self) -> list[list[Site]]:
        """The sites whose second moments calibration collects in one pass."""
        return list(statistics_groups(self.network, len(self.inputs.splits.calibration)))

    @property
    def group_bytes(self) -> int:
        """Of the largest group's second moments."""
        shapes = dict(zip((site.name for site in self.network.sites), self.shapes, strict=True))
        groups = [[shapes[site.name] for site in group] for group in self.groups]
        return max(FLOAT64_BYTES * sum(own.moments for own in group if own.macs_per_sample) for group in groups)

    @cached_property
    def _candidates(
        self,
    ) -> tuple[Mapping[str, Sequence[WeightFormat]], Mapping[ActivationSite, Sequence[UnsignedFormat]]]:
        return candidates_of(self.config.calibrate.candidates, self.network)

    def _calibrate(self) -> Work:
        samples = len(self.inputs.splits.calibration)
        work = Work(samples=2 * TAPPED * len(self.inputs.range_samples)) if self.activations else Work()
        gptq = self.config.calibrate.gptq
        if gptq:
            work += Work(samples=TAPPED * len(self.groups) * samples, loads=len(self.groups))
        for shape, formats in zip(self.shapes, self.formats, strict=True):
            own = shape if gptq else replace(shape, macs_per_sample=None)
            work += rounded_to_formats(own, formats) + second_moments(own, samples, self.inputs.backward_batch)
        return work

    def _cross_layer(self) -> Work:
        samples = len(self.inputs.sensitivity_samples)
        shares = remaining_shares(self.network)
        shares += [sum(shares) / len(shares)] * len(self.activations)  # an activation lies somewhere, too
        passes = sum(share * count for share, count in zip(shares, self.measured, strict=True))
        calls = sum(self.measured) * math.ceil(samples / self.inputs.batch)
        return Work(
            samples=samples * (2 + CANDIDATE_PASS * passes),  # the float network, and up to every site
            loads=sum(shares) + 2,
            loops=CALL_LOOPS * calls + 2 * PART_LOOPS * len(self.measured),
        )

    def _sensitivity(self) -> Work:
        methods = () if self.config.sensitivity is None else self.config.sensitivity.methods
        shared = [name for name in methods if name in AT_OUTPUTS][1:]  # they take the passes of the first
        candidates = sum(map(len, self.formats)) + sum(self.activations)
        passes = sum(float_passes(name, self.network, candidates) for name in methods if name not in shared)
        return Work(samples=passes * len(self.inputs.sensitivity_samples))

    def _agreement(self) -> Work:
        half = max(1, len(self.inputs.splits.search) // 2)
        samples, plans = len(self.inputs.last_of_search(min(agreement.SAMPLES, half))), agreement.PLANS + 1
        parts = plans * (1 + len(self.activations))
        calls = parts * math.ceil(samples / self.inputs.batch)
        return Work(samples=plans * samples, loads=plans, loops=CALL_LOOPS * calls + PART_LOOPS * parts)

    def _plan(self) -> Work:
        evaluation = Work(samples=READ * len(self.inputs.splits.search), loops=FILE_LOOPS) + self._loaded
        if self.config.plan is not None and self.config.plan.rounds_whole_plans:
            evaluation += self._rounded_plan()
        return Work(loops=FRONTIER_LOOPS * len(self.measured)) + evaluation * self._evaluations

    @property
    def _evaluations(self) -> float:
        plan = self.config.plan
        if plan is not None and plan.space.least_drop:
            return float(SAFEST)
        return EVALUATIONS if plan is None or plan.drop_per_damage is None else EVALUATIONS_AFTER_ANOTHER

    def _certify(self) -> Work:
        held_out, config = len(self.inputs.splits.held_out), self.config.certify
        looks = 1.0 if self.config.plan is None else LOOKS
        work = Work(samples=(1 + looks) * held_out, loads=1) + self._loaded * (looks + LOADED_AGAIN)
        if config.rounds_whole_plans:  # the search has rounded the plan that is looked at first
            work += self._rounded_plan() * (looks if self.config.plan is None else looks - 1)
        timed = sum(TIMED_SECONDS for timing in (config.timing, config.loading) if timing is not None)
        return work + Work(loops=CERTIFICATE_LOOPS + looks * FILE_LOOPS + 2 * timed)

    @property
    def _loaded(self) -> Work:
        """A plan's file."""
        return loaded_file(self.shapes, self.formats)

    def _rounded_plan(self) -> Work:
        """A plan rounded anew, in both networks side by side."""
        samples = len(self.inputs.splits.calibration[:SAMPLES])
        batch = self.inputs.static_batch or min(self.inputs.batch, BATCH)
        work = Work(samples=2 * TAPPED * samples, loads=2, loops=2 * PART_LOOPS * len(self.shapes))
        for shape, formats in zip(self.shapes, self.formats, strict=True):
            if formats:
                work += rounded_anew(shape, formats) + second_moments(shape, samples, batch, of_both=True)
        return work


def _shape(network: Network, site: Site) -> MatrixShape:
    statistics = input_statistics(network, site, POSITIONS_PER_SAMPLE)
    size = math.prod(site.shape)
    if not isinstance(statistics, InputStatistics):
        return MatrixShape(1, 1, size, None)
    groups, columns, _ = statistics.shape
    return MatrixShape(groups, size // (groups * columns), columns, statistics.macs_per_sample)
