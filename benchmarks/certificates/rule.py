"""When a word is kept: the rule, and proof for each network that the rule can fail.

A delivered file keeps its word when all of this holds on fresh samples:

1. Names, element types and shapes of all outputs are the float network's, and nothing is NaN or infinite where the
   float network's output is not.
2. Every loss that the network's own check names is at most what the entry calls `broken`. No allowance is made.
3. Losses in the unit of the certificate's metric are at most `max_drop + 3 s sqrt(1 + n / m)`: s is the standard error
   of the loss on the n fresh samples (jackknife over 20 groups), m the number of held-out samples of the certificate.
   The certificate's drop and this loss are two independent measurements of one number, and an honest file at the
   edge of its budget passes the limit with a chance of about 0.001.

The rule is worth something only if it fails for a network that knows nothing: `judge` is applied to null networks
too, with the same certificate, and an entry where one of them passes is an error of the entry (`RuleCannotFail`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.certificates.entry import Arrays, Entry
from benchmarks.certificates.null import null_outputs
from benchmarks.certificates.running import some

GROUPS = 20
ERRORS_ALLOWED = 3.0
UNITS: dict[str, frozenset[str]] = {
    "accuracy": frozenset({"top1", "accuracy", "next_token"}),
    "changed": frozenset({"agreement", "same"}),
    "cosine": frozenset({"cosine"}),
    "unexplained": frozenset({"explained"}),
    "unexplained_code": frozenset({"explained"}),
    "states": frozenset({"explained"}),
    "r2": frozenset({"r2"}),
    "flips": frozenset({"flips"}),
    "auc": frozenset({"auc"}),
    "decisions": frozenset({"flips", "top1", "accuracy"}),
    "detections": frozenset({"detection_f1"}),
    "true_detections": frozenset({"detection_f1"}),
    "miou": frozenset({"miou"}),
    "ctc": frozenset({"ctc"}),
}
"""The product's metrics by the loss that is in the same unit; other losses have their `broken` alone."""


class RuleCannotFail(Exception):
    """A network that knows nothing passes an entry's check: the check is worthless."""


@dataclass(frozen=True)
class Judgement:
    """`reasons` why the word is broken, none: it is kept; `losses` and the `limits` of those that have one."""

    losses: dict[str, float]
    limits: dict[str, float]
    reasons: tuple[str, ...]

    @property
    def kept(self) -> bool:
        return not self.reasons


def judge(entry: Entry, certificate: Mapping[str, Any], before: Arrays, after: Arrays) -> Judgement:
    """The rule, for outputs of both networks on the fresh samples of `entry`."""
    wrong = _interface(before, after)
    if wrong:
        return Judgement({}, {}, (wrong,))
    losses = entry.check(before, after, entry.fresh)
    fresh, held_out = len(next(iter(entry.fresh.values()))), certificate["samples"]
    errors = _standard_errors(entry, before, after)
    limits = {
        name: max_drop + ERRORS_ALLOWED * errors[name] * math.sqrt(1 + fresh / held_out)
        for metric, max_drop in budgets(certificate).items()
        for name in losses
        if metric in UNITS.get(name, ())
    }
    reasons = [
        f"{name} {losses[name]:.4g} is above {limit:.4g} (the budget and three standard errors)"
        for name, limit in limits.items()
        if not losses[name] <= limit
    ]
    reasons += [
        f"{name} {losses[name]:.4g} is above {limit:g}: no longer does what it is for"
        for name, limit in entry.broken.items()
        if not losses[name] <= limit
    ]
    return Judgement(losses, limits, tuple(reasons))


def budgets(certificate: Mapping[str, Any]) -> dict[str, float]:
    """What each metric of the certificate may lose; of several claims by one metric the largest budget."""
    found: dict[str, float] = {}
    for claim in certificate.get("claims") or (certificate,):
        found[claim["metric"]] = max(claim["max_drop"], found.get(claim["metric"], 0.0))
    return found


def require_failing(entry: Entry, certificate: Mapping[str, Any], before: Arrays) -> None:
    """Checks that the rule fails for networks that know nothing.

    Raises:
        RuleCannotFail: one of them passes.
    """
    for kind, null in null_outputs(before).items():
        if judge(entry, certificate, before, null).kept:
            raise RuleCannotFail(f"{entry.name}: a network that gives {kind} keeps its word; mend the entry's check")


def _interface(before: Arrays, after: Arrays) -> str | None:
    if list(before) != list(after):
        return f"the outputs are {list(after)}, those of the float network {list(before)}"
    for name, x in before.items():
        y = after[name]
        if x.dtype == object or y.dtype == object:
            if len(x) != len(y) or any(a.shape[1:] != b.shape[1:] for a, b in zip(x, y, strict=True)):
                return f"{name}: other shapes than those of the float network"
            continue
        if x.dtype != y.dtype or x.shape != y.shape:
            return f"{name} is {y.dtype} {list(y.shape)}, in the float network {x.dtype} {list(x.shape)}"
        if x.dtype.kind == "f" and (np.isfinite(x) & ~np.isfinite(y)).any():
            return f"{name} is NaN or infinite where the float network is not"
    return None


def _standard_errors(entry: Entry, before: Arrays, after: Arrays) -> dict[str, float]:
    """Of every loss, by leaving out one of 20 groups of samples at a time."""
    samples = len(next(iter(entry.fresh.values())))
    groups = np.arange(samples) % GROUPS
    values: dict[str, list[float]] = {}
    for group in range(GROUPS):
        kept = np.flatnonzero(groups != group)
        for name, value in entry.check(some(before, kept), some(after, kept), some(entry.fresh, kept)).items():
            values.setdefault(name, []).append(value)
    scale = (GROUPS - 1) / math.sqrt(GROUPS)
    return {
        name: float(scale * np.std(series)) if np.isfinite(series).all() else 0.0 for name, series in values.items()
    }
