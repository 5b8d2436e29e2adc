"""From the analysis to the planning problem: candidates with costs, damages and interactions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from network.activations import ActivationSite
from network.graph import Network, Site
from pipeline.activations import planned_activations
from pipeline.analysis import Analysis
from pipeline.coupling import Coupling
from pipeline.latency_table import LatencyTable
from planner.problem import Candidate, PlanSite, Problem
from quantization.export.cost import activation_bytes, skeleton_bytes, weight_bytes
from quantization.export.matmul_nbits import Products, packed_products
from quantization.formats import FloatFormat, Format, UnsignedFormat, parse_format


def planning_problem(
    network: Network,
    allowed: Mapping[str, Sequence[str]],
    analysis: Analysis | None,
    method: str,
    latency: LatencyTable | None = None,
    halves: Collection[str] = (),
) -> Problem:
    """The problem with the formats that the request leaves to each site.

    Args:
        allowed: format names by site name, `float32` for a site that is kept.
        analysis: None gives the costs alone, with damages of 0.
        method: what predicts the damage; `auto` for the method that agreed best with measured plans.
        latency: None where nothing asks for it.
        halves: initializers that are no weights and stored as float16.

    Raises:
        MethodNotApplicable: see `Analysis.prediction`.
    """
    prediction = None if analysis is None else analysis.prediction(method)
    sites = []
    rows: list[int | None] = []
    for site, costs in _costs(network, allowed, latency, halves):
        candidates = []
        for name in allowed[site]:
            format_ = parse_format(name)
            row = None
            if analysis is not None and not isinstance(format_, FloatFormat):
                row = analysis.scores.index(site, format_)
            rows.append(row)
            damage = 0.0 if prediction is None or row is None else float(prediction.own[row])
            candidates.append(costs(format_, damage))
        sites.append(PlanSite(site, tuple(candidates)))
    interactions = None
    if prediction is not None and prediction.interactions is not None:
        interactions = _interactions(prediction.interactions, rows)
    quantized = any(isinstance(one.format, UnsignedFormat) for site in sites for one in site.candidates)
    return Problem(
        tuple(sites),
        base_size_bytes=skeleton_bytes(network, activations=quantized, halves=halves),
        interactions=interactions,
        base_latency_ms=0.0 if latency is None else latency.base_ms,
    )


_Costs = Callable[[Format, float], Candidate]


def _costs(
    network: Network,
    allowed: Mapping[str, Sequence[str]],
    latency: LatencyTable | None,
    halves: Collection[str],
) -> Iterator[tuple[str, _Costs]]:
    """For each site its name, and a function from format and damage to the candidate: weights, then activations."""
    coupling = Coupling(network, allowed, latency)
    products = Products.FLOAT if latency is None else Products.PACKED
    for site in network.sites:

        def weight(format_: Format, damage: float, site: Site = site) -> Candidate:
            product = packed_products(network, {site.weight: format_}, products).get(site.weight)
            return Candidate(
                format=format_,
                size_bytes=weight_bytes(format_, site.shape, site.channel_axis, site.weight, product, network.opset),
                # both beside the widest of what is read; exact once that is the same decision (`decisions`)
                bit_operations=coupling.bit_operations(site, {site.name: format_}),
                damage=damage,
                latency_ms=coupling.latency_ms(site, {site.name: format_}),
            )

        yield site.name, weight
    for found in planned_activations(network):
        if found.name not in allowed:
            continue

        def activation(format_: Format, damage: float, found: ActivationSite = found) -> Candidate:
            size = 0
            if isinstance(format_, UnsignedFormat):
                size = activation_bytes(network, found.tensors, format_, halves)
            # what it costs to compute with is counted where it is read
            return Candidate(format_, size, 0, damage, None if latency is None else 0.0)

        yield found.name, activation


def _interactions(matrix: NDArray[np.float64], rows: Sequence[int | None]) -> NDArray[np.float64]:
    """The matrix of the remaining candidates; a weight that stays float changes nothing, so its row is zero."""
    known = np.array([row is not None for row in rows])
    index = np.array([row or 0 for row in rows])
    chosen = matrix[np.ix_(index, index)] * np.outer(known, known)
    return np.asarray((chosen + chosen.T) / 2)
