"""What the measured outputs depend on: nothing else has a damage, or a part in what the budget is about."""

from __future__ import annotations

from collections.abc import Collection

from network.activations import ActivationSite, find_activations
from network.graph import Network
from network.onnx_graph import names_read


def measured_outputs(network: Network) -> tuple[str, ...]:
    """Names of the outputs that hold floats, in graph order; of all, where none does.

    An output of integers is a choice (ArgMax, TopK) that no damage is a smooth function of.
    """
    floats = tuple(output.name for output in network.outputs if "float" in output.dtype)
    return floats or tuple(output.name for output in network.outputs)


def measured_values(network: Network, outputs: Collection[str] | None = None) -> frozenset[str]:
    """Names of the values, weights among them, from which a path leads to one of `outputs`, or to any that is measured.

    What the inner graphs of If, Loop and Scan read by name counts as read by the node.
    """
    needed = set(measured_outputs(network) if outputs is None else outputs)
    for node in reversed(network.proto.graph.node):  # in topological order, so that one pass backwards is enough
        if needed.intersection(node.output):
            needed.update(names_read(node))
    return frozenset(needed)


def unmeasured_sites(network: Network, outputs: Collection[str] | None = None) -> frozenset[str]:
    """Names of the sites from which no path leads there."""
    measured = measured_values(network, outputs)
    return frozenset(site.name for site in network.sites if site.weight not in measured)


def planned_activations(network: Network, outputs: Collection[str] | None = None) -> tuple[ActivationSite, ...]:
    """The activation sites that the measured outputs depend on, in graph order; nothing would measure the others."""
    measured = measured_values(network, outputs)
    return tuple(site for site in find_activations(network) if measured.intersection(site.tensors))
