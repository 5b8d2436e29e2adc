"""The candidates as the estimators take them, in the order of every array of the analysis: sites in order, by bits."""

from __future__ import annotations

from network.graph import Network
from sensitivity.estimate import Change, WeightChange
from workers.stages.candidates import Candidates


def changes_of(network: Network, candidates: Candidates) -> tuple[Change, ...]:
    """One change for each candidate."""
    return tuple(
        WeightChange(site.name, weight.format.name, site.weight, weight.dequantize)
        for site in network.sites
        for weight in candidates[site.name]
    )
