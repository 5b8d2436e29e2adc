"""Which plans are certified, and what of a job's results other jobs may find."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest

from app.schemas.job_request import JobRequest, Search
from evaluation.intervals import difference_interval
from evaluation.splits import split
from pipeline.configure import configure
from pipeline.context import stage_keys
from pipeline.fallbacks import FINER, MOST_LOOKS, Look, cheaper_of, fallbacks_of, next_look
from pipeline.stage import Machine
from pipeline.stages.plan import safety_of
from pipeline.table import TABLE
from planner.evidence import EvaluatedPlan, Evaluation, PlanPoint, SearchResult, SearchStatus
from planner.problem import Plan


def frontier(damages: list[float]) -> list[PlanPoint]:
    return [PlanPoint(Plan((index,)), float(index), damage) for index, damage in enumerate(damages)]


@pytest.mark.parametrize("index", [0, 3, 20, 37, 38, 39])
@pytest.mark.parametrize("rate", [0.5, 0.8, 0.999])
def test_the_last_fallback_is_the_safest_plan(index, rate):
    points = frontier([rate**n for n in range(40)])
    looks = fallbacks_of(points, points[index])
    assert (not looks) == (index == 39)
    assert [look.plan for look in looks[-1:]] == [points[-1].plan][: len(looks)]
    assert len(looks) == len({look.plan for look in looks} - {points[index].plan})
    assert all(after.loses <= FINER * before.loses for before, after in itertools.pairwise(looks[:-1]))
    assert all(look.loses == pytest.approx(rate ** (look.plan.choices[0] - index)) for look in looks)


def test_a_plan_that_was_measured_to_be_safer_is_looked_at_first():
    """Also a plan that the frontier leaves out, and by what it lost: predictions of similar plans say less."""
    points = frontier([1.0, 0.95, 0.92, 0.6, 0.3, 0.1])
    off_frontier = [PlanPoint(Plan((100 + n,)), 1.5 + n, 0.99) for n in range(2)]
    measured = {points[0]: 0.010, off_frontier[0]: 0.0095, off_frontier[1]: 0.008, points[4]: 0.004}
    looks = {look.plan: look.loses for look in fallbacks_of(points, points[0], (), measured)}
    assert looks == {off_frontier[1].plan: 0.8, points[3].plan: 0.6, points[4].plan: 0.4, points[5].plan: 0.1}
    assert [look.plan for look in fallbacks_of(points, points[0])] == [point.plan for point in points[3:]]


def test_a_plan_that_kept_more_than_the_chosen_one_loses_nothing():
    points = frontier([1.0, 0.5, 0.1])
    (better, _) = fallbacks_of(points, points[0], (), {points[0]: 0.01, points[1]: -0.002})
    assert better.loses == 0
    (predicted, _) = fallbacks_of(points, points[0], (), {points[0]: -0.01, points[1]: -0.002})
    assert predicted.loses == 0.5


CHAIN = [Look(Plan((n,)), 0.93**n) for n in range(30)]


@pytest.mark.parametrize(
    ("looks", "excess", "loses"),
    [
        (1, 1.01, 0.9),
        (1, 1.3, 1 / 1.3),
        (1, 50.0, 0.7),
        (1, math.inf, 0.7),
        (1, -1.0, 0.9),
        (2, 1.01, 0.81),
        (3, 1.01, 0.729),
        (3, 1.3, 0.729),
        (5, 1.01, 0.9**5),
    ],
)
def test_what_a_plan_missed_by_says_which_is_looked_at_next(looks, excess, loses):
    place = next_look(CHAIN, [*range(5 - looks, 5)], [False] * looks, excess)
    assert CHAIN[place].loses <= loses * CHAIN[4].loses
    assert CHAIN[place - 1].loses > loses * CHAIN[4].loses


def test_the_last_look_is_the_safest_plans():
    missed = [False] * (MOST_LOOKS - 1)
    assert next_look(CHAIN, [*range(len(missed))], missed, 1.01) == len(CHAIN) - 1
    assert next_look(CHAIN, [28], [False], 1.01) == len(CHAIN) - 1
    assert next_look(CHAIN, [len(CHAIN) - 1], [False], 1.01) is None


def test_behind_a_plan_that_keeps_the_budget_one_that_is_cheaper_is_tried():
    assert next_look(CHAIN, [0], [True], 0.9) is None
    assert next_look(CHAIN, [0, 4], [False, True], 0.9) == 2
    assert next_look(CHAIN, [0, 1], [False, True], 0.9) is None
    assert next_look(CHAIN, [0, 4, 2], [False, True, False], 1.1) is None
    assert next_look(CHAIN, [0, 4, 2], [False, True, True], 0.8) is None


def test_before_a_plan_that_keeps_the_budget_cheaper_ones_are_tried_until_one_misses():
    assert next_look(CHAIN, [2], [True], 0.9) == 1
    assert next_look(CHAIN, [2, 1], [True, True], 0.9) == 0
    assert next_look(CHAIN, [2, 1, 0], [True, True, True], 0.9) is None
    assert next_look(CHAIN, [2, 1], [True, False], 1.1) is None
    assert next_look(CHAIN, [2, 4], [False, True], 0.9) == 3, "not those that are cheaper than what missed"


def evaluated(cost: float, expected: float, *, meets: bool, drop: float = 0.0) -> EvaluatedPlan:
    seen = Evaluation(drop, 0.001, 900, 1, expected_drop=expected, expected_stderr=0.002)
    return EvaluatedPlan(PlanPoint(Plan((int(cost),)), cost, 1.0), seen, drop, meets)


def test_a_cheaper_plan_of_one_format_is_looked_at_where_caution_alone_spoke_against_it():
    close, other, beyond = (evaluated(cost, lost, meets=False) for cost, lost in ((3, 0.009), (2, 0.009), (1, 0.011)))
    chosen, dearer = (evaluated(cost, 0.004, meets=True) for cost in (4, 5))
    result = SearchResult(SearchStatus.MET, chosen, (beyond, other, close, chosen, dearer))
    uniform = [plan.point for plan in (beyond, close, dearer)]
    assert cheaper_of(result, uniform, 0.01, 0.0) == [Look(close.point.plan, 1.0)]
    assert cheaper_of(result, uniform, 0.01, 0.25) == [], "it saves a quarter, and has to save more"
    assert cheaper_of(replace(result, status=SearchStatus.NOT_MET), uniform, 0.01, 0.0) == []


def test_where_nothing_is_known_but_the_labels_they_say_whether_it_is_close():
    plan = replace(evaluated(1, 0.0, meets=False), evaluation=Evaluation(0.02, 0.001, 900, 1))
    result = SearchResult(SearchStatus.MET, evaluated(2, 0.0, meets=True), (plan,))
    assert cheaper_of(result, [plan.point], 0.01, 0.0) == []
    assert cheaper_of(result, [plan.point], 0.02, 0.0) == [Look(plan.point.plan, 1.0)]


@pytest.mark.parametrize("keeps", [3, 20, 29, 30])
@pytest.mark.parametrize("excess", [0.5, 1.01, 1.5, math.inf])
def test_there_are_no_more_looks_than_allowed(excess, keeps):
    """Plans from `keeps` on keep the budget."""
    places, met = [0], [False]
    while (place := next_look(CHAIN, places, met, excess)) is not None:
        places.append(place)
        met.append(place >= keeps)
    assert len(places) == len(set(places)) <= MOST_LOOKS
    assert any(met) == (keeps < len(CHAIN))


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_a_search_with_confidence_leaves_the_room_that_the_certificate_takes(confidence):
    """The upper end of the certificate's interval, on held-out samples with as many changes in the same shares."""
    splits = split(20_000, 0)
    lost, won = 0.05, 0.03
    drop, searched, held_out = lost - won, len(splits.search), len(splits.held_out)
    stderr = math.sqrt((lost + won - drop**2) / searched)
    interval = difference_interval(round(lost * held_out), round(won * held_out), held_out, confidence)
    assert drop + safety_of(confidence, splits) * stderr == pytest.approx(interval.high, rel=0.01)
    assert safety_of(None, splits) == 0


def keys(job_id: str, **search: object) -> dict[str, str]:
    config = configure(JobRequest(model_id="a" * 64, search=Search(**search)), Machine(), job_id)
    return stage_keys(TABLE.needed(config), config, {"model": "a" * 64})


def test_what_a_deadline_cut_short_is_found_by_its_own_job_alone():
    assert keys("first") == keys("second")
    first, second = (keys(job_id, deadline_seconds=5.0) for job_id in ("first", "second"))
    assert {name for name in first if first[name] != second[name]} == {"plan", "certify"}
    assert keys("first", deadline_seconds=5.0) == first
