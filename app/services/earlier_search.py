"""What the search of a job measured, as the search of its replan begins with it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from app.schemas.job_request import JobRequest
from app.store.blobs import read_json
from app.store.engine import Sessions
from app.store.jobs import find_artifact
from app.store.tables import JobRow

NEAREST = 3
"""Measured plans that lost about the new budget: what the median of them lost for its predicted damage counts."""

OF_A_BUDGET = ("budget", "limits", "objective", "layers", "search")
"""Members of a request on which neither predicted nor measured damage depends; of the budget the drop alone."""


def drop_per_damage(sessions: Sessions, before: JobRow, request: JobRequest) -> float | None:
    """What plans lose for each unit of predicted damage, by those that the job `before` measured.

    None where it measured none that lost anything, or measured and predicted other things than `request` asks for; and
    where its plan cannot be read, as one of another version: a search may begin without.
    """
    if not _predicts_the_same(before.request, request.model_dump(mode="json")):
        return None
    with sessions.read() as session:
        artifact = find_artifact(session, before.id, "plan")
    if artifact is None:
        return None
    with suppress(ValueError, LookupError, TypeError):
        return _slope(read_json(sessions, artifact[0])["search"]["evaluated"], request.budget.max_drop)
    return None


def _slope(evaluated: Sequence[Mapping[str, float]], max_drop: float) -> float | None:
    # the map's value, with all the caution that the search had
    lost = [(plan["fitted_drop"], plan["predicted_damage"]) for plan in evaluated]
    known = [(drop, drop / damage) for drop, damage in lost if drop > 0 and damage > 0]
    known.sort(key=lambda plan: abs(plan[0] - max_drop))
    return statistics.median(slope for _, slope in known[:NEAREST]) if known else None


def _predicts_the_same(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    def analysed(request: Mapping[str, Any]) -> dict[str, Any]:
        budget = {name: value for name, value in request["budget"].items() if name != "max_drop"}
        return {name: value for name, value in request.items() if name not in OF_A_BUDGET} | {"budget": budget}

    return before.get("plan") is None and analysed(before) == analysed(after)
