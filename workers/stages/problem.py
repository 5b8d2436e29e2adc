"""From the analysis to the planning problem: candidates with costs, damages and interactions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from network.graph import Network
from planner.problem import Candidate, PlanSite, Problem
from quantization.cost import skeleton_bytes, weight_bytes
from quantization.formats import FloatFormat, parse_format
from workers.stages.analysis import Analysis

FLOAT_BITS = 32


def planning_problem(
    network: Network, allowed: Mapping[str, Sequence[str]], analysis: Analysis | None, method: str
) -> Problem:
    """The problem with the formats that the request leaves to each site.

    Args:
        allowed: format names by site name, `float32` for a site that is kept.
        analysis: None gives the costs alone, with damages of 0.
        method: what predicts the damage; `auto` for the method that agreed best with measured plans.

    Raises:
        NotApplicable: see `Analysis.prediction`.
    """
    prediction = None if analysis is None else analysis.prediction(method)
    sites = []
    rows: list[int | None] = []
    for site in network.sites:
        candidates = []
        for name in allowed[site.name]:
            format_ = parse_format(name)
            row = (
                None
                if analysis is None or isinstance(format_, FloatFormat)
                else analysis.scores.index(site.name, format_)
            )
            rows.append(row)
            candidates.append(
                Candidate(
                    format=format_,
                    size_bytes=weight_bytes(format_, site.shape, site.channel_axis, site.weight),
                    # activations stay float32
                    bit_operations=site.macs * format_.bits * FLOAT_BITS,
                    damage=0.0 if prediction is None or row is None else float(prediction.own[row]),
                )
            )
        sites.append(PlanSite(site.name, tuple(candidates)))
    interactions = None
    if prediction is not None and prediction.interactions is not None:
        interactions = _interactions(prediction.interactions, rows)
    return Problem(tuple(sites), base_size_bytes=skeleton_bytes(network), interactions=interactions)


def _interactions(matrix: NDArray[np.float64], rows: Sequence[int | None]) -> NDArray[np.float64]:
    """The matrix of the remaining candidates; a weight that stays float changes nothing, so its row is zero."""
    known = np.array([row is not None for row in rows])
    index = np.array([row or 0 for row in rows])
    chosen = matrix[np.ix_(index, index)] * np.outer(known, known)
    return np.asarray((chosen + chosen.T) / 2)
