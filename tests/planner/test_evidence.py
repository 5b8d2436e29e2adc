"""What counts as evidence: shares of evaluations, answers of stopped ones, what a deadline cut short."""

from __future__ import annotations

import math

import numpy as np
import pytest

from planner.errors import ProblemInvalid
from planner.evidence import Evaluation, Evidence, PlanPoint, SearchStatus
from planner.problem import Plan


def point(index: int) -> PlanPoint:
    return PlanPoint(Plan((index,)), 100.0 + index, 1.0 / (1 + index))


def evidence(evaluations: dict[int, Evaluation], max_drop: float = 0.01, **arguments) -> Evidence:
    found = Evidence(lambda asked, _: evaluations[asked.plan.choices[0]], max_drop, **arguments)
    for index in evaluations:
        found.evaluate(point(index))
    return found


def measured(drop: float, fraction: float = 1.0, within: bool | None = None, stderr: float = 0.005) -> Evaluation:
    return Evaluation(drop, stderr, 100, 1, fraction, within)


def test_evaluations_count_their_share_of_the_samples():
    found = Evidence(lambda *_: measured(0.0, 0.25, within=True), 0.01, max_evaluations=2)
    done = [found.evaluate(point(index)) for index in range(10)]
    # the next one might read everything: at 1.25 there is no room for it
    assert done == [True] * 5 + [False] * 5
    assert found.result().full_evaluations == pytest.approx(1.25)


def test_the_answer_of_a_stopped_evaluation_counts_more_than_its_estimate():
    assert evidence({3: measured(0.011, 0.5, within=True)}).within(point(3))
    assert not evidence({3: measured(0.009, 0.5, within=False)}).within(point(3))


def test_what_the_deadline_cut_short_meets_nothing_and_ends_the_search():
    found = evidence({0: measured(0.02), 1: measured(-0.05, 0.1)})
    assert not found.within(point(1))
    assert not found.evaluate(point(2))
    result = found.result()
    assert result.status is SearchStatus.DEADLINE
    assert result.chosen.point == point(0)


def test_best_effort_prefers_what_read_every_sample():
    found = evidence({0: measured(0.02, 0.1, within=False), 1: measured(0.04, 1.0), 2: measured(0.03, 1.0)})
    assert found.result().chosen.point == point(2)
    assert found.result().least_drop == 0.03


def test_the_map_is_the_weighted_monotone_fit():
    """Two plans out of order are pooled with weights 1/stderr^2: (0.03 * 1 + 0.01 * 4) / 5."""
    found = evidence({0: measured(0.01, stderr=0.005), 1: measured(0.03, stderr=0.01)})
    pooled = (0.03 + 4 * 0.01) / 5
    np.testing.assert_allclose(found.expected(np.array([0.0, 0.25, 0.5, 1.0, 2.0])), [0, pooled / 2, *[pooled] * 3])


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: measured(float("nan")), "must be finite, got nan"),
        (lambda: measured(0.0, 0.0), "fraction of samples must be above 0"),
        (lambda: Evidence(lambda *_: measured(0.0), 0.01, max_evaluations=0.5), "at least 1 evaluation, got 0.5"),
    ],
)
def test_what_makes_no_sense_is_refused(make, text):
    with pytest.raises(ProblemInvalid, match=text):
        make()


def test_the_larger_of_the_measured_and_the_expected_drop_counts() -> None:
    """Labels that are kind to every plan are kind to the neighbours that vouch, too."""
    point = PlanPoint(Plan((0,)), 10.0, 0.1)
    for drop, expected, stderr, meets in (
        (0.005, 0.02, 0.0, False),
        (0.005, 0.009, 0.0, True),
        (0.005, 0.009, 0.0004, True),
        (0.005, 0.009, 0.0006, False),
        (0.02, 0.005, 0.0, False),
        (0.005, None, 0.0, True),
    ):
        for within in (None, drop <= 0.01):
            fraction = 1.0 if within is None else 0.5
            found = Evaluation(drop, 0.001, 100, 10, fraction, within, expected, stderr)
            evidence = Evidence(lambda *_, found=found: found, 0.01)
            assert evidence.evaluate(point)
            assert evidence.meets(point) == meets


@pytest.mark.parametrize("expected", [None, 0.004])
def test_neighbours_vouch_only_where_the_luck_of_a_plan_is_not_accounted_for(expected) -> None:
    """The cheap plan is predicted to lose more than the dear one, which misses: it is a uniform plan, or was lucky."""
    misses, seems = PlanPoint(Plan((0,)), 20.0, 0.1), PlanPoint(Plan((1,)), 10.0, 0.5)
    drops = {misses: Evaluation(0.02, 0.001, 100, 20), seems: Evaluation(0.004, 0.001, 100, 10, expected_drop=expected)}
    evidence = Evidence(lambda point, _: drops[point], 0.01)
    for point in drops:
        evidence.evaluate(point)
    assert evidence.cheapest() == (None if expected is None else seems)


@pytest.mark.parametrize(("stderr", "meets"), [(0.004, False), (0.006, True), (math.inf, False)])
@pytest.mark.parametrize("within", [None, False])
def test_labels_count_where_they_contradict_for_certain(stderr, meets, within) -> None:
    """0.02 lost by the labels, 0.005 expected: a search that stopped early asks the same."""
    found = Evaluation(0.02, stderr, 100, 10, 1.0 if within is None else 0.5, within, expected_drop=0.005)
    point = PlanPoint(Plan((0,)), 10.0, 0.1)
    evidence = Evidence(lambda *_: found, 0.01)
    evidence.evaluate(point)
    assert evidence.meets(point) == meets
    with_room = Evidence(lambda *_: found, 0.01, safety=1.0)
    with_room.evaluate(point)
    assert not with_room.meets(point), "an interval is about the labels"
