"""Plan: the frontier of predicted damage against cost, and the search for a plan with evaluations that are measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import norm

from evaluation.metrics import Metric
from evaluation.splits import Splits
from network.graph import Network
from planner.errors import LimitUnreachable
from planner.evidence import EvaluatedPlan, Evidence, PlanPoint, SearchResult
from planner.interactions import frontier_within, interaction_frontier
from planner.level_bisection import Priced, bisect_levels
from planner.local_improvement import improve_locally
from planner.problem import Plan, Problem, Quantity
from planner.results import undominated
from planner.search import least_drop, search_frontier
from workers.stage import StageContext
from workers.stages.analysis import Analysis
from workers.stages.evaluator import Evaluator
from workers.stages.inputs import Inputs
from workers.stages.measured import file_sizes
from workers.stages.payload import pack, unpack
from workers.stages.problem import planning_problem
from workers.stages.resolve import limits_of

FRONTIER_POINTS = 128
# A plan that misses its budget on other samples does so by about the noise of the measurement: a third less damage is a
# step of that size.
SAFER = 0.7
# Plans that may be tried on the held-out samples; each look widens the interval of the certificate.
MOST_LOOKS = 5


def run(context: StageContext) -> bytes:
    """The frontier, every evaluated plan, and the plans to certify, the chosen one first."""
    request = context.request
    inputs = Inputs.read(context)
    resolved, _ = unpack(context.read("resolve"))
    problem = planning_problem(
        inputs.network, resolved["allowed"], Analysis.read(context), request["sensitivity"]["method"]
    )
    points = frontier_points(request, inputs.network, problem)
    context.check()
    expected = len(points).bit_length() + 3
    evidence = Evidence(
        Evaluator(context, inputs, problem, Metric(resolved["metric"]), expected=expected),
        request["budget"]["max_drop"],
        safety=safety_of(request["budget"]["confidence"], inputs.splits),
        expired=context.deadline_passed,
    )
    result = _searched(request, inputs.network, problem, points, evidence)
    return pack(
        {
            "to_certify": [list(point.plan.choices) for point in _looks(request, points, result)],
            "search": {
                "status": result.status.value,
                "samples": len(inputs.splits.search),
                "full_evaluations": result.full_evaluations,
                "least_drop": result.least_drop,
                "evaluated": [_evaluated(problem, plan) for plan in result.evaluated],
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
    return Quantity.SIZE if request["limits"]["max_size_bytes"] is not None else Quantity.BIT_OPERATIONS


def _searched(
    request: Mapping[str, Any], network: Network, problem: Problem, points: Sequence[PlanPoint], evidence: Evidence
) -> SearchResult:
    """The result of the search that the request asks for, along the frontier `points` or level by level."""
    if request["objective"] == "accuracy":
        return evidence.result(least_drop(points, evidence))
    priced = _priced(request, network, problem)
    if request["search"]["method"] == "bisection":
        bisect_levels(problem, priced, evidence)
    if evidence.cheapest() is None:  # also where no level keeps the limits, or the budget
        search_frontier(points, evidence)
    improve_locally(problem, priced, evidence)
    return evidence.result()


def _priced(request: Mapping[str, Any], network: Network, problem: Problem) -> Priced:
    """Plans with their exact cost, the file's size to the byte; None for one that breaks a limit."""
    cost, limits = cost_of(request), limits_of(request)

    def priced(plan: Plan) -> PlanPoint | None:
        totals = {
            Quantity.DAMAGE: problem.total(Quantity.DAMAGE, plan),
            Quantity.BIT_OPERATIONS: problem.total(Quantity.BIT_OPERATIONS, plan),
            Quantity.SIZE: float(file_sizes(request, network, problem, [plan])[0]),
        }
        if any(totals[quantity] > limit for quantity, limit in limits.items()):
            return None
        return PlanPoint(plan, totals[cost], totals[Quantity.DAMAGE])

    return priced


def frontier_points(request: Mapping[str, Any], network: Network, problem: Problem) -> list[PlanPoint]:
    """At most `FRONTIER_POINTS` plans that keep the limits, cost ascending; sizes are those of the files to the byte.

    Raises:
        LimitUnreachable: no plan keeps the limits.
    """
    cost, limits = cost_of(request), limits_of(request)
    if problem.interactions is None:
        frontier = frontier_within(problem, cost, limits, FRONTIER_POINTS)
    else:
        frontier = interaction_frontier(problem, cost, limits=limits, points=FRONTIER_POINTS)
    plans = frontier.plans()
    totals = {
        Quantity.DAMAGE: frontier.damages,
        Quantity.BIT_OPERATIONS: problem.totals(Quantity.BIT_OPERATIONS, frontier.choices),
        Quantity.SIZE: file_sizes(request, network, problem, plans),
    }
    kept = np.ones(len(plans), dtype=bool)
    for quantity, limit in limits.items():
        kept &= totals[quantity] <= limit
    if not kept.any():  # the problem's sizes leave out some hundreds of bytes that the file has
        raise LimitUnreachable(
            f"limits.max_size_bytes is {limits.max_size_bytes:,.0f}, but the smallest file that weights.bits, layers "
            f"and the other limits allow has {totals[Quantity.SIZE].min():,.0f} bytes; raise the limit to that"
        )
    index = np.flatnonzero(kept)
    index = index[undominated(totals[cost][index], totals[Quantity.DAMAGE][index])]
    return [PlanPoint(plans[i], float(totals[cost][i]), float(totals[Quantity.DAMAGE][i])) for i in index]


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
        "bits": {name: format_.bits for name, format_ in problem.formats(plan.point.plan).items()},
        "cost": plan.point.cost,
        "predicted_damage": plan.point.damage,
        "drop": plan.evaluation.drop,
        "stderr": plan.evaluation.stderr,
        "fitted_drop": plan.fitted_drop,
        "meets_budget": plan.meets,
        "samples": plan.evaluation.samples,
        "fraction": plan.evaluation.fraction,
        "size_bytes": plan.evaluation.size_bytes,
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
        "unit": "bytes" if cost is Quantity.SIZE else "bit operations",
        "points": [
            {
                "cost": point.cost,
                "predicted_damage": point.damage,
                "bits": {name: format_.bits for name, format_ in problem.formats(point.plan).items()},
                "measured": None
                if point not in measured
                else {"drop": measured[point].drop, "stderr": measured[point].stderr},
                "chosen": point == result.chosen.point,
            }
            for point in (every[i] for i in index)
        ],
    }
