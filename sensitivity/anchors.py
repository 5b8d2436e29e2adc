"""A cross-layer matrix from few measured formats of each site; what lies between them is interpolated.

Rounding a weight to one format or the next changes how large its error is, and hardly what the error is: the damage of
one site over its formats is a smooth curve of the squared error of the weight, to second order a straight line. So of
each site a few *anchors* are measured, spread over its errors, and in between `log damage` is linear in `log error`;
below the smallest measured error damage is proportional to it. A format interacts with other sites as the anchor next
to it does, scaled by the root of their damages:

    G_kl = sqrt(d_k / d_a) sqrt(d_l / d_b) G_ab,        a, b the anchors next to k and l.

The scaled matrix is as positive semidefinite as the measured one. What it cannot see: what single roundings have of
their own. Candidates whose error is not known (those of activations) are all measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sensitivity.cross_layer import CrossLayer
from sensitivity.interaction_matrix import InteractionMatrix

ANCHORS = 3
"""Measured formats of a site."""
FEW = 8
"""So many are all measured [ResNet20, seven widths of integers: 98,756 and 100,712 bytes where all were measured,
101,042 and 106,398 from three of them]."""

# The largest error by those of anchors. From 2 to 3 bits, where much is quantized to 0, damage falls faster than the
# error [ResNet20: 2**2.9 for a bit, then 2**1.9]: a line from 2 to 4 bits is wrong by half at 3, where most weights
# end.
_BELOW = (1.0, 4.0, 16.0)

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Interpolated:
    """What a `CrossLayer` says of the measured candidates, of all of them. `sketch_error` is that of the measured."""

    matrix: InteractionMatrix
    damage_stderr: Floats
    measured: Floats
    measured_stderr: Floats
    sketch_error: float
    samples: int

    @property
    def damage(self) -> Floats:
        """Each candidate's own damage, the diagonal of G."""
        return self.matrix.own


def anchors(sites: Sequence[str], errors: Sequence[float | None], few: int = FEW) -> list[int]:
    """The places of the candidates that are to be measured, ascending.

    Args:
        sites: whose each candidate is, `[candidates]`.
        errors: squared and summed over the weight, `[candidates]`; None where that is not known.
        few: sites with so many candidates or less have no anchors: all are measured.
    """
    chosen: set[int] = set()
    for site in dict.fromkeys(sites):
        own = [place for place, name in enumerate(sites) if name == site]
        known = [error for place in own if (error := errors[place]) is not None]
        if len(own) <= max(few, ANCHORS) or len(known) < len(own) or not max(known) > 0:
            chosen.update(own)
            continue
        largest = max(known)
        for part in _BELOW:
            aim = np.log(largest / part)
            left = [place for place in own if place not in chosen]
            chosen.add(min(left, key=lambda place: abs(_log(errors[place]) - aim)))
    return sorted(chosen)


def interpolated(
    matrix: CrossLayer, measured: Sequence[int], sites: Sequence[str], errors: Sequence[float | None]
) -> Interpolated:
    """The matrix of all candidates, in the units of `matrix`.

    Args:
        matrix: of those at the places `measured` alone, in this order.
        measured: as `anchors` gives them.
        sites, errors: of all candidates, as `anchors` takes them.
    """
    row_of = {place: row for row, place in enumerate(measured)}
    rows = np.zeros(len(sites), dtype=np.intp)
    damage_scale, loss_scale = np.ones(len(sites)), np.ones(len(sites))
    for place, site in enumerate(sites):
        if place in row_of:
            rows[place] = row_of[place]
            continue
        own = [known for known in measured if sites[known] == site]
        x = np.array([_log(errors[known]) for known in own])
        at = _log(errors[place])
        nearest = int(np.abs(x - at).argmin())
        rows[place] = row_of[own[nearest]]
        index = [row_of[known] for known in own]
        damage_scale[place] = _ratio(x, matrix.damage[index], at, nearest)
        loss_scale[place] = _ratio(x, matrix.measured[index], at, nearest)
    root = np.sqrt(damage_scale)
    own = matrix.damage[rows] * (root * root)
    return Interpolated(
        matrix=InteractionMatrix(matrix.matrix, rows, root, np.ones(len(rows)), own),
        damage_stderr=matrix.damage_stderr[rows] * damage_scale,
        measured=matrix.measured[rows] * loss_scale,
        measured_stderr=matrix.measured_stderr[rows] * loss_scale,
        sketch_error=matrix.sketch_error,
        samples=matrix.samples,
    )


def _ratio(x: Floats, values: Floats, at: float, nearest: int) -> float:
    """The value at `at` over that of the anchor `nearest`; of what is not above 0 nothing is known but the error."""
    straight = float(np.exp(at - x[nearest]))
    order = np.argsort(x)
    x, values = x[order], values[order]
    if not (values > 0).all() or not np.isfinite(values).all() or at <= x[0]:
        return straight
    near = float(values[np.flatnonzero(order == nearest)[0]])
    return float(np.exp(np.interp(at, x, np.log(values)))) / near


def _log(error: float | None) -> float:
    return float(np.log(max(error or 0.0, 1e-300)))
