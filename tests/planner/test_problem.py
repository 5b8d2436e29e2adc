"""Values refuse what is no planning problem, and their totals are the sums that they stand for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from planner.errors import ProblemInvalid
from planner.problem import TIME_STEP_MS, Candidate, Limits, Plan, PlanSite, Problem, Quantity, limit_name
from quantization.formats import FloatFormat, IntegerFormat

INT4, INT8 = Candidate(IntegerFormat(4), 50, 400, 0.5), Candidate(IntegerFormat(8), 100, 800, 0.1)
KEPT = Candidate(FloatFormat(), 400, 3200, 0.0)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"size_bytes": -1}, "size_bytes of a candidate must be a whole number from 0"),
        ({"size_bytes": 0.5}, "size_bytes of a candidate must be a whole number"),
        ({"bit_operations": 2**53}, "bit_operations of a candidate must be a whole number"),
        ({"damage": float("nan")}, "damage of candidate int4/channel must be finite, got nan; measure"),
        ({"latency_ms": -0.1}, "latency_ms of candidate int4/channel must be at least 0"),
        ({"load_ms": float("inf")}, "load_ms of candidate int4/channel must be at least 0, got inf"),
    ],
)
def test_candidates(change, text):
    values = {"format": IntegerFormat(4), "size_bytes": 1, "bit_operations": 1, "damage": 0.0} | change
    with pytest.raises(ProblemInvalid, match=text):
        Candidate(**values)


@pytest.mark.parametrize(
    ("candidates", "text"),
    [
        ((), "site 'a' has no candidate"),
        ((INT4, INT4), "site 'a' lists a format twice: int4/channel, int4/channel"),
        (
            (INT4, Candidate(IntegerFormat(8), 1, 1, 0.0, latency_ms=1.0)),
            "site 'a' has a latency for 1 of its 2 candidates",
        ),
    ],
)
def test_sites(candidates, text):
    with pytest.raises(ProblemInvalid, match=text):
        PlanSite("a", candidates)


SITES = (PlanSite("a", (INT4, INT8, KEPT)), PlanSite("b", (INT4, INT8)))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"sites": ()}, "at least one site"),
        ({"sites": (SITES[0], SITES[0])}, "different names, got twice: a"),
        ({"base_size_bytes": -1}, "base_size_bytes must be at least 0"),
        ({"base_load_ms": -1.0}, "base_load_ms must be at least 0"),
        ({"interactions": np.eye(4)}, r"must be \[5, 5\], one row per candidate, got \[4, 4\]"),
        ({"interactions": np.full((5, 5), np.nan)}, "must be finite"),
        ({"interactions": np.triu(np.ones((5, 5)))}, r"must be symmetric; use \(G \+ G'\) / 2"),
        ({"interactions": -np.eye(5)}, "positive semidefinite, got the eigenvalue -1"),
    ],
)
def test_problems(arguments, text):
    with pytest.raises(ProblemInvalid, match=text):
        Problem(**({"sites": SITES} | arguments))


def test_totals_are_sums_and_with_interactions_the_quadratic_form():
    generator = np.random.default_rng(0)
    factor = generator.normal(size=(5, 3))
    problem = Problem(SITES, base_size_bytes=7, interactions=factor @ factor.T)
    plan = Plan((2, 1))
    one_hot = np.array([0, 0, 1, 0, 1])
    assert problem.total(Quantity.SIZE, plan) == 7 + 400 + 100
    assert problem.total(Quantity.BIT_OPERATIONS, plan) == 3200 + 800
    assert problem.total(Quantity.DAMAGE, plan) == pytest.approx(one_hot @ factor @ factor.T @ one_hot)
    assert replace(problem, interactions=None).total(Quantity.DAMAGE, plan) == pytest.approx(0.1)
    assert problem.formats(plan) == {"a": FloatFormat(), "b": IntegerFormat(8)}
    assert problem.offsets.tolist() == [0, 3, 5]
    assert problem.site_of.tolist() == [0, 0, 0, 1, 1]


def test_arrays_cannot_be_changed_behind_a_problem():
    G = np.eye(5)
    problem = Problem(SITES, interactions=G)
    G[0, 0] = 100.0
    assert problem.interactions[0, 0] == 1.0
    for array in (problem.interactions, problem.values(Quantity.SIZE)):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1.0


@pytest.mark.parametrize("choices", [(0,), (0, 2), (-1, 0), (0, 0, 0)])
def test_plans_that_the_problem_does_not_have(choices):
    with pytest.raises(ProblemInvalid, match=r"a plan (needs one choice|chooses a candidate)"):
        Problem(SITES).total(Quantity.SIZE, Plan(choices))


def test_times_to_load_are_sums_in_whole_steps():
    site = PlanSite("a", (replace(INT4, load_ms=0.3), replace(INT8, load_ms=0.1)))
    problem = Problem((site, replace(site, name="b")), base_load_ms=0.7)
    assert problem.total(Quantity.LOAD, Plan((0, 1))) == pytest.approx(1.1, abs=TIME_STEP_MS)
    for ms in (site.candidates[0].load_ms, problem.base(Quantity.LOAD)):
        assert (ms / TIME_STEP_MS).is_integer()
    limit = Limits(max_load_ms=problem.total(Quantity.LOAD, Plan((0, 1))))
    assert problem.within(limit, np.array([[0, 0], [0, 1], [1, 0]])).tolist() == [False, True, True]
    assert problem.total(Quantity.LOAD, Plan((0, 0))) - problem.base(Quantity.LOAD) == 2 * site.candidates[0].load_ms


def test_latency_has_to_be_known():
    with pytest.raises(ProblemInvalid, match="site 'a' has no latency; measure or give one"):
        Problem(SITES).values(Quantity.LATENCY)


def test_limits():
    limits = Limits(max_size_bytes=457, max_bit_operations=3600)
    assert dict(limits.items()) == {Quantity.SIZE: 457, Quantity.BIT_OPERATIONS: 3600}
    problem, plans = Problem(SITES, 7), np.array([[2, 0], [2, 1], [0, 0]])
    assert problem.within(limits, plans).tolist() == [True, False, True]
    assert problem.within(replace(limits, max_bit_operations=3599), plans).tolist() == [False, False, True]
    assert {quantity: limit_name(quantity) for quantity in Quantity if quantity is not Quantity.DAMAGE} == {
        Quantity.SIZE: "max_size_bytes",
        Quantity.BIT_OPERATIONS: "max_bit_operations",
        Quantity.LATENCY: "max_latency_ms",
        Quantity.LOAD: "max_load_ms",
    }
    for wrong in ({"max_size_bytes": -1.0}, {"max_latency_ms": float("nan")}):
        with pytest.raises(ProblemInvalid, match="must be a number from 0 up"):
            Limits(**wrong)
