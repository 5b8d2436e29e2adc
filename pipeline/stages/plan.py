"""Plan: the frontier of predicted damage against cost, and the search for a plan with evaluations that are measured."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
from scipy.stats import norm

from evaluation.splits import Splits
from pipeline.config import PlanConfig
from pipeline.context import Context
from pipeline.fallbacks import Look, cheaper_of, fallbacks_of
from pipeline.foresight import Foresight
from pipeline.last_resort import try_uniform, uniform_points
from pipeline.plan_evaluation import Evaluator, of_classes
from pipeline.polishing import MeasuredLoss, elapsed_progress, polished
from pipeline.results import pack, unpack
from pipeline.search_space import SearchSpace
from pipeline.stage import digest_of
from planner.evidence import MOST_EVALUATIONS, EvaluatedPlan, Evidence, PlanPoint, SearchResult
from planner.level_bisection import Priced, bisect_levels
from planner.local_improvement import improve_locally
from planner.problem import Plan, Problem, Quantity
from planner.results import undominated
from planner.search import NEIGHBOURS, least_drop, search_frontier

UNITS = {
    Quantity.SIZE: "bytes",
    Quantity.BIT_OPERATIONS: "bit operations",
    Quantity.LATENCY: "milliseconds",
    Quantity.LOAD: "milliseconds to load",
}
SLOPE_OF_CLASSES = 0.15
"""Of accuracy for each nat of predicted damage, about [ResNet20: 0.1 to 0.2]: where the first probe lies."""
CLOSE = 1.01
"""Ratio of costs to which the frontier is searched."""
LEAST_SAVING = 0.003
"""Share of the cost that a step of one site has to save, and a plan of one format that little speaks against."""
AIM = 0.93
"""Of the budget, where a search begins that knows the slope: rounding moves what a plan loses by some tenths."""
ENOUGH = 1.04
"""Ratio of costs that a search leaves unsearched which begins with what earlier jobs measured."""
HOPELESS = 2.5
"""Times the budget: what is expected of a uniform plan that such a search leaves out."""
OF_THE_FRONTIER = ("normalise", "resolve", "latency", "calibrate", "cross_layer", "sensitivity", "agreement")
"""Stages that the frontier depends on."""
FRONTIER_VERSION = 1  # of what is computed: another one finds nothing that an older one stored


def run(context: Context, config: PlanConfig) -> bytes:
    """The frontier, every evaluated plan, and the plans to certify, the chosen one first."""
    work = context.workspace
    inputs = work.inputs(config.samples, config.space.export.opset)
    space = work.space(config.space).predicted(work.analysis(), config.method)
    points = _frontier(context, config, space)
    context.check()
    evolves = config.search == "evolution"  # which ends with the time
    report = elapsed_progress(context, config.deadline_seconds) if evolves else _counted_progress(context, len(points))
    gather = partial(
        Evidence,
        max_drop=config.budget.max_drop,
        safety=safety_of(config.budget.confidence, inputs.splits),
        max_evaluations=math.inf if evolves else MOST_EVALUATIONS,
    )
    slope, enough = SLOPE_OF_CLASSES if of_classes(work.claims()) else None, 1.0
    if config.drop_per_damage is not None:
        slope, enough = config.drop_per_damage / AIM, ENOUGH
    uniform = uniform_points(space)
    search = partial(_searched, space, config.search, points, uniform, cache(space.priced), slope, enough)
    evaluator = Evaluator(
        context, inputs, space, config, report=report, foresight=Foresight(search, gather, space.single)
    )
    evidence = gather(
        lambda point, to_the_end: evaluator(space.single(point), to_the_end),
        expired=lambda: context.time_used(config.deadline_seconds) >= 1,
    )
    searched, polish = search(evidence), None
    if evolves:
        analysed, loss = work.analysed(config, config.space.export.opset)
        fitness = MeasuredLoss(context, analysed, space, loss, report)
        searched, polish = polished(context, space, config, searched, evidence, fitness)
    context.opened(0)
    result = space.single_result(searched)
    points, chosen = [space.single(point) for point in points], result.chosen.point
    of_one_format = [space.single(point) for point in uniform]
    measured = {plan.point: plan.evaluation.counted_drop for plan in result.evaluated if plan.meets}
    cheaper, fallbacks = list[Look](), list[Look]()
    if not config.space.least_drop:  # who asks for that gets one look: another plan is not expected to do better
        cheaper = cheaper_of(result, of_one_format, config.budget.max_drop, LEAST_SAVING)
        fallbacks = fallbacks_of(points, chosen, of_one_format[:1], measured)
    looks = [*cheaper, Look(chosen.plan, 1.0), *fallbacks]
    return pack(
        {
            "to_certify": {
                "plans": [[list(look.plan.choices), look.loses] for look in looks],
                "first": len(cheaper),
            },
            "search": {
                "status": result.status.value,
                "samples": len(inputs.splits.search),
                "full_evaluations": result.full_evaluations,
                "least_drop": result.least_drop,
                "evaluated": [_evaluated(space.problem, plan) for plan in result.evaluated],
                "polish": polish,
            },
            "frontier": _frontier_document(space, config.space.cost, points, uniform, result),
        }
    )


def _frontier(context: Context, config: PlanConfig, space: SearchSpace) -> list[PlanPoint]:
    """The frontier of `space`, kept for jobs with other budgets: it depends on none."""
    read = [context.keys.get(stage) for stage in OF_THE_FRONTIER]
    key = digest_of([FRONTIER_VERSION, read, config.space, config.method])

    def compute() -> bytes:
        points = space.frontier()
        choices = np.array([point.plan.choices for point in points], dtype=np.int32)
        return pack({}, {"choices": choices, "priced": np.array([[point.cost, point.damage] for point in points])})

    _, arrays = unpack(context.cached(f"frontier/{key}", compute))
    rows = zip(arrays["choices"].tolist(), arrays["priced"].tolist(), strict=True)
    return [PlanPoint(Plan(tuple(choices)), cost, damage) for choices, (cost, damage) in rows]


def _counted_progress(context: Context, points: int) -> Callable[[], None]:
    """What reports progress when a plan was evaluated: a bisection takes about the logarithm of the points."""
    evaluations, expected = itertools.count(1), points.bit_length() + 3
    return lambda: context.progress(next(evaluations) / expected)


def safety_of(confidence: float | None, splits: Splits) -> float:
    """Standard errors on the search samples that the upper end of the certificate's interval is expected to add.

    The certificate's interval has two sides and is measured on fewer samples. A search that asked for less would choose
    plans that fail on the held-out samples, and each further look at these widens the interval.
    """
    if confidence is None:
        return 0.0
    return float(norm.ppf((1 + confidence) / 2) * math.sqrt(len(splits.search) / len(splits.held_out)))


def _searched(
    space: SearchSpace,
    method: str,
    points: Sequence[PlanPoint],
    uniform: Sequence[PlanPoint],
    priced: Priced,
    slope: float | None,
    enough: float,
    evidence: Evidence,
) -> SearchResult:
    """The result of the search that the request asks for, along the frontier `points` or level by level.

    What lies close together on the frontier is left to single sites (`improve_locally`): every plan takes as long to
    round and to run as two float passes.
    """
    if space.config.least_drop:
        return evidence.result(least_drop(points, evidence))
    if method == "bisection":
        bisect_levels(space.joint.problem, priced, evidence)
    if evidence.cheapest() is None:  # also where no level keeps the limits, or the budget
        search_frontier(points, evidence, slope=slope, close=CLOSE, enough=enough, neighbours=NEIGHBOURS[:1])
    improve_locally(space.joint.problem, priced, evidence, least_saving=max(LEAST_SAVING, 1 - 1 / enough))
    try_uniform(uniform, evidence, math.inf if enough == 1 else HOPELESS)
    return evidence.result()


def _evaluated(problem: Problem, plan: EvaluatedPlan) -> dict[str, Any]:
    return {
        **_by_site(problem, plan.point.plan),
        "cost": plan.point.cost,
        "predicted_damage": plan.point.damage,
        "drop": plan.evaluation.drop,
        "stderr": plan.evaluation.stderr,
        "expected_drop": plan.evaluation.expected_drop,
        "expected_stderr": plan.evaluation.expected_stderr,
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
    space: SearchSpace,
    cost: Quantity,
    points: Sequence[PlanPoint],
    uniform: Sequence[PlanPoint],
    result: SearchResult,
) -> dict[str, Any]:
    """The frontier with what was measured of it; evaluated plans between its points are added where none beats them.
    Beside it the uniform plans, widest first."""
    problem = space.problem
    measured = {plan.point: plan.evaluation for plan in result.evaluated}
    every = [*points, *(point for point in measured if point not in points)]
    index = undominated(np.array([point.cost for point in every]), np.array([point.damage for point in every]))

    def row(point: PlanPoint) -> dict[str, Any]:
        seen = measured.get(point)
        return {
            "cost": point.cost,
            "predicted_damage": point.damage,
            **_by_site(problem, point.plan),
            "measured": None if seen is None else {"drop": seen.drop, "stderr": seen.stderr},
            "chosen": point == result.chosen.point,
        }

    return {
        "cost": cost.value,
        "unit": UNITS[cost],
        "points": [row(every[i]) for i in index],
        "uniform": [row(space.single(point)) for point in uniform],
    }
