"""What the first output depends on: that output is the only one that damage and budget are measured at."""

from __future__ import annotations

from network.activations import ActivationSite, find_activations
from network.graph import Network


def measured_values(network: Network) -> frozenset[str]:
    """Names of the values, weights among them, from which a path leads to the first output."""
    needed = {network.outputs[0].name}
    for node in reversed(network.proto.graph.node):  # in topological order, so that one pass backwards is enough
        if needed.intersection(node.output):
            needed.update(node.input)
    return frozenset(needed)


def unmeasured_sites(network: Network) -> frozenset[str]:
    """Names of the sites from which no path leads to the first output."""
    measured = measured_values(network)
    return frozenset(site.name for site in network.sites if site.weight not in measured)


def planned_activations(network: Network) -> tuple[ActivationSite, ...]:
    """The activation sites that the first output depends on, in graph order; nothing would measure the others."""
    measured = measured_values(network)
    return tuple(site for site in find_activations(network) if measured.intersection(site.tensors))
