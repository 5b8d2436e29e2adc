"""Outputs of a quantized file put beside those of its float network: by name, or by position where names differ.

What has no counterpart counts as wrong everywhere, so that no metric overlooks it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from evaluation.channels import Channels
from evaluation.metrics.measurement import Output, Outputs

# of the variance: an output that explains less than nothing of its own, and this much of another one, is that one
_UNLIKE, _LIKE = 1.0, 0.5


class MatchedBy(StrEnum):
    NAME = "name"
    POSITION = "position"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class OutputMatch:
    """An output of the float network, and the one of the quantized file that stands for it.

    `reason` says why there is none; `not_finite` counts the samples with NaN or an infinity where the float network has
    a number; `looks_like` names the float output that it is instead, by its values.
    """

    name: str
    quantized_name: str | None
    by: MatchedBy
    reason: str = ""
    not_finite: int = 0
    looks_like: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class MatchedOutputs:
    """`outputs` `[samples, ...]` of the quantized file by the names, and in the shapes, of the float network's."""

    matches: tuple[OutputMatch, ...]
    outputs: Mapping[str, Output]
    unused: tuple[str, ...]

    @property
    def nothing_fits(self) -> bool:
        return all(match.by is MatchedBy.NOTHING for match in self.matches)


def match_outputs(before: Outputs, after: Outputs, padded: Collection[str] = ()) -> MatchedOutputs:
    """The outputs of the quantized file beside those of the float network, on the same samples.

    Args:
        padded: outputs of the float network whose length depends on what is found in a sample; what is filled up is NaN
            or -1, and both files may find as much as they do.
    """
    partners = _partners(before, after, padded)
    matches, outputs = [], {}
    for name, output in before.items():
        partner, by, reason = partners[name]
        if partner is None:
            outputs[name] = _wrong(output)
        else:
            outputs[name] = after[partner].astype(output.dtype, copy=False)
        lost = 0 if partner is None or name in padded else _not_finite(output, outputs[name])
        matches.append(OutputMatch(name, partner, by, reason, lost))
    used = {match.quantized_name for match in matches}
    unused = tuple(name for name in after if name not in used)
    return MatchedOutputs(tuple(_exchanged(matches, before, outputs, padded)), outputs, unused)


def _partners(before: Outputs, after: Outputs, padded: Collection[str]) -> dict[str, tuple[str | None, MatchedBy, str]]:
    renamed = [name for name in before if name not in after], [name for name in after if name not in before]
    if len(renamed[0]) != len(renamed[1]) or any(
        _unfit(before[a], after[b], a in padded) for a, b in zip(*renamed, strict=True)
    ):
        renamed = [], []
    by_position = dict(zip(*renamed, strict=True))
    found: dict[str, tuple[str | None, MatchedBy, str]] = {}
    for name, output in before.items():
        if name in by_position:
            found[name] = (by_position[name], MatchedBy.POSITION, "")
            continue
        reason = (
            "the quantized file has no output of this name"
            if name not in after
            else _unfit(output, after[name], name in padded)
        )
        found[name] = (None, MatchedBy.NOTHING, reason) if reason else (name, MatchedBy.NAME, "")
    return found


def _unfit(before: Output, after: Output, is_padded: bool) -> str:
    """Why the second cannot stand for the first; empty where it can."""
    if before.shape != after.shape and not (is_padded and before.ndim == after.ndim and len(before) == len(after)):
        return f"it has the shape {list(after.shape)} on these samples, that of the float model {list(before.shape)}"
    is_number = before.dtype.kind == "f"
    if is_number != (after.dtype.kind == "f"):
        return f"it holds {after.dtype}, that of the float model {before.dtype}"
    return ""


def _wrong(output: Output) -> Output:
    if output.dtype.kind == "f":
        return np.full_like(output, np.nan)
    return np.logical_not(output) if output.dtype.kind == "b" else np.add(output, 1, dtype=output.dtype)


def _not_finite(before: Output, after: Output) -> int:
    if before.dtype.kind != "f":
        return 0
    lost = np.isfinite(before) & ~np.isfinite(after)
    return int(lost.reshape(len(lost), -1).any(1).sum())


def _exchanged(
    matches: list[OutputMatch], before: Outputs, after: Outputs, padded: Collection[str]
) -> list[OutputMatch]:
    """The matches, with what each output looks like where it is not like its own."""
    told = []
    for match in matches:
        own = before[match.name]
        alike = [
            name
            for name, other in before.items()
            if not {name, match.name}.intersection(padded)
            and name != match.name
            and other.shape == own.shape
            and own.dtype.kind == other.dtype.kind == "f"
        ]
        is_other = None
        if match.quantized_name is not None and alike and _error(own, after[match.name]) > _UNLIKE:
            errors = {name: _error(before[name], after[match.name]) for name in alike}
            nearest = min(errors, key=lambda name: errors[name])
            is_other = nearest if errors[nearest] < _LIKE else None
        told.append(OutputMatch(match.name, match.quantized_name, match.by, match.reason, match.not_finite, is_other))
    return told


def _error(before: Output, after: Output) -> float:
    """The mean square error over the variance of each channel; infinity where there is NaN."""
    first = np.nan_to_num(before.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    spread = Channels.of(first).spread_like(first)
    with np.errstate(invalid="ignore", over="ignore"):
        error = float(np.square((after.astype(np.float64) - first) / spread).mean())
    return error if np.isfinite(error) else float("inf")
