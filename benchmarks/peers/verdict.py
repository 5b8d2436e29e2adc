"""Which of our files stands beside another tool's, and what is said of the two.

Fresh samples are halved. The first half says which of our files stands beside theirs, of those that take fewer bytes:
the smallest that loses less there by at least a standard error, else the one that loses least. The second half, on
which nothing was chosen, says what both lose.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.running import MadeFile

Right = NDArray[np.bool_]
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

    `extra` is what ours loses more than theirs; below 0: less.
    """

    ours: str
    our_bytes: int
    their_bytes: int
    our_loss: Lost
    their_loss: Lost
    extra: Lost

    @property
    def smaller(self) -> bool:
        """Ours takes fewer bytes and loses no more."""
        return self.our_bytes < self.their_bytes and self.extra.points <= 0

    @property
    def smaller_within_error(self) -> bool:
        """Ours takes fewer bytes, and loses at most so much more as the samples cannot tell from nothing."""
        return self.our_bytes < self.their_bytes and self.extra.points <= WITHIN * self.extra.stderr


def lost(before: Right, after: Right) -> Lost:
    """Points lost from `before` to `after` `[N]`, right or wrong on the same samples, N above 1.

    `100 * mean(before - after)`, and the standard deviation of the differences over the root of N.
    """
    difference = before.astype(np.float64) - after
    return Lost(100 * float(difference.mean()), 100 * float(difference.std(ddof=1)) / math.sqrt(len(difference)))


def verdict(float_right: Right, theirs: MadeFile, ours: Mapping[str, MadeFile]) -> Verdict:
    """Their file beside the one of ours that the first half chooses; `ours` by name, at least one."""
    half = len(float_right) // 2
    name = _chosen(theirs, ours, half)
    reference, their_right, our_right = (r[half:] for r in (float_right, theirs.right, ours[name].right))
    return Verdict(
        name,
        ours[name].size_bytes,
        theirs.size_bytes,
        lost(reference, our_right),
        lost(reference, their_right),
        lost(their_right, our_right),
    )


def _chosen(theirs: MadeFile, ours: Mapping[str, MadeFile], half: int) -> str:
    extra = {name: lost(theirs.right[:half], file.right[:half]) for name, file in ours.items()}
    by_size = sorted(ours, key=lambda name: ours[name].size_bytes)
    candidates = [name for name in by_size if ours[name].size_bytes < theirs.size_bytes] or by_size
    for name in candidates:
        if extra[name].points + extra[name].stderr <= 0:
            return name
    return min(candidates, key=lambda name: extra[name].points)
