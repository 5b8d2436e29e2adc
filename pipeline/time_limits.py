"""How long stages and runs may take: a time that grows with the bytes of the uploads, which are known unread.

Real networks have weights, and real questions samples, so that their jobs get hours. A small file that keeps a worker
busy does so for minutes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

MIB = 1024**2


@dataclass(frozen=True, slots=True)
class TimeLimit:
    """`base`, and `each_mib` more for every MiB of the uploads, up to `most`."""

    base: timedelta
    each_mib: timedelta
    most: timedelta

    def __post_init__(self) -> None:
        if not timedelta(0) < self.base <= self.most or self.each_mib < timedelta(0):
            raise ValueError(f"expected 0 < base <= most and each_mib >= 0, got {self}")

    def of(self, size_bytes: int) -> timedelta:
        """The limit for uploads of this size together."""
        return min(self.most, self.base + self.each_mib * (size_bytes / MIB))


SAMPLE = TimeLimit(timedelta(seconds=10), timedelta(seconds=1), timedelta(minutes=10))
"""Processor time of a run on one sample: a network of 100 MiB takes less than a second."""

SAMPLE_MACS, MACS_PER_BYTE = 10**11, 200_000
"""Multiply-accumulates of one sample: so many, and more for every byte of the uploads. A ResNet50 has 4e9 in 100 MB, a
network that enlarges photographs 1e12 in 6 MB beside its samples of megabytes each."""

ADMISSION = TimeLimit(timedelta(minutes=1), timedelta(seconds=10), timedelta(hours=1))
"""Stages that look at what was sent, and run it on a few samples: seconds."""

SHORT = TimeLimit(timedelta(minutes=3), timedelta(seconds=10), timedelta(hours=1))
"""Stages that rewrite the network, and prove that it stayed the same."""

MEDIUM = TimeLimit(timedelta(minutes=5), timedelta(minutes=5), timedelta(hours=6))
"""Stages that run all samples some times: reached with 71 MiB."""

LONG = TimeLimit(timedelta(minutes=10), timedelta(minutes=10), timedelta(hours=24))
"""Stages that run them some hundred times: reached with 143 MiB. A ResNet20 with 12 MiB of images gets two hours, and
takes minutes on one core."""
