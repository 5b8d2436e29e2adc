"""The problems of the planner's own tests."""

from tests.planner.conftest import brute_force, every_plan, make_problem, random_problem

__all__ = ["brute_force", "every_plan", "make_problem", "random_problem"]
