"""The search space: the sites of a job with the formats that they may get, what these cost, and what plans must keep.

Built in `resolve`, completed with latencies by the stage `latency` and with damages by the analysis; whoever prices a
plan asks here. Costs of single sites are sums; the size of a file is exact to the byte, unpacking functions included,
which several sites share.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

from network.activations import ActivationSite
from network.errors import listing
from network.graph import Network, Site
from pipeline.analysis import Analysis
from pipeline.config import SpaceConfig
from pipeline.coupling import Coupling, decisions
from pipeline.latency_table import LatencyTable
from pipeline.limits import check_limits, size_unreachable, smallest_plans, smallest_within
from pipeline.reach import planned_activations
from planner.errors import ConstraintImpossible
from planner.evidence import EvaluatedPlan, PlanPoint, SearchResult
from planner.interactions import frontier_within, interaction_frontier
from planner.merge import MergedProblem
from planner.problem import Candidate, Limits, Plan, PlanSite, Problem, Quantity, whole_steps
from planner.results import undominated
from quantization.export.cost import activation_bytes, file_bytes, skeleton_bytes, weight_bytes
from quantization.export.leftovers import leftovers, narrow_leftovers
from quantization.export.narrow import stored_format
from quantization.export.products import Products, packed_products
from quantization.formats import FloatFormat, Format, UnsignedFormat, parse_format
from quantization.storage.loading import network_load_ms, weight_load_ms
from sensitivity.interaction_matrix import InteractionMatrix

FRONTIER_POINTS = 128
ROWS_AT_ONCE = 64
"""Of the matrix of interactions, while it is made."""


@dataclass(frozen=True, eq=False)
class SearchSpace:
    """The planning problem of a job.

    Plans of `problem` decide every site by itself; it is what is stored and reported. Plans of `joint` are searched:
    there, sites that are tied, or whose costs couple, are one site.

    Args:
        network: at the opset of the result.
        allowed: format names by site name, weights and then planned activations, by bits.
        tied: names of the sites that share one format, in groups.
        latency: None where nothing asks for it.
    """

    network: Network
    config: SpaceConfig
    allowed: Mapping[str, Sequence[str]]
    tied: Sequence[Sequence[str]]
    problem: Problem
    latency: LatencyTable | None = None

    @classmethod
    def build(
        cls,
        network: Network,
        config: SpaceConfig,
        allowed: Mapping[str, Sequence[str]],
        tied: Sequence[Sequence[str]],
    ) -> SearchSpace:
        """The space with sizes, bit operations and times to load; damages are 0 and there are no latencies."""
        halves = _halves(network, config)
        coupling = Coupling(network, allowed)
        formats = {name: [parse_format(format_) for format_ in names] for name, names in allowed.items()}
        sites = [
            PlanSite(site.name, tuple(_weight(network, config, coupling, site, own) for own in formats[site.name]))
            for site in network.sites
        ]
        sites += [
            PlanSite(site.name, tuple(_activation(network, site, halves, own) for own in formats[site.name]))
            for site in planned_activations(network)
            if site.name in formats
        ]
        quantized = any(isinstance(own.format, UnsignedFormat) for site in sites for own in site.candidates)
        size = skeleton_bytes(network, activations=quantized, halves=halves)
        load_ms = network_load_ms(len(network.nodes), size)
        return cls(network, config, allowed, tied, Problem(tuple(sites), size, base_load_ms=load_ms))

    def completed(self, latency: LatencyTable) -> SearchSpace:
        """The same space with the latency of every candidate."""
        coupling = Coupling(self.network, self.allowed, latency)
        weights = {site.name: site for site in self.network.sites}

        def timed(site: PlanSite, candidate: Candidate) -> Candidate:
            # what a layer reads counts with the layer, so that an activation takes no time of its own
            layers = weights.get(site.name)
            if layers is None:
                return replace(candidate, latency_ms=0.0)
            if latency.is_unpacked(site.name, candidate.format.name):
                candidate = _weight(self.network, self.config, coupling, layers, candidate.format, packs=False)
            return replace(candidate, latency_ms=coupling.latency_ms(layers, {site.name: candidate.format}))

        problem = replace(self._with(timed), base_latency_ms=latency.base_ms)
        return replace(self, problem=problem, latency=latency)

    def predicted(self, analysis: Analysis, method: str) -> SearchSpace:
        """The same space with the damage of every candidate, and how damages interact.

        Args:
            method: what predicts; `auto` for the method that agreed best with measured plans.

        Raises:
            MethodNotApplicable: see `Analysis.prediction`.
        """
        prediction, alone = analysis.prediction(method), self.damaged(analysis, method)
        if prediction.interactions is None:
            return alone
        rows = [_row(analysis, site, own) for site in self.problem.sites for own in site.candidates]
        interactions = _interactions(prediction.interactions, rows)
        return replace(self, problem=replace(alone.problem, interactions=interactions))

    def damaged(self, analysis: Analysis, method: str) -> SearchSpace:
        """The same space with the damage of every candidate alone: without the matrix, which is large."""
        own = analysis.prediction(method).own

        def damaged(site: PlanSite, candidate: Candidate) -> Candidate:
            row = _row(analysis, site, candidate)
            return replace(candidate, damage=0.0 if row is None else float(own[row]))

        return replace(self, problem=self._with(damaged))

    def predicted_damage(self, analysis: Analysis, method: str, plan: Plan) -> float:
        """What a plan of `predicted` is predicted to lose, to the bit, from the candidates of the plan alone."""
        interactions = analysis.prediction(method).interactions
        if interactions is None:
            return self.damaged(analysis, method).problem.total(Quantity.DAMAGE, plan)
        chosen = zip(self.problem.sites, plan.choices, strict=True)
        entries = _interactions(interactions, [_row(analysis, site, site.candidates[own]) for site, own in chosen])
        return float(((entries + entries.T) / 2).sum())

    @cached_property
    def coupling(self) -> Coupling:
        """What layers cost in a given plan."""
        return Coupling(self.network, self.allowed, self.latency)

    @cached_property
    def joint(self) -> MergedProblem:
        """The problem in which every site is decided by itself.

        Raises:
            ConstraintImpossible, NotApplicable: see `pipeline.coupling.decisions`.
        """
        coupled = self.config.couples_sites
        return decisions(self.network, self.problem, self.tied, self.coupling, coupled=coupled)

    @cached_property
    def halves(self) -> frozenset[str]:
        """The initializers that are no weights and that the file has as float16, by name."""
        return _halves(self.network, self.config)

    def check(self) -> None:
        """Refuse limits that no plan keeps. A limit on latency is looked at once latencies are known.

        Raises:
            LimitUnreachable: the text names the nearest values that can be kept.
            ConstraintImpossible: the request prices bit operations, and of some weights only the least are known.
        """
        uncounted = [site.name for site in self.network.sites if not site.macs_known]
        if uncounted and self.config.prices(Quantity.BIT_OPERATIONS):
            raise ConstraintImpossible(
                f"the bit operations of {listing(uncounted)} are not known, because no run showed how often these "
                "weights are used; take another objective and no limits.max_bit_operations, or export the network "
                "without If, Loop and Scan around them"
            )
        limits = self.config.limits if self.latency is not None else replace(self.config.limits, max_latency_ms=None)
        if self.latency is None:
            self._check_size(limits)
        check_limits(self.joint.problem, limits)

    def float_load_ms(self) -> float:
        """What the float network is predicted to take to load, as plans count it."""
        floats = (weight_load_ms(FloatFormat(), site.size, self.network.opset) for site in self.network.sites)
        return self.problem.base_load_ms + math.fsum(map(whole_steps, floats))

    def formats_of_weights(self, plan: Plan) -> dict[str, Format]:
        """The formats that the file of a plan has weights in, by initializer name."""
        formats = self.problem.formats(plan)
        return {
            site.weight: stored_format(self.network, site.weight, formats[site.name]) for site in self.network.sites
        }

    def unpacked(self, plan: Plan) -> frozenset[str]:
        """The weights that the file of a plan unpacks at load although it could multiply them packed, by initializer
        name: in their formats that is slower here."""
        table = self.latency
        if table is None:
            return frozenset()
        formats = self.problem.formats(plan)
        sites = self.network.sites
        return frozenset(site.weight for site in sites if table.is_unpacked(site.name, formats[site.name].name))

    def provenance(self, plan: Plan) -> dict[str, str]:
        """What the file says of where it comes from: this version, the model's digest, and the plan's."""
        formats = {name: format_.name for name, format_ in self.problem.formats(plan).items()}
        return {
            "bitbudget.version": version("bitbudget"),
            "bitbudget.model_sha256": self.config.export.model_sha256,
            "bitbudget.plan_sha256": hashlib.sha256(json.dumps(formats).encode()).hexdigest(),
        }

    def file_sizes(self, plans: Iterable[Plan]) -> NDArray[np.float64]:
        """[P]: bytes of the file of each plan of `problem`, to the byte."""
        return np.array([self._file_size(plan) for plan in plans], dtype=np.float64)

    def totals(self, plans: Sequence[Plan]) -> dict[Quantity, NDArray[np.float64]]:
        """[P]: every cost that is known of plans of `joint`, sizes to the byte, and the predicted damage."""
        choices = np.array([plan.choices for plan in plans])
        quantities = [Quantity.DAMAGE, Quantity.BIT_OPERATIONS, Quantity.LOAD]
        if self.joint.problem.has_latency:
            quantities.append(Quantity.LATENCY)
        totals = {quantity: self.joint.problem.totals(quantity, choices) for quantity in quantities}
        return totals | {Quantity.SIZE: self.file_sizes(map(self.joint.original, plans))}

    def priced(self, plan: Plan) -> PlanPoint | None:
        """A plan of `joint` with its exact cost; None for one that breaks a limit."""
        totals = self.totals([plan])
        if not self._kept(totals)[0]:
            return None
        return PlanPoint(plan, float(totals[self.config.cost][0]), float(totals[Quantity.DAMAGE][0]))

    def frontier(self) -> list[PlanPoint]:
        """At most `FRONTIER_POINTS` plans of `joint` that keep the limits, cost ascending.

        Raises:
            LimitUnreachable: no plan keeps the limits.
        """
        cost, limits, problem = self.config.cost, self.config.limits, self.joint.problem
        if problem.interactions is None:
            frontier = frontier_within(problem, cost, limits, FRONTIER_POINTS)
        else:
            frontier = interaction_frontier(problem, cost, limits=limits, points=FRONTIER_POINTS)
        plans = frontier.plans()
        totals = self.totals(plans)
        if not self._kept(totals).any():  # the problem's sizes leave out some hundreds of bytes that the file has
            plans = tuple(smallest_within(problem, replace(limits, max_size_bytes=None)))
            totals = self.totals(plans)
        index = np.flatnonzero(self._kept(totals))
        if not len(index):
            raise size_unreachable(limits.max_size_bytes or 0.0, totals[Quantity.SIZE].min())
        damages = totals[Quantity.DAMAGE]
        index = index[undominated(totals[cost][index], damages[index])]
        return [PlanPoint(plans[i], float(totals[cost][i]), float(damages[i])) for i in index]

    def single(self, point: PlanPoint) -> PlanPoint:
        """A point of `joint` as one of `problem`."""
        return replace(point, plan=self.joint.original(point.plan))

    def single_result(self, result: SearchResult) -> SearchResult:
        """A result of a search on `joint` as one of `problem`."""

        def single(plan: EvaluatedPlan) -> EvaluatedPlan:
            return replace(plan, point=self.single(plan.point))

        return replace(result, chosen=single(result.chosen), evaluated=tuple(map(single, result.evaluated)))

    def _with(self, change: Callable[[PlanSite, Candidate], Candidate]) -> Problem:
        sites = (
            replace(site, candidates=tuple(change(site, own) for own in site.candidates)) for site in self.problem.sites
        )
        return replace(self.problem, sites=tuple(sites))

    def _kept(self, totals: Mapping[Quantity, NDArray[np.float64]]) -> NDArray[np.bool_]:
        """[P]: which plans keep every limit."""
        kept = np.ones(len(totals[Quantity.DAMAGE]), dtype=bool)
        for quantity, limit in self.config.limits.items():
            kept &= totals[quantity] <= limit
        return kept

    def _file_size(self, plan: Plan) -> int:
        activations = {
            tensor: format_
            for name, format_ in self.problem.formats(plan).items()
            if isinstance(format_, UnsignedFormat)
            for tensor in self._tensors[name]
        }
        return file_bytes(
            self.network,
            self.formats_of_weights(plan),
            self.provenance(plan),
            activations,
            products=self.config.export.products,
            unpacked=self.unpacked(plan),
            halves=self.halves,
        )

    @cached_property
    def _tensors(self) -> dict[str, tuple[str, ...]]:
        """The tensors of every planned activation, by site name."""
        return {site.name: site.tensors for site in planned_activations(self.network)}

    def _check_size(self, limits: Limits) -> None:
        """The limit on the size must leave the smallest file that keeps the other limits, as far as one is known.

        But for that on the time to load, which small formats break, so that the smallest file with it is not known;
        with both, sums decide (`check_limits`).
        """
        if limits.max_size_bytes is None:
            return
        others = replace(limits, max_size_bytes=None, max_load_ms=None)
        plans = smallest_plans(self.joint.problem)
        kept = self.joint.problem.within(others, np.array([plan.choices for plan in plans]))
        least = np.inf
        for plan, keeps in zip(plans, kept, strict=True):
            if keeps:
                least = min(least, self._file_size(self.joint.original(plan)))
            if least <= limits.max_size_bytes:
                return
        if least < np.inf:
            raise size_unreachable(limits.max_size_bytes, least)


def _weight(
    network: Network, config: SpaceConfig, coupling: Coupling, site: Site, format_: Format, *, packs: bool = True
) -> Candidate:
    products = config.export.products if packs else Products.FLOAT
    product = packed_products(network, {site.weight: format_}, products).get(site.weight)
    stored = stored_format(network, site.weight, format_)
    size = weight_bytes(stored, site.shape, site.channel_axis, site.weight, product, network.opset)
    # with the widest of what is read; exact once that is the same decision (`pipeline.coupling.decisions`)
    operations = coupling.bit_operations(site, {site.name: format_})
    load_ms = weight_load_ms(stored, site.size, network.opset)
    return Candidate(format_, size, operations, damage=0.0, load_ms=load_ms)


def _activation(network: Network, site: ActivationSite, halves: frozenset[str], format_: Format) -> Candidate:
    size = activation_bytes(network, site.tensors, format_, halves) if isinstance(format_, UnsignedFormat) else 0
    # what it costs to compute with is counted where it is read
    return Candidate(format_, size, bit_operations=0, damage=0.0)


def _halves(network: Network, config: SpaceConfig) -> frozenset[str]:
    return narrow_leftovers(network) | (leftovers(network) if config.export.halves else frozenset())


def _row(analysis: Analysis, site: PlanSite, candidate: Candidate) -> int | None:
    """The place of a candidate in the analysis; None where it stays float."""
    if isinstance(candidate.format, FloatFormat):
        return None
    return analysis.scores.places[site.name, candidate.format.name]


def _interactions(matrix: InteractionMatrix, rows: Sequence[int | None]) -> NDArray[np.float64]:
    """The matrix of the remaining candidates, for a problem to take over; a weight that stays float changes nothing, so
    its row is zero."""
    known = np.array([row is not None for row in rows])
    index = np.array([row or 0 for row in rows])
    chosen = np.empty((len(rows), len(rows)))
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        np.multiply(matrix.block(index[part], index), np.outer(known[part], known), out=chosen[part])
    chosen.flags.writeable = False
    return chosen
