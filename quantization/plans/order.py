"""In which order the layers of a plan can be rounded, when each waits for the inputs that it will really get."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from network.graph import Layer, Network, Site
from quantization.rounding.layers import read_by, reduction_of
from quantization.rounding.reduction import NotReducible


@dataclass(frozen=True, slots=True)
class Use:
    """A layer that multiplies a weight with `tensor`; `node` is its node's place in the graph."""

    site: Site
    layer: Layer
    node: int
    tensor: str


@dataclass(frozen=True, slots=True)
class Stage:
    """Uses whose inputs all exist before the node at `cut`, which is the first of them."""

    cut: int
    uses: tuple[Use, ...]


def stages(network: Network, weights: Collection[str]) -> tuple[Stage, ...]:
    """All uses of `weights` (initializer names) that have second moments of inputs made before their node, each as
    early as its inputs allow once the first of the rest needs its weight."""
    nodes = list(network.proto.graph.node)
    places = {node.name: place for place, node in enumerate(nodes)}
    born = {spec.name: 0 for spec in network.inputs}
    born.update((name, place + 1) for place, node in enumerate(nodes) for name in node.output if name)
    waiting = []
    for site in network.sites:
        for layer in site.outer_layers if site.weight in weights else ():
            place = places[layer.name]
            tensors = read_by(network, layer)
            if isinstance(reduction_of(network, layer, site.shape), NotReducible) or len(tensors) != 1:
                continue
            if born.get(tensors[0], place + 1) <= place:
                waiting.append(Use(site, layer, place, tensors[0]))
    waiting.sort(key=lambda use: use.node)
    ordered = []
    while waiting:
        cut = waiting[0].node
        ready = tuple(use for use in waiting if born[use.tensor] <= cut)
        waiting = [use for use in waiting if born[use.tensor] > cut]
        ordered.append(Stage(cut, ready))
    return tuple(ordered)
