"""Plan: the frontier of predicted damage against cost, and the search along it with evaluations that are measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from evaluation.metrics import DropKind, Metric
from network.graph import Network
from planner.errors import LimitUnreachable
from planner.frontier import additive_frontier
from planner.problem import Limits, Plan, Problem, Quantity, limit_name
from planner.results import Frontier, undominated
from planner.search import EvaluatedPlan, Evaluation, FrontierPoint, SearchResult, search_frontier
from workers.stage import StageContext
from workers.stages.candidates import unpack_candidates
from workers.stages.inputs import Inputs
from workers.stages.measured import Comparison, exported, file_sizes
from workers.stages.payload import pack, unpack
from workers.stages.problem import Analysis, planning_problem
from workers.stages.resolve import limits_of

FRONTIER_POINTS = 128


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
    evaluate = _Evaluator(context, inputs, problem, Metric(resolved["metric"]), len(points))
    confidence = request["budget"]["confidence"]
    result = search_frontier(
        points,
        evaluate,
        request["budget"]["max_drop"],
        safety=float(norm.ppf(confidence)) if confidence else 0.0,
        expired=context.deadline_passed,
    )
    return pack(
        {
            "to_certify": [list(plan.point.plan.choices) for plan in (result.chosen, *result.safer())],
            "search": {
                "status": result.status.value,
                "samples": len(inputs.splits.search),
                "least_drop": result.least_drop,
                "evaluated": [_evaluated(problem, plan) for plan in result.evaluated],
            },
            "frontier": _frontier_document(problem, Quantity(request["objective"]), points, result),
        }
    )


def frontier_points(request: Mapping[str, Any], network: Network, problem: Problem) -> list[FrontierPoint]:
    """At most `FRONTIER_POINTS` plans that keep the limits, cost ascending; sizes are those of the files to the byte.

    Raises:
        LimitUnreachable: no plan of the frontier keeps them all.
    """
    cost, limits = Quantity(request["objective"]), limits_of(request)
    if problem.interactions is None:
        frontier = additive_frontier(problem, cost)
    else:
        frontier = _temporary(problem, cost)
    # every step-th, counted from the dearest plan, which is the best effort when no other meets the budget
    step = -(-len(frontier) // FRONTIER_POINTS)
    choices = frontier.choices[::-1][::step][::-1]
    plans = [Plan(tuple(row)) for row in choices.tolist()]
    totals = {quantity: problem.totals(quantity, choices) for quantity in (Quantity.DAMAGE, Quantity.BIT_OPERATIONS)}
    totals[Quantity.SIZE] = file_sizes(request, network, problem, plans)
    kept = np.ones(len(plans), dtype=bool)
    for quantity, limit in limits.items():
        kept &= totals[quantity] <= limit
    if not kept.any():
        raise LimitUnreachable(_unreachable(limits, totals))
    index = np.flatnonzero(kept)
    index = index[undominated(totals[cost][index], totals[Quantity.DAMAGE][index])]
    return [FrontierPoint(plans[i], float(totals[cost][i]), float(totals[Quantity.DAMAGE][i])) for i in index]


def _unreachable(limits: Limits, totals: Mapping[Quantity, NDArray[np.float64]]) -> str:
    wanted = ", ".join(
        f"{limit_name(quantity)} {limit:,.0f} (the least on the frontier is {totals[quantity].min():,.0f})"
        for quantity, limit in limits.items()
    )
    return f"no plan keeps all limits: {wanted}; raise a limit, or allow fewer bits in weights.bits or layers"


class _Evaluator:
    """Exports a plan, runs it over the search samples, and remembers what it measured under the plan's own name."""

    def __init__(self, context: StageContext, inputs: Inputs, problem: Problem, metric: Metric, points: int) -> None:
        self._context = context
        self._inputs = inputs
        self._problem = problem
        self._kind = DropKind(context.request["budget"]["kind"])
        self._candidates = unpack_candidates(context.read("calibrate"))
        self._compare = Comparison(context, inputs, inputs.splits.search, metric)
        self._expected = points.bit_length() + 3
        self._done = 0

    def __call__(self, point: FrontierPoint) -> Evaluation:
        name = "evaluated/" + "-".join(map(str, point.plan.choices))
        document, _ = unpack(self._context.chunk(name, lambda: self._measured(point)))
        evaluation = Evaluation(**document)
        self._done += 1
        self._context.event("evaluated", {"cost": point.cost, "predicted_damage": point.damage, **document})
        self._context.progress(min(1.0, self._done / self._expected))
        return evaluation

    def _measured(self, point: FrontierPoint) -> bytes:
        model = exported(self._context, self._inputs, self._candidates, self._problem, point.plan)
        measurement = self._compare(model)
        return pack(
            {
                "drop": measurement.drop(self._kind),
                "stderr": measurement.stderr(self._kind),
                "samples": measurement.samples,
                "size_bytes": len(model),
            }
        )


def _evaluated(problem: Problem, plan: EvaluatedPlan) -> dict[str, Any]:
    return {
        "bits": {name: format_.bits for name, format_ in problem.formats(plan.point.plan).items()},
        "cost": plan.point.cost,
        "predicted_damage": plan.point.damage,
        "drop": plan.evaluation.drop,
        "stderr": plan.evaluation.stderr,
        "fitted_drop": plan.fitted_drop,
        "meets_budget": plan.meets,
        "size_bytes": plan.evaluation.size_bytes,
    }


def _frontier_document(
    problem: Problem, cost: Quantity, points: list[FrontierPoint], result: SearchResult
) -> dict[str, Any]:
    measured = {plan.index: plan for plan in result.evaluated}
    return {
        "cost": cost.value,
        "unit": "bytes" if cost is Quantity.SIZE else "bit operations",
        "points": [
            {
                "cost": point.cost,
                "predicted_damage": point.damage,
                "bits": {name: format_.bits for name, format_ in problem.formats(point.plan).items()},
                "measured": None
                if index not in measured
                else {"drop": measured[index].evaluation.drop, "stderr": measured[index].evaluation.stderr},
                "chosen": index == result.chosen.index,
            }
            for index, point in enumerate(points)
        ],
    }


def _temporary(problem: Problem, cost: Quantity) -> Frontier:
    from planner.results import Status

    base = additive_frontier(problem.without_interactions(), cost)
    picks = np.unique(np.linspace(0, len(base) - 1, 200).astype(int))
    ch = base.choices[picks]
    damages = problem.totals(Quantity.DAMAGE, ch)
    costs = problem.totals(cost, ch)
    u = undominated(costs, damages)
    return Frontier(cost, Status.HEURISTIC, costs[u], damages[u], ch[u], float("inf"))
