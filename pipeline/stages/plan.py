"""Plan: the frontier of predicted damage against cost, and the search for a plan with evaluations that are measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from evaluation.metrics import Metric
from evaluation.splits import Splits
from network.graph import Network
from pipeline.allowed_formats import halves_of
from pipeline.analysis import Analysis
from pipeline.coupling import Coupling, decisions
from pipeline.evaluator import Evaluator
from pipeline.fitness import MeasuredLoss
from pipeline.latency_table import LatencyTable
from pipeline.plan_evaluation import file_sizes
from pipeline.polishing import Elapsed, polished
from pipeline.results import pack, unpack
from pipeline.search_space import planning_problem
from pipeline.smallest import size_unreachable, smallest_plans
from pipeline.stage import StageContext
from pipeline.stages.resolve import limits_of
from pipeline.workspace import Inputs, opset_of
from planner.evidence import MOST_EVALUATIONS, EvaluatedPlan, Evidence, PlanPoint, SearchResult
from planner.interactions import frontier_within, interaction_frontier
from planner.level_bisection import bisect_levels
from planner.local_improvement import improve_locally
from planner.merge import MergedProblem
from planner.problem import Plan, Problem, Quantity
from planner.results import undominated
from planner.search import least_drop, search_frontier

FRONTIER_POINTS = 128
UNITS = {Quantity.SIZE: "bytes", Quantity.BIT_OPERATIONS: "bit operations", Quantity.LATENCY: "milliseconds"}
# A plan that misses its budget on other samples does so by about the noise of the measurement: a third less damage is a
# step of that size.
SAFER = 0.7
# Plans that may be tried on the held-out samples; each look widens the interval of the certificate.
MOST_LOOKS = 5


def run(context: StageContext) -> bytes:
    """The frontier, every evaluated plan, and the plans to certify, the chosen one first."""
    request = context.request
    inputs = Inputs.read(context, opset_of(context.request))
    resolved, _ = unpack(context.read("resolve"))
    latency = LatencyTable.read(context)
    analysis, method = Analysis.read(context), request["sensitivity"]["method"]
    halves = halves_of(request, inputs.network)
    problem = planning_problem(inputs.network, resolved["allowed"], analysis, method, latency, halves)
    coupling = Coupling(inputs.network, resolved["allowed"], latency)
    joint = decisions(request, inputs.network, problem, resolved["tied"], coupling)
    space = _Space(request, inputs.network, problem, joint)
    points = space.frontier()
    context.check()
    elapsed = Elapsed(context) if request["search"]["method"] == "evolution" else None
    expected = len(points).bit_length() + 3
    evaluator = Evaluator(
        context,
        inputs,
        problem,
        Metric(resolved["metric"]),
        report=elapsed.report if elapsed else lambda done: context.progress(min(1.0, done / expected)),
    )
    evidence = Evidence(
        lambda point, to_the_end: evaluator(space.single(point), to_the_end),
        request["budget"]["max_drop"],
        safety=safety_of(request["budget"]["confidence"], inputs.splits),
        max_evaluations=math.inf if elapsed else MOST_EVALUATIONS,  # evolution ends with the time
        expired=context.deadline_passed,
    )
    found, polish = _searched(space, points, evidence), None
    if elapsed:
        fitness = MeasuredLoss(context, inputs, problem, joint, elapsed.report)
        found, polish = polished(context, joint.problem, space.priced, cost_of(request), found, evidence, fitness)
    result = space.single_result(found)
    points = [space.single(point) for point in points]
    return pack(
        {
            "to_certify": [list(point.plan.choices) for point in _looks(request, points, result)],
            "search": {
                "status": result.status.value,
                "samples": len(inputs.splits.search),
                "full_evaluations": result.full_evaluations,
                "least_drop": result.least_drop,
                "evaluated": [_evaluated(problem, plan) for plan in result.evaluated],
                "polish": polish,
            },
            "frontier": _frontier_document(problem, cost_of(request), points, result),
        }
    )


def safety_of(confidence: float | None, splits: Splits) -> float:
    """Standard errors on the search samples that the upper end of the certificate's interval is expected to add.

    The certificate's interval has two sides and is measured on fewer samples. A search that asked for less would choose
    plans that fail on the held-out samples, and each further look at these widens the interval.
    """
    if confidence is None:
        return 0.0
    return float(norm.ppf((1 + confidence) / 2) * math.sqrt(len(splits.search) / len(splits.held_out)))


def cost_of(request: Mapping[str, Any]) -> Quantity:
    """What the frontier trades damage for: the objective, or for the least drop what is limited, size first."""
    if request["objective"] != "accuracy":
        return Quantity(request["objective"])
    return next(quantity for quantity, _ in limits_of(request).items())


@dataclass(frozen=True, eq=False)
class _Space:
    """The plans that are searched: those in which tied sites have one format.

    The search works on plans of `joint`, whose sites are decided together where they are tied or their costs coupled;
    everything else, what is stored included, on those of `problem`, which decide every site by itself.
    """

    request: Mapping[str, Any]
    network: Network
    problem: Problem
    joint: MergedProblem

    def single(self, point: PlanPoint) -> PlanPoint:
        return replace(point, plan=self.joint.original(point.plan))

    def single_result(self, result: SearchResult) -> SearchResult:
        def single(plan: EvaluatedPlan) -> EvaluatedPlan:
            return replace(plan, point=self.single(plan.point))

        return replace(result, chosen=single(result.chosen), evaluated=tuple(map(single, result.evaluated)))

    def totals(self, plans: Sequence[Plan]) -> dict[Quantity, NDArray[np.float64]]:
        """[P]: every cost that is known, the file's size to the byte, and the predicted damage."""
        choices = np.array([plan.choices for plan in plans])
        quantities = [Quantity.DAMAGE, Quantity.BIT_OPERATIONS]
        if self.joint.problem.has_latency:
            quantities.append(Quantity.LATENCY)
        totals = {quantity: self.joint.problem.totals(quantity, choices) for quantity in quantities}
        originals = [self.joint.original(plan) for plan in plans]
        return totals | {Quantity.SIZE: file_sizes(self.request, self.network, self.problem, originals)}

    def priced(self, plan: Plan) -> PlanPoint | None:
        """The plan with its exact cost; None for one that breaks a limit."""
        totals = self.totals([plan])
        if any(totals[quantity][0] > limit for quantity, limit in limits_of(self.request).items()):
            return None
        return PlanPoint(plan, float(totals[cost_of(self.request)][0]), float(totals[Quantity.DAMAGE][0]))

    def frontier(self) -> list[PlanPoint]:
        """At most `FRONTIER_POINTS` plans that keep the limits, cost ascending.

        Raises:
            LimitUnreachable: no plan keeps the limits.
        """
        cost, limits, problem = cost_of(self.request), limits_of(self.request), self.joint.problem
        if problem.interactions is None:
            frontier = frontier_within(problem, cost, limits, FRONTIER_POINTS)
        else:
            frontier = interaction_frontier(problem, cost, limits=limits, points=FRONTIER_POINTS)
        plans = frontier.plans()
        totals = self.totals(plans)
        if not self._kept(totals).any():  # the problem's sizes leave out some hundreds of bytes that the file has
            plans = tuple(smallest_plans(problem))
            totals = self.totals(plans)
        index = np.flatnonzero(self._kept(totals))
        if not len(index):
            raise size_unreachable(limits.max_size_bytes or 0.0, totals[Quantity.SIZE].min())
        damages = totals[Quantity.DAMAGE]
        index = index[undominated(totals[cost][index], damages[index])]
        return [PlanPoint(plans[i], float(totals[cost][i]), float(damages[i])) for i in index]

    def _kept(self, totals: Mapping[Quantity, NDArray[np.float64]]) -> NDArray[np.bool_]:
        """[P]: which plans keep every limit."""
        kept = np.ones(len(totals[Quantity.DAMAGE]), dtype=bool)
        for quantity, limit in limits_of(self.request).items():
            kept &= totals[quantity] <= limit
        return kept


def _searched(space: _Space, points: Sequence[PlanPoint], evidence: Evidence) -> SearchResult:
    """The result of the search that the request asks for, along the frontier `points` or level by level."""
    if space.request["objective"] == "accuracy":
        return evidence.result(least_drop(points, evidence))
    if space.request["search"]["method"] == "bisection":
        bisect_levels(space.joint.problem, space.priced, evidence)
    if evidence.cheapest() is None:  # also where no level keeps the limits, or the budget
        search_frontier(points, evidence)
    improve_locally(space.joint.problem, space.priced, evidence)
    return evidence.result()


def to_certify(points: Sequence[PlanPoint], chosen: PlanPoint) -> list[PlanPoint]:
    """The chosen plan and what to fall back on, at most `MOST_LOOKS` plans, each dearer than the one before.

    Each has at most `SAFER` of the predicted damage of the one before, but for the last: that is the frontier's last
    plan, so that no budget is called missed that the safest plan would keep.
    """
    chain = [chosen]
    dearer = [point for point in points if point.cost > chosen.cost and point.damage < chosen.damage]
    for point in dearer[:-1]:
        if len(chain) < MOST_LOOKS - 1 and point.damage <= SAFER * chain[-1].damage:
            chain.append(point)
    return [*chain, *dearer[-1:]]


def _looks(request: Mapping[str, Any], points: Sequence[PlanPoint], result: SearchResult) -> list[PlanPoint]:
    """What to certify. Who asks for the least drop gets one look: another plan is not expected to do better."""
    chosen = result.chosen.point
    return [chosen] if request["objective"] == "accuracy" else to_certify(points, chosen)


def _evaluated(problem: Problem, plan: EvaluatedPlan) -> dict[str, Any]:
    return {
        **_by_site(problem, plan.point.plan),
        "cost": plan.point.cost,
        "predicted_damage": plan.point.damage,
        "drop": plan.evaluation.drop,
        "stderr": plan.evaluation.stderr,
        "expected_drop": plan.evaluation.expected_drop,
        "fitted_drop": plan.fitted_drop,
        "meets_budget": plan.meets,
        "samples": plan.evaluation.samples,
        "fraction": plan.evaluation.fraction,
        "size_bytes": plan.evaluation.size_bytes,
    }


def _by_site(problem: Problem, plan: Plan) -> dict[str, Any]:
    formats = problem.formats(plan)
    return {
        "bits": {name: format_.bits for name, format_ in formats.items()},
        "formats": {name: format_.name for name, format_ in formats.items()},
    }


def _frontier_document(
    problem: Problem, cost: Quantity, points: Sequence[PlanPoint], result: SearchResult
) -> dict[str, Any]:
    """The frontier with what was measured of it; evaluated plans between its points are added where none beats them."""
    measured = {plan.point: plan.evaluation for plan in result.evaluated}
    every = [*points, *(point for point in measured if point not in points)]
    index = undominated(np.array([point.cost for point in every]), np.array([point.damage for point in every]))
    return {
        "cost": cost.value,
        "unit": UNITS[cost],
        "points": [
            {
                "cost": point.cost,
                "predicted_damage": point.damage,
                **_by_site(problem, point.plan),
                "measured": None
                if point not in measured
                else {"drop": measured[point].drop, "stderr": measured[point].stderr},
                "chosen": point == result.chosen.point,
            }
            for point in (every[i] for i in index)
        ],
    }
