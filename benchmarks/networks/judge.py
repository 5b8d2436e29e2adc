"""Whether a certificate keeps its word on samples that no job saw, by the rule of the benchmark of certificates.

Each claim is computed anew from outputs of both files. It is kept where the loss on the n fresh samples is at most
`max_drop + 3 s sqrt(1 + n / m)`: s is the standard error of the loss (jackknife over 20 groups), m the number of
held-out samples. Besides that:

- every output has a claim, or `blind_to` names it;
- no output is NaN or infinite where the float network's is not;
- no output of floats has lost half of its variance, unless `blind_to` names it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.networks.detections import detections_lost
from benchmarks.networks.entry import Array, Arrays
from benchmarks.networks.losses import LOSSES, Values, unexplained

GROUPS = 20
ERRORS_ALLOWED = 3.0
GONE = 0.5
"""An output that lost this share of its variance no longer is what it was, whatever the claim says."""

Outputs = Mapping[str, Mapping[str, list[Array]]]
"""By group and output one value for each sample."""


@dataclass(frozen=True)
class Judgement:
    """`reasons` why the word is broken, none: it is kept; `losses` by claim, `unjudged` claims of unknown metrics."""

    losses: dict[str, float]
    reasons: tuple[str, ...]
    unjudged: tuple[str, ...] = ()


def judge(certificate: Mapping[str, Any], before: Outputs, after: Outputs, fresh: Arrays) -> Judgement:
    """The rule above, for outputs of both files on the samples `fresh`."""
    first, second = _together(before), _together(after)
    losses: dict[str, float] = {}
    reasons, unjudged = [], []
    blind = " ".join(certificate["blind_to"])
    for claim in certificate["claims"]:
        name = f"{claim['metric']} of {', '.join(claim['outputs'])}"
        loss = _loss_of(claim, first, second, fresh)
        if loss is None:
            unjudged.append(name)
            continue
        losses[name], error = loss
        samples = len(first[claim["outputs"][0]])
        limit = claim["max_drop"] + ERRORS_ALLOWED * error * math.sqrt(1 + samples / certificate["samples"])
        if not losses[name] <= limit:
            reasons.append(f"{name}: {losses[name]:.4g} is above {limit:.4g} (the budget and three standard errors)")
    claimed = {output for claim in certificate["claims"] for output in claim["outputs"]}
    for name, values in first.items():
        if name not in claimed and name not in blind:
            reasons.append(f"{name} has no claim, and blind_to does not name it")
        elif name not in blind and (wrong := _gone(values, second[name])):
            reasons.append(f"{name}: {wrong}")
    return Judgement(losses, tuple(reasons), tuple(unjudged))


def _together(outputs: Outputs) -> dict[str, list[Array]]:
    """Of all groups, one after another."""
    values: dict[str, list[Array]] = {}
    for rows in outputs.values():
        for name, row in rows.items():
            values.setdefault(name, []).extend(row)
    return values


def _loss_of(
    claim: Mapping[str, Any], first: Mapping[str, list[Array]], second: Mapping[str, list[Array]], fresh: Arrays
) -> tuple[float, float] | None:
    """The loss of a claim and its standard error, by leaving out one of 20 groups of samples at a time."""
    if claim["metric"] == "detection_f1":
        columns = [[values[name] for name in claim["outputs"]] for values in (first, second)]
        rows = [[list(row) for row in zip(*column, strict=True)] for column in columns]

        def loss(kept: Array) -> float:
            return detections_lost([rows[0][i] for i in kept], [rows[1][i] for i in kept], claim)

        total = len(rows[0])
    elif claim["metric"] in LOSSES and len(claim["outputs"]) == 1:
        name = claim["outputs"][0]
        x, y = first[name], second[name]
        truth = _truth(name, fresh)

        def loss(kept: Array) -> float:
            right = None if truth is None else [truth[i] for i in kept]
            return LOSSES[claim["metric"]]([x[i] for i in kept], [y[i] for i in kept], right, claim["options"])

        total = len(x)
    else:
        return None
    groups = np.arange(total) % GROUPS
    parts = [loss(np.flatnonzero(groups != group)) for group in range(GROUPS)]
    scale = (GROUPS - 1) / math.sqrt(GROUPS)
    error = float(scale * np.std(parts)) if np.isfinite(parts).all() else 0.0
    return loss(np.arange(total)), error


def _truth(output: str, fresh: Arrays) -> Values | None:
    """Labels or targets of the fresh samples, of all groups one after another."""
    rows: list[Array] = []
    for name, array in fresh.items():
        if name.rpartition("/")[2] in ("labels", "targets", f"labels.{output}", f"targets.{output}"):
            rows.extend(array)
    return rows or None


def _gone(before: Values, after: Values) -> str | None:
    if any(np.shape(x) != np.shape(y) for x, y in zip(before, after, strict=True)):
        return None if before[0].ndim == 0 or _ragged(before) else "other shapes than the float network's"
    if before[0].dtype.kind != "f" and before[0].dtype.name != "bfloat16":
        return None
    if any((np.isfinite(x) & ~np.isfinite(y)).any() for x, y in zip(before, after, strict=True)):
        return "NaN or infinite where the float network is not"
    lost = unexplained(before, after, None, {})
    return f"lost {lost:.2f} of its variance" if lost > GONE else None


def _ragged(values: Values) -> bool:
    """Whether lengths follow from the values, such as the number of boxes that were detected."""
    return len({np.shape(value) for value in values}) > 1
