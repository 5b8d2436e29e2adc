"""Claims: which metric is measured on which outputs, with which budget; a certificate is about all claims of a job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

import numpy as np

from evaluation.errors import MetricNotApplicable
from evaluation.metrics.measurement import DropKind, Measurement, Outputs, Scores
from evaluation.metrics.null_outputs import mean_outputs
from evaluation.metrics.own import OwnMetric
from evaluation.metrics.padding import aligned
from evaluation.metrics.pair import Pair
from evaluation.metrics.registry import metric_of
from evaluation.metrics.truth import Truth


@dataclass(frozen=True)
class Claim:
    """That the drop of a metric on these outputs is at most `max_drop`, or the budget of the job where that is None.

    `reason` says in words why this metric is measured here. `padded`: outputs have more rows for one sample than for
    another, and what lacks is NaN or -1; where the two networks differ in their rows the shorter one is filled up.
    `own` is the graph of the metric of this name, which no document holds.
    """

    metric: str
    outputs: tuple[str, ...]
    max_drop: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    padded: bool = False
    own: OwnMetric | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> Self:
        return cls(**{**document, "outputs": tuple(document["outputs"])})

    def document(self) -> dict[str, Any]:
        document = asdict(replace(self, own=None))
        del document["own"]
        return document

    def measure(self, before: Outputs, after: Outputs, truth: Truth) -> list[Measurement]:
        """One measurement for each channel group that the metric looks at.

        Args:
            before, after: `[samples, ...]` by output name, of the float and of the quantized network.
        """
        missing = [name for name in self.outputs if name not in before]
        if missing:
            raise MetricNotApplicable(
                f"the network has no output {missing[0]!r}; its outputs are {', '.join(map(repr, before))}"
            )
        pairs = [(before[name], after[name]) for name in self.outputs]
        options = self.options
        if self.padded:
            pairs, options = [aligned(*outputs) for outputs in pairs], {**options, "padded": True}
        first, second = zip(*pairs, strict=True)
        pair = Pair(self.outputs, first, second, truth, options)
        return list((metric_of(self.metric) if self.own is None else self.own).measure(pair))


@dataclass(frozen=True, eq=False)
class Measured:
    """All claims of a job measured on the same samples: `parts[i]` are those of `claims[i]`.

    In `not_finite` samples the quantized network gives NaN or infinity where the float network gives a number. What a
    metric says of such a network is not asked: it has lost everything.
    """

    claims: tuple[Claim, ...]
    parts: tuple[tuple[Measurement, ...], ...]
    not_finite: int = 0

    @classmethod
    def of(cls, measurement: Measurement) -> Self:
        """One metric of one output."""
        return cls((Claim(measurement.metric, ("output",)),), ((measurement,),))

    @property
    def every(self) -> list[tuple[Claim, Measurement]]:
        return [(claim, part) for claim, parts in zip(self.claims, self.parts, strict=True) for part in parts]

    @property
    def samples(self) -> int:
        return self.parts[0][0].samples

    @property
    def single(self) -> Measurement | None:
        """The measurement, where there is only one."""
        every = self.every
        return every[0][1] if len(every) == 1 else None

    def drops(self, kind: DropKind, max_drop: float) -> Scores:
        """The drop of every part in the unit of the job's budget, `[parts]`: where a claim has a budget of its own,
        scaled by the ratio of the two."""
        drops = np.array([part.drop(kind) * scale_of(claim, max_drop) for claim, part in self.every])
        return np.maximum(drops, everything(max_drop)) if self.not_finite else drops

    def worst(self, kind: DropKind, max_drop: float) -> int:
        """The place in `every` of the part with the largest drop."""
        return int(self.drops(kind, max_drop).argmax())

    def drop(self, kind: DropKind, max_drop: float) -> float:
        """That of the worst part."""
        return float(self.drops(kind, max_drop).max())


def measure(
    claims: Sequence[Claim], before: Outputs, after: Outputs, truth: Truth, kind: DropKind = DropKind.ABSOLUTE
) -> Measured:
    """All claims of both networks' outputs on the same samples.

    Args:
        kind: of drop that will be asked for; `of_null` measures the mean outputs, too.

    Raises:
        MetricNotApplicable: outputs or labels that a metric is not made for; a float output that is not finite.
        DatasetLabelsOutOfRange: labels that are no classes of the network.
    """
    parts = [claim.measure(before, after, truth) for claim in claims]
    if kind is DropKind.OF_NULL:
        null = mean_outputs(before)
        parts = [
            [
                replace(part, references=np.full(part.samples, nothing.drop()))
                for part, nothing in zip(own, claim.measure(before, null, truth), strict=True)
            ]
            for claim, own in zip(claims, parts, strict=True)
        ]
    lost = _not_finite(claims, before, after)
    return Measured(tuple(claims), tuple(map(tuple, parts)), lost)


def everything(max_drop: float) -> float:
    """A drop that no budget of this size allows."""
    return max(1.0, 2 * max_drop)


def _not_finite(claims: Sequence[Claim], before: Outputs, after: Outputs) -> int:
    """Samples with a value that is no finite number, where the float network has one, in any output that is claimed."""
    names = {name for claim in claims if not claim.padded for name in claim.outputs}
    lost = np.zeros(len(next(iter(before.values()))), dtype=bool)
    for name in names:
        first, second = before[name], after.get(name, before[name])
        if first.dtype.kind != "f" or first.shape != second.shape or np.isfinite(second).all():
            continue
        lost |= np.asarray((np.isfinite(first) & ~np.isfinite(second)).reshape(len(first), -1).any(1))
    return int(lost.sum())


def scale_of(claim: Claim, max_drop: float) -> float:
    """What makes a drop of the claim one in the unit of the job's budget."""
    return 1.0 if claim.max_drop is None or claim.max_drop == max_drop else max_drop / claim.max_drop
