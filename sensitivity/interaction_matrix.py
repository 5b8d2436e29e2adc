"""Interactions of many candidates that behave like few: a matrix that is never made as a whole.

Of each site a few formats are measured, and every other is taken to interact as the measured one next to it, scaled
(`sensitivity.anchors`). So the matrix of all K candidates is one of A anchors, and what scales each of its entries:

    G_kl = s_k s_l r_k r_l M_ab,        a, b the anchors of k and l,

with the diagonal given by itself. K is the number of sites times that of formats, and A a fraction of it: of 160 sites
with 16 formats each, G takes 52 MB, its factors take 2. Whoever reads it takes the entries of a plan, or some rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Places = NDArray[np.intp] | Sequence[int]


@dataclass(frozen=True, eq=False)
class InteractionMatrix:
    """G `[K, K]` in its factors.

    `anchors` is M `[A, A]`; `anchor_of` `[K]` says which row of it a candidate takes; `root` `[K]` are r, what makes
    the candidate of its anchor; `scale` `[K]` are s, what a prediction makes of all; `own` `[K]` is the diagonal.
    """

    anchors: Floats
    anchor_of: NDArray[np.intp]
    root: Floats
    scale: Floats
    own: Floats

    @classmethod
    def of(cls, matrix: Floats) -> InteractionMatrix:
        """A matrix `[K, K]` whose candidates are all anchors."""
        ones = np.ones(len(matrix))
        return cls(matrix, np.arange(len(matrix)), ones, ones, np.diagonal(matrix))

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.own), len(self.own)

    @property
    def is_finite(self) -> bool:
        """Whether every factor is, so that every entry is."""
        return all(bool(np.isfinite(part).all()) for part in (self.anchors, self.root, self.scale, self.own))

    def block(self, rows: Places, columns: Places) -> Floats:
        """The entries `[rows, columns]` of these candidates."""
        rows, columns = np.asarray(rows), np.asarray(columns)
        entries = self.anchors[np.ix_(self.anchor_of[rows], self.anchor_of[columns])]
        entries *= np.multiply.outer(self.root[rows], self.root[columns])
        entries *= self.scale[rows][:, None]
        entries *= self.scale[columns]
        row, column = np.nonzero(rows[:, None] == columns)
        entries[row, column] = self.own[rows[row]]
        return entries

    def whole(self) -> Floats:
        """All entries `[K, K]`: for few candidates."""
        every = np.arange(len(self.own))
        return self.block(every, every)
