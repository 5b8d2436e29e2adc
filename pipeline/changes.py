"""The candidates as the estimators take them, in the order of every array of the analysis.

Weights first, then activations: sites in graph order, formats by bits.
"""

from __future__ import annotations

from network.graph import Network
from pipeline.candidates import Rounded
from pipeline.methods import Candidates
from sensitivity.estimate import ActivationChange, Change, WeightChange


def sites_of(network: Network, rounded: Rounded) -> dict[str, list[str]]:
    """Format names of the candidates by site."""
    sites = {site.name: [weight.format.name for weight in rounded.weights[site.name]] for site in network.sites}
    activations = {name: [one.format.name for one in found.formats] for name, found in rounded.activations.items()}
    return {**sites, **activations}


def changes_of(network: Network, rounded: Rounded) -> tuple[Change, ...]:
    """One change for each candidate."""
    weights = [
        WeightChange(site.name, weight.format.name, site.weight, weight.dequantize)
        for site in network.sites
        for weight in rounded.weights[site.name]
    ]
    activations = [
        ActivationChange(name, one.format.name, found.changes(one.format))
        for name, found in rounded.activations.items()
        for one in found.formats
    ]
    return (*weights, *activations)


def counted(rounded: Rounded) -> Candidates:
    """How many candidates there are, for the cost of the methods."""
    return Candidates(
        of_a_weight=max(map(len, rounded.weights.values())),
        of_activations=sum(len(found.formats) for found in rounded.activations.values()),
    )
