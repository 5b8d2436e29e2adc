"""What the data say is right, beside the inputs of the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

LABELS, TARGETS, BOXES = "labels", "targets", "boxes"
"""Kinds of truth; labels below 0 are positions, boxes or tokens that do not count: padding."""


@dataclass(frozen=True, eq=False)
class Truth:
    """Arrays `[samples, ...]` by name: `labels` (int64), `targets` (float32), `boxes` (float32 `[samples, n, 4]`), each
    also for one output alone as `labels.NAME`; and whatever else the data bring for a metric of one's own.

    `inputs` are those of the network that such a metric reads, by name."""

    arrays: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    inputs: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)

    def labels(self, output: str | None = None) -> NDArray[np.int64] | None:
        """Classes, `[samples, ...]`; those of this output where there are such, else the common ones."""
        found = self._of(LABELS, output)
        return None if found is None else found.astype(np.int64, copy=False)

    def targets(self, output: str | None = None) -> NDArray[np.float64] | None:
        found = self._of(TARGETS, output)
        return None if found is None else found.astype(np.float64, copy=False)

    def boxes(self, output: str | None = None) -> NDArray[np.float64] | None:
        """`[samples, n, 4]`, with `labels` `[samples, n]`, which are below 0 where there is no box."""
        found = self._of(BOXES, output)
        return None if found is None else found.astype(np.float64, copy=False)

    def take(self, indices: NDArray[np.int64] | slice) -> Truth:
        arrays, inputs = (
            {name: array[indices] for name, array in every.items()} for every in (self.arrays, self.inputs)
        )
        return Truth(arrays, inputs)

    def _of(self, kind: str, output: str | None) -> NDArray[np.generic] | None:
        own = None if output is None else self.arrays.get(f"{kind}.{output}")
        return self.arrays.get(kind) if own is None else own
