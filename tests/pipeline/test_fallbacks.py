"""Which plans are certified, and what of a job's results other jobs may find."""

from __future__ import annotations

import itertools
import math

import pytest

from app.schemas.job_request import JobRequest, Search
from evaluation.intervals import difference_interval
from evaluation.splits import split
from pipeline.configure import configure
from pipeline.context import stage_keys
from pipeline.stage import Machine
from pipeline.stages.plan import MOST_LOOKS, SAFER, safety_of, to_certify
from pipeline.table import TABLE
from planner.evidence import PlanPoint
from planner.problem import Plan


def frontier(damages: list[float]) -> list[PlanPoint]:
    return [PlanPoint(Plan((index,)), float(index), damage) for index, damage in enumerate(damages)]


@pytest.mark.parametrize("index", [0, 3, 20, 37, 38, 39])
@pytest.mark.parametrize("rate", [0.5, 0.8, 0.999])
def test_the_last_fallback_is_the_safest_plan(index, rate):
    points = frontier([rate**n for n in range(40)])
    plans = to_certify(points, points[index])
    assert plans[0] == points[index]
    assert plans[-1] == points[-1]
    assert len(plans) == len({plan.plan for plan in plans}) <= MOST_LOOKS
    assert all(after.damage <= SAFER * before.damage for before, after in itertools.pairwise(plans[:-1]))
    assert (len(plans) == 1) == (index == 39)


def test_a_plan_that_was_measured_to_be_safer_is_looked_at_first():
    """Also a plan that the frontier leaves out, and by what it lost: predictions of similar plans say less."""
    points = frontier([1.0, 0.9, 0.8, 0.6, 0.3, 0.1])
    off_frontier = [PlanPoint(Plan((100 + n,)), 1.5 + n, 0.99) for n in range(2)]
    measured = {points[0]: 0.010, off_frontier[0]: 0.008, off_frontier[1]: 0.005, points[4]: 0.004}
    assert to_certify(points, points[0], (), measured) == [points[0], off_frontier[1], *points[3:]]
    assert to_certify(points, points[0]) == [points[0], *points[3:]]


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
