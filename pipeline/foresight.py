"""Which plans a search will want to have measured, should the next answers be what its evidence expects.

A search is sequential: what it measures next depends on what was measured before. Where several processes work on it,
those that have nothing to do measure plans that it is likely to want. It is played through with the answers that are
known and a guess for each of the others: what the fitted map expects at the plan's predicted damage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress

import numpy as np

from planner.evidence import Evaluate, Evaluation, Evidence, PlanPoint
from planner.problem import Plan

MOST = 3
"""Plans in a row that are foreseen: with each the chance shrinks that the search comes there."""

# [measured on ResNet20] of accuracy for each nat of predicted damage, beyond the largest that was measured
SLOPE = 0.1

Wanted = tuple[PlanPoint, bool]
"""A plan, and whether it is to be measured to the end."""


class Foresight:
    """What a search will want.

    Args:
        search: measures plans by the evidence that it is given, and depends on nothing else.
        evidence: makes the search's evidence from what measures a plan.
        single: what is measured for a point of the search.
    """

    def __init__(
        self,
        search: Callable[[Evidence], object],
        evidence: Callable[[Evaluate], Evidence],
        single: Callable[[PlanPoint], PlanPoint],
    ) -> None:
        self._search = search
        self._evidence = evidence
        self._single = single

    def wanted(self, known: Mapping[Plan, Evaluation]) -> list[Wanted]:
        """Plans that are not `known`, the likeliest first: at most `MOST` in a row, and then what comes in place of the
        second should the first answer be another one than is guessed."""
        likely = self._played(known, flipped=False)
        other = self._played(known, flipped=True)
        plans = {wanted[0].plan: wanted for wanted in reversed([*likely, *other[1:2]])}
        return list(reversed(plans.values()))

    def _played(self, known: Mapping[Plan, Evaluation], *, flipped: bool) -> list[Wanted]:
        """What the search wants in a row; the first guess is `flipped` or not."""
        wanted: list[Wanted] = []

        def answer(point: PlanPoint, to_the_end: bool) -> Evaluation:
            single = self._single(point)
            if single.plan in known:
                return known[single.plan]
            wanted.append((single, to_the_end))
            if len(wanted) == MOST:
                raise _EnoughError
            return _guess(point, evidence, known, flipped=flipped and len(wanted) == 1)

        evidence = self._evidence(answer)
        with suppress(_EnoughError):
            self._search(evidence)
        return wanted


class _EnoughError(Exception):
    """So many plans are foreseen."""


def _guess(point: PlanPoint, evidence: Evidence, known: Mapping[Plan, Evaluation], *, flipped: bool) -> Evaluation:
    """What will be measured of a plan, about; or the other answer."""
    errors = [evaluation.stderr for evaluation in known.values() if np.isfinite(evaluation.stderr)]
    stderr = float(np.median(errors)) if errors else 0.0
    drop = 0.0
    if evidence.largest_damage is not None:
        damage = min(point.damage, evidence.largest_damage)
        drop = float(evidence.expected(np.array([damage]))[0]) + SLOPE * max(0.0, point.damage - damage)
    if flipped:
        drop = 2 * evidence.max_drop + stderr if drop <= evidence.max_drop else 0.0
    return Evaluation(drop=drop - evidence.safety * stderr, stderr=stderr, samples=1, size_bytes=0)
