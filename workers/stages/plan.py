"""Plan: the frontier of predicted damage against cost, and the search along it with evaluations that are measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import norm

from evaluation.metrics import DropKind, Metric
from network.graph import Network
from planner.errors import LimitUnreachable
from planner.interactions import frontier_within, interaction_frontier
from planner.problem import Problem, Quantity
from planner.results import undominated
from planner.search import EvaluatedPlan, Evaluation, FrontierPoint, SearchResult, search_frontier
from workers.stage import StageContext
from workers.stages.candidates import unpack_candidates
from workers.stages.inputs import Inputs
from workers.stages.measured import Comparison, exported, file_sizes
from workers.stages.payload import pack, unpack
from workers.stages.problem import Analysis, planning_problem
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
            "to_certify": [list(point.plan.choices) for point in to_certify(points, result)],
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
        LimitUnreachable: no plan keeps the limits.
    """
    cost, limits = Quantity(request["objective"]), limits_of(request)
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
    return [FrontierPoint(plans[i], float(totals[cost][i]), float(totals[Quantity.DAMAGE][i])) for i in index]


def to_certify(points: Sequence[FrontierPoint], result: SearchResult) -> list[FrontierPoint]:
    """The chosen plan and what to fall back on, at most `MOST_LOOKS` plans, each dearer than the one before.

    Each has at most `SAFER` of the predicted damage of the one before, but for the last: that is the frontier's last
    plan, so that no budget is called missed that the safest plan would keep.
    """
    chain = [result.chosen.point]
    for point in points[result.chosen.index + 1 : -1]:
        if len(chain) < MOST_LOOKS - 1 and point.damage <= SAFER * chain[-1].damage:
            chain.append(point)
    return chain if result.chosen.index == len(points) - 1 else [*chain, points[-1]]


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
        self._context.progress(min(1.0, self._done / self._expected))
        return evaluation

    def _measured(self, point: FrontierPoint) -> bytes:
        model = exported(self._context, self._inputs, self._candidates, self._problem, point.plan)
        measurement = self._compare(model)
        document = {
            "drop": measurement.drop(self._kind),
            "stderr": measurement.stderr(self._kind),
            "samples": measurement.samples,
            "size_bytes": len(model),
        }
        self._context.event("evaluated", {"cost": point.cost, "predicted_damage": point.damage, **document})
        return pack(document)


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
