"""Which of our files stands beside another tool's, and what is said of the two.

Fresh samples are halved. The first half says which of our files stands beside theirs, of those that take fewer bytes:
the smallest that loses less there by at least a standard error, else the one that loses least. The second half, on
which nothing was chosen, says what both lose. What counts is what is expected without the luck of the labels; what
the labels say is told beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.running import MadeFile

Right = NDArray[np.bool_] | NDArray[np.float64]
WITHIN = 2.0
"""Standard errors within which a difference is called none."""


@dataclass(frozen=True)
class Lost:
    """Points of accuracy that one file loses against another on the same samples, with the paired standard error."""

    points: float
    stderr: float


@dataclass(frozen=True)
class Verdict:
    """Their file beside ours, on the second half of the fresh samples.

    `extra` is what ours loses more than theirs, `extra_by_labels` the same by the labels; below 0: less.
    """

    ours: str
    our_bytes: int
    their_bytes: int
    our_loss: Lost
    their_loss: Lost
    extra: Lost
    extra_by_labels: Lost

    @property
    def smaller(self) -> bool:
        """Ours takes fewer bytes and loses no more."""
        return self.our_bytes < self.their_bytes and self.extra.points <= 0

    @property
    def smaller_within_error(self) -> bool:
        """Ours takes fewer bytes, and loses at most so much more as the samples cannot tell from nothing."""
        return self.our_bytes < self.their_bytes and self.extra.points <= WITHIN * self.extra.stderr


def lost(before: Right, after: Right) -> Lost:
    """Points lost from `before` to `after` `[N]`, right or wrong on the same samples or how likely, N above 1.

    `100 * mean(before - after)`, and the standard deviation of the differences over the root of N.
    """
    difference = before.astype(np.float64) - after
    return Lost(100 * float(difference.mean()), 100 * float(difference.std(ddof=1)) / math.sqrt(len(difference)))


def verdict(reference: MadeFile, theirs: MadeFile, ours: Mapping[str, MadeFile]) -> Verdict:
    """Their file beside the one of ours that the first half chooses; `reference` is the float file, and `ours` by name,
    at least one."""
    half = len(reference.right) // 2
    name = _chosen(theirs, ours, half)
    floats, their, our = (file.counted[half:] for file in (reference, theirs, ours[name]))
    return Verdict(
        name,
        ours[name].size_bytes,
        theirs.size_bytes,
        lost(floats, our),
        lost(floats, their),
        lost(their, our),
        lost(theirs.right[half:], ours[name].right[half:]),
    )


def _chosen(theirs: MadeFile, ours: Mapping[str, MadeFile], half: int) -> str:
    extra = {name: lost(theirs.counted[:half], file.counted[:half]) for name, file in ours.items()}
    by_size = sorted(ours, key=lambda name: ours[name].size_bytes)
    candidates = [name for name in by_size if ours[name].size_bytes < theirs.size_bytes] or by_size
    for name in candidates:
        if extra[name].points + extra[name].stderr <= 0:
            return name
    return min(candidates, key=lambda name: extra[name].points)
