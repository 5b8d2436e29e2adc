"""Plan: the frontier of the predicted damage, and the search along it with evaluations that are really measured."""

from __future__ import annotations
import numpy as np
from typing import Any

from evaluation.metrics import DropKind, Metric
from planner.frontier import additive_frontier
from planner.problem import Plan, Quantity
from workers.stage import StageContext
from workers.stages.candidates import unpack_candidates
from workers.stages.inputs import Inputs
from workers.stages.measured import Comparison, exported
from workers.stages.payload import pack, unpack
from workers.stages.problem import Analysis, planning_problem


def run(context: StageContext) -> bytes:
    inputs = Inputs.read(context)
    resolved, _ = unpack(context.read("resolve"))
    candidates = unpack_candidates(context.read("calibrate"))
    problem = planning_problem(inputs, resolved["allowed"], Analysis.read(context), context.request["sensitivity"]["method"])
    budget = context.request["budget"]
    cost = Quantity(context.request["objective"])
    base = additive_frontier(problem.without_interactions(), cost)
    picks = np.unique(np.linspace(0, len(base) - 1, 64).astype(int))
    points = []
    for p in picks:
        ch = base.choices[p]
        pl = Plan(tuple(int(c) for c in ch)); points.append((problem.total(cost, pl), problem.total(Quantity.DAMAGE, pl), pl))
    points.sort(key=lambda t: (t[0], t[1])); front = []
    for t in points:
        if not front or t[1] < front[-1][1]: front.append(t)
    compare = Comparison(context, inputs, inputs.splits.search, Metric(resolved["metric"]))
    evaluated: dict[int, dict[str, Any]] = {}

    def evaluate(i: int) -> dict[str, Any]:
        if i not in evaluated:
            def compute() -> bytes:
                model = exported(inputs, candidates, problem, front[i][2], {})
                m = compare(model)
                return pack({"drop": m.drop(DropKind(budget["kind"])), "stderr": m.stderr(DropKind(budget["kind"])), "size_bytes": len(model)})
            doc, _ = unpack(context.chunk("plan/" + "-".join(map(str, front[i][2].choices)), compute))
            evaluated[i] = {"choices": list(front[i][2].choices), "cost": front[i][0], "predicted_damage": front[i][1], **doc}
        return evaluated[i]
    lo, hi = 0, len(front) - 1
    while lo < hi:
        mid = (lo + hi) // 2
        if evaluate(mid)["drop"] <= budget["max_drop"]: hi = mid
        else: lo = mid + 1
    evaluate(lo)
    good = [i for i, e in sorted(evaluated.items()) if e["drop"] <= budget["max_drop"]]
    order = [evaluated[i]["choices"] for i in good] or [front[-1][2].choices]
    return pack({"to_certify": order, "search": {"status": "met" if good else "not_met", "evaluated": [e for _, e in sorted(evaluated.items())]},
        "frontier": [{"cost": c, "damage": float(v), "choices": list(p.choices)} for c, v, p in front]})
