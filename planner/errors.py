"""What can be wrong with a planning problem, its constraints, or its limits.

`code` is stable: it is what the API shows, and the service's catalogue has an entry for each.
"""

from __future__ import annotations

from typing import ClassVar


class PlannerError(ValueError):
    """Base of every refusal of the planner. The text says what, got, expected, remedy."""

    code: ClassVar[str] = "plan_invalid"


class ProblemInvalid(PlannerError):
    """Costs or damages that are not numbers, sites without candidates, matrices of the wrong shape."""

    code = "plan_problem_invalid"


class UnknownLayer(PlannerError):
    """A constraint names a layer that the network does not have."""

    code = "layers_unknown"


class ConstraintImpossible(PlannerError):
    """A constraint on a layer leaves it without any format."""

    code = "constraint_impossible"


class LimitUnreachable(PlannerError):
    """No plan stays below a limit. The text names the nearest value that can be reached."""

    code = "plan_limit_unreachable"


class LatencyTableInvalid(PlannerError):
    """A table of latencies lacks what may be planned, or names something that does not exist."""

    code = "latency_table_invalid"


class MethodNotApplicable(PlannerError):
    """The requested sensitivity method says nothing about some candidates; the text says which methods do."""

    code = "sensitivity_not_applicable"


class NotApplicable(PlannerError):
    """A solver does not solve this kind of problem; the text says which one does."""

    code = "plan_solver_not_applicable"
