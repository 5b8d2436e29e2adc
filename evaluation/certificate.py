"""What a certificate holds.

It is about all claims of a job together: `met` says that each keeps its budget. Nothing has to be corrected for their
number there, because each has to pass its own test (an intersection-union test, Berger 1982). The drop of the
certificate is that of the worst claim, and so is `high`: the largest of the upper ends, of which one belongs to the
claim that truly is the worst. `low`, the largest of the lower ends, is taken at the level that their number asks for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from evaluation.nulls import Blind


@dataclass(frozen=True, slots=True)
class PartResult:
    """One channel group, in the units of its metric: `[float value, quantized value, drop, low, high]`."""

    part: str
    float_value: float
    quantized_value: float
    drop: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """A metric on its outputs: the worst of its parts, against the budget of this claim.

    `null` are the drops of networks that know nothing, by what they answer; `reason` says why this metric.
    """

    metric: str
    outputs: tuple[str, ...]
    reason: str
    unit: str
    part: str
    float_value: float
    quantized_value: float
    drop: float
    low: float
    high: float
    max_drop: float
    met: bool
    parts: int
    worst: tuple[PartResult, ...] = ()
    null: dict[str, float] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Certificate:
    """The drop of the exported file on held-out samples, with its interval, and whether it meets the budget.

    `low` to `high` holds the true drop with confidence `level`, over all `looks` together: each look at the held-out
    samples used `1 - (1 - level) / looks` (Bonferroni). `met` compares `max_drop` with `drop`, or, with `confidence`
    set, with `high`; that is stricter than needed, since one end of a two-sided interval errs half as often.
    `right_to_wrong` and `wrong_to_right` count samples, for top1 and agreement with one prediction for each sample.
    `resolution` is the smallest drop that this many samples can tell from none; `statement` says all that in words.
    In `not_finite` samples the file gives NaN or infinity where the float network gives a number: then it is not `met`.
    `metric` to `method` are those of the worst of the `claims`; `blind_to` names what no claim can see.
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
    claims: tuple[ClaimResult, ...] = ()
    blind_to: tuple[Blind, ...] = ()
    not_finite: int = 0

    def __post_init__(self) -> None:
        if self.samples < 1 or self.looks < 1:
            raise ValueError(f"samples and looks must be at least 1, got {self.samples} and {self.looks}")
        if not self.low <= self.high:
            raise ValueError(f"a certificate needs low <= high, got {self.low} and {self.high}")
