"""Costs that two decisions make together: a layer computes with the width of its weight and with that of what it reads.

Bit operations are MACs x weight bits x bits of what is read, and a latency is that of a pair of formats: neither is a
sum over sites. Where the request prices one of them and an activation may get several formats, the activation and the
weights whose layers read it are therefore one decision (`planner.merge`), and every plan's cost is exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from network.graph import Layer, Network, Site
from pipeline.latency_table import LatencyTable, feeders
from pipeline.reach import planned_activations
from planner.errors import NotApplicable
from planner.merge import JointCost, MergedProblem, merge_sites, tie_sites
from planner.problem import Candidate, PlanSite, Problem, whole_steps
from quantization.formats import FloatFormat, Format, UnsignedFormat, parse_format
from quantization.rounding.layers import read_by

Formats = Mapping[str, Format]
"""By site name."""


class Coupling:
    """What the layers of a weight cost for given formats of the weight and of what they read.

    An activation that the given formats do not name has the widest one that it may get, float where it is not planned.

    Args:
        allowed: format names by site, weights and planned activations, by bits.
        latency: None where nothing asks for it.
    """

    def __init__(
        self, network: Network, allowed: Mapping[str, Sequence[str]], latency: LatencyTable | None = None
    ) -> None:
        self._network = network
        self._allowed = allowed
        self._latency = latency
        self._planned = {
            site.name: [parse_format(name) for name in allowed[site.name]]
            for site in planned_activations(network)
            if site.name in allowed
        }

    def bit_operations(self, site: Site, formats: Formats) -> int:
        """MACs x weight bits x bits of what is read, over all layers of the site."""
        bits = formats[site.name].bits
        return round(sum(layer.macs * bits * self._format_read(layer, formats).bits for layer in site.layers))

    def input_bits(self, site: Site, formats: Formats) -> int:
        """Bits of what the layers of the site read, 32 for float; of several layers the most."""
        return max(int(self._format_read(layer, formats).bits) for layer in site.layers)

    def latency_ms(self, site: Site, formats: Formats) -> float | None:
        """Milliseconds of all layers of the site, as the problem counts them; None where nothing asks for it."""
        if self._latency is None:
            return None
        read = self._format(self._feeders[site.name], formats) if site.name in self._feeders else None
        activation = read if isinstance(read, UnsignedFormat) else None
        return whole_steps(self._latency.ms(site.name, formats[site.name].name, activation))

    def one_latency(self) -> bool:
        """Whether every weight's layers take the same time in all that the weight and what it reads may be."""
        for site in self._network.sites:
            feeder = self._feeders.get(site.name, "")
            read = [{feeder: format_} for format_ in self._planned.get(feeder, ())] or [{}]
            own = [{site.name: parse_format(name)} for name in self._allowed[site.name]]
            if len({self.latency_ms(site, {**weight, **other}) for weight in own for other in read}) > 1:
                return False
        return True

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Every weight with each activation of several formats that its layers read."""
        for site in self._network.sites:
            for activation in dict.fromkeys(self._read.get(layer, "") for layer in site.layers):
                if len(self._planned.get(activation, ())) > 1:
                    yield site.name, activation

    def _format_read(self, layer: Layer, formats: Formats) -> Format:
        return self._format(self._read[layer], formats) if layer in self._read else FloatFormat()

    def _format(self, activation: str, formats: Formats) -> Format:
        return formats.get(activation, self._planned[activation][-1])

    @cached_property
    def _read(self) -> dict[Layer, str]:
        """The planned activation that each layer multiplies its weight with. States of a recurrent node stay float
        within it."""
        site_of = {
            tensor: site.name
            for site in planned_activations(self._network)
            if site.name in self._planned
            for tensor in site.tensors
        }
        nodes = self._network.nodes
        operands = {layer: read_by(self._network, layer)[0] for layer in self._network.layers()}
        return {
            layer: site_of[name]
            for layer, name in operands.items()
            if name in site_of and name in nodes[layer.name].input
        }

    @cached_property
    def _feeders(self) -> dict[str, str]:
        return feeders(self._network, self._planned)


def decisions(
    network: Network, problem: Problem, tied: Sequence[Sequence[str]], coupling: Coupling, *, coupled: bool
) -> MergedProblem:
    """The problem in which every site is decided by itself: tied sites are one, and so are those of a coupled cost.

    Args:
        coupled: whether the request prices or limits a cost that two decisions make together.

    Raises:
        ConstraintImpossible: tied sites have no format in common.
        NotApplicable: sites of a coupled cost have more combinations of formats than can be planned.
    """
    shared = tie_sites(problem, tied)
    if not coupled:
        return shared
    members = {
        site.name: [problem.sites[index].name for index in group]
        for site, group in zip(shared.problem.sites, shared.groups, strict=True)
    }
    weights = {site.name: site for site in network.sites}

    def cost(sites: tuple[PlanSite, ...], parts: tuple[Candidate, ...]) -> JointCost:
        formats = {name: part.format for site, part in zip(sites, parts, strict=True) for name in members[site.name]}
        computing = [weights[name] for name in formats if name in weights]
        latencies = [ms for site in computing if (ms := coupling.latency_ms(site, formats)) is not None]
        return JointCost(
            bit_operations=sum(coupling.bit_operations(site, formats) for site in computing),
            latency_ms=math.fsum(latencies) if shared.problem.has_latency else None,
        )

    try:
        return shared.then(merge_sites(shared.problem, _groups(members, coupling), cost))
    except NotApplicable as error:
        raise NotApplicable(
            f"bit operations and latency of a layer depend on its weight and on what it reads, and {error}, in "
            "weights.bits, in activations.bits, or in layers for these alone"
        ) from None


def _groups(members: Mapping[str, Sequence[str]], coupling: Coupling) -> list[list[str]]:
    """Names of sites with one coupled cost: what a pair joins, directly or over others.

    Args:
        members: by name of each site those of the weights and activations that it stands for.
    """
    place = {name: index for index, names in enumerate(members.values()) for name in names}
    pairs = np.array([(place[weight], place[activation]) for weight, activation in coupling.pairs()]).reshape(-1, 2)
    joined = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(members),) * 2)
    _, group_of = connected_components(joined, directed=False)
    groups: dict[int, list[str]] = {}
    for name, group in zip(members, group_of.tolist(), strict=True):
        groups.setdefault(group, []).append(name)
    return [group for group in groups.values() if len(group) > 1]
