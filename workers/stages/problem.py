"""From the analysis to the planning problem: candidates with costs, damages and interactions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from network.graph import Network
from planner.problem import Candidate, PlanSite, Problem
from quantization.cost import skeleton_bytes, weight_bytes
from quantization.formats import FloatFormat, Format, parse_format
from workers.stage import StageContext
from workers.stages.payload import unpack

FLOAT_BITS = 32


@dataclass(frozen=True)
class Analysis:
    """What the stage `sensitivity` wrote: arrays with one entry per candidate, sites in order, formats by bits."""

    document: Mapping[str, Any]
    arrays: Mapping[str, NDArray[np.float64]]

    @classmethod
    def read(cls, context: StageContext) -> Analysis:
        return cls(*unpack(context.read("sensitivity")))

    def index(self, site: str, format_: Format) -> int:
        """Position of the candidate in the arrays."""
        position = 0
        for name, formats in zip(self.document["sites"], self.document["formats"], strict=True):
            if name == site:
                return position + int(formats.index(format_.name))
            position += len(formats)
        raise KeyError(site)


def planning_problem(
    network: Network, allowed: Mapping[str, Sequence[str]], analysis: Analysis | None, method: str
) -> Problem:
    """The problem with the formats that the request leaves to each site.

    Args:
        allowed: format names by site name, `float32` for a site that is kept.
        analysis: None gives the costs alone, with damages of 0.
        method: `hawq_v2` scores candidates by half of Omega, without interactions; everything else by the cross-layer
            matrix.
    """
    sites = []
    rows: list[int | None] = []
    for site in network.sites:
        candidates = []
        for name in allowed[site.name]:
            format_ = parse_format(name)
            row = None if analysis is None or isinstance(format_, FloatFormat) else analysis.index(site.name, format_)
            rows.append(row)
            candidates.append(
                Candidate(
                    format=format_,
                    size_bytes=weight_bytes(format_, site.shape, site.channel_axis, site.weight),
                    # activations stay float32
                    bit_operations=site.macs * format_.bits * FLOAT_BITS,
                    damage=0.0 if analysis is None or row is None else _damage(analysis, row, method),
                )
            )
        sites.append(PlanSite(site.name, tuple(candidates)))
    interactions = None
    if analysis is not None and method != "hawq_v2":
        interactions = _interactions(analysis.arrays["matrix"], rows)
    return Problem(tuple(sites), base_size_bytes=skeleton_bytes(network), interactions=interactions)


def _damage(analysis: Analysis, row: int, method: str) -> float:
    if method == "hawq_v2":
        return 0.5 * float(analysis.arrays["omega"][row])
    return float(analysis.arrays["matrix"][row, row])


def _interactions(matrix: NDArray[np.float64], rows: Sequence[int | None]) -> NDArray[np.float64]:
    """The matrix of the remaining candidates; a weight that stays float changes nothing, so its row is zero."""
    known = np.array([row is not None for row in rows])
    index = np.array([row or 0 for row in rows])
    chosen = matrix[np.ix_(index, index)] * np.outer(known, known)
    return np.asarray((chosen + chosen.T) / 2)
