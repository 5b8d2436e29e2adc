"""The planning problem as values: sites, candidates, costs, limits, plans.

Shapes: `S` sites, `K` candidates over all sites, flattened in site order, `P` plans. `offsets` has shape [S + 1]: the
candidates of site `i` are `offsets[i]` to `offsets[i + 1] - 1` of every flattened array.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.errors import ProblemInvalid
from planner.symmetric import asymmetry, eigenvalue_range, largest, symmetrise
from quantization.formats import Format

# float64 holds every integer up to here; solvers add costs in float64 and stay exact below it
_LARGEST_EXACT = 2**53
# about a nanosecond: sums of multiples of it are exact in any order up to hours, as those of bytes are,
# so that a plan that just keeps a limit on a time keeps it however its terms are added up
TIME_STEP_MS = 2.0**-20
# smallest eigenvalue that still counts as rounding of a positive semidefinite matrix, relative to the largest
_PSD_TOLERANCE = 1e-9


class Quantity(StrEnum):
    """What a plan costs, and what it spoils. Units: bytes, bit operations, milliseconds, nats."""

    SIZE = "size"
    BIT_OPERATIONS = "bit_operations"
    LATENCY = "latency"
    LOAD = "load"
    DAMAGE = "damage"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One format for one site: its costs and its predicted damage.

    `damage` is in nats and may be negative (a task loss away from its minimum has negative curvature). `latency_ms` is
    that of a run, `load_ms` what the weight adds to the time to load the file; both are kept as multiples of
    `TIME_STEP_MS`.
    """

    format: Format
    size_bytes: int
    bit_operations: int
    damage: float
    latency_ms: float | None = None
    load_ms: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("size_bytes", self.size_bytes), ("bit_operations", self.bit_operations)):
            if value != int(value) or not 0 <= value < _LARGEST_EXACT:
                raise ProblemInvalid(f"{name} of a candidate must be a whole number from 0 to 2**53, got {value}")
        if not math.isfinite(self.damage):
            raise ProblemInvalid(
                f"damage of candidate {self.format.name} must be finite, got {self.damage}; "
                "measure its sensitivity again or leave the candidate out"
            )
        for name, ms in (("latency_ms", self.latency_ms), ("load_ms", self.load_ms)):
            if ms is not None and not (math.isfinite(ms) and ms >= 0):
                raise ProblemInvalid(f"{name} of candidate {self.format.name} must be at least 0, got {ms}")
            if ms is not None:
                object.__setattr__(self, name, whole_steps(ms))


@dataclass(frozen=True, slots=True)
class PlanSite:
    """The unit of decision: one weight, or several that must share a format."""

    name: str
    candidates: tuple[Candidate, ...]

    def __post_init__(self) -> None:
        if not self.candidates:
            raise ProblemInvalid(f"site {self.name!r} has no candidate; a site that is not planned is left out")
        names = [candidate.format.name for candidate in self.candidates]
        if len(set(names)) < len(names):
            raise ProblemInvalid(f"site {self.name!r} lists a format twice: {', '.join(names)}")
        with_latency = sum(candidate.latency_ms is not None for candidate in self.candidates)
        if with_latency not in (0, len(names)):
            raise ProblemInvalid(f"site {self.name!r} has a latency for {with_latency} of its {len(names)} candidates")


@dataclass(frozen=True, slots=True)
class Plan:
    """A format for every site: `choices[i]` is an index into the candidates of site `i`."""

    choices: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "choices", tuple(int(choice) for choice in self.choices))


_LIMIT_FIELDS = {
    Quantity.SIZE: "max_size_bytes",
    Quantity.BIT_OPERATIONS: "max_bit_operations",
    Quantity.LATENCY: "max_latency_ms",
    Quantity.LOAD: "max_load_ms",
}
TIMES = (Quantity.LATENCY, Quantity.LOAD)
"""Costs in milliseconds; others are whole numbers."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that a plan may cost, base costs included; None: no limit."""

    max_size_bytes: float | None = None
    max_bit_operations: float | None = None
    max_latency_ms: float | None = None
    max_load_ms: float | None = None

    def __post_init__(self) -> None:
        for quantity, limit in self.items():
            if not limit >= 0:
                raise ProblemInvalid(f"the limit on {quantity} must be a number from 0 up, got {limit}")

    def items(self) -> Iterator[tuple[Quantity, float]]:
        """The limits that are set."""
        for quantity, field in _LIMIT_FIELDS.items():
            if (limit := getattr(self, field)) is not None:
                yield quantity, limit


def limit_name(quantity: Quantity) -> str:
    """The field of `Limits`, and of the API, that limits `quantity`, a cost."""
    return _LIMIT_FIELDS[quantity]


def amount(quantity: Quantity, value: float) -> str:
    """A cost as an error names it: whole bytes and bit operations, milliseconds to the nanosecond, rounded up.

    So a limit that is set to what the text says can be kept.
    """
    return f"{math.ceil(value * 1e6) / 1e6:.6f}" if quantity in TIMES else f"{math.ceil(value):,}"


@dataclass(frozen=True, eq=False)
class Problem:
    """Sites with their candidates, what the rest of the network costs, and how damages interact.

    With `interactions` (symmetric positive semidefinite, [K, K], nats) the predicted damage of a plan is `x' G x`, x
    being the one-hot vector of its candidates; without, it is the sum of the candidates' damages. A matrix that nobody
    may write any more (`flags.writeable`), and that owns its data, is taken over; of any other a copy is kept.

    Raises:
        ProblemInvalid: no site, a name twice, a matrix that is not [K, K], finite, symmetric, positive semidefinite.
    """

    sites: tuple[PlanSite, ...]
    base_size_bytes: int = 0
    interactions: NDArray[np.float64] | None = None
    base_latency_ms: float = 0.0
    base_load_ms: float = 0.0

    def __post_init__(self) -> None:
        if not self.sites:
            raise ProblemInvalid("a problem needs at least one site, got none")
        names = [site.name for site in self.sites]
        if len(set(names)) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ProblemInvalid(f"sites must have different names, got twice: {', '.join(twice)}")
        for name in ("base_size_bytes", "base_latency_ms", "base_load_ms"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ProblemInvalid(f"{name} must be at least 0, got {value}")
        object.__setattr__(self, "base_latency_ms", whole_steps(self.base_latency_ms))
        object.__setattr__(self, "base_load_ms", whole_steps(self.base_load_ms))
        if self.interactions is not None:
            count = sum(len(site.candidates) for site in self.sites)
            object.__setattr__(self, "interactions", _checked_interactions(self.interactions, count))

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """[S + 1]: where each site's candidates begin in the flattened arrays."""
        return np.concatenate([[0], np.cumsum([len(site.candidates) for site in self.sites])]).astype(np.int64)

    @cached_property
    def site_of(self) -> NDArray[np.int64]:
        """[K]: the site of every candidate."""
        return np.repeat(np.arange(len(self.sites)), np.diff(self.offsets))

    @property
    def has_latency(self) -> bool:
        return all(site.candidates[0].latency_ms is not None for site in self.sites)

    def values(self, quantity: Quantity) -> NDArray[np.float64]:
        """[K]: this quantity of every candidate, without the base; damages are the additive ones.

        Raises:
            ProblemInvalid: latency is asked for and some candidate has none.
        """
        if quantity is Quantity.LATENCY and not self.has_latency:
            missing = next(site.name for site in self.sites if site.candidates[0].latency_ms is None)
            raise ProblemInvalid(f"site {missing!r} has no latency; measure or give one for every candidate first")
        return self._values[quantity]

    def base(self, quantity: Quantity) -> float:
        """What the rest of the network adds to every plan."""
        bases = {
            Quantity.SIZE: float(self.base_size_bytes),
            Quantity.LATENCY: self.base_latency_ms,
            Quantity.LOAD: self.base_load_ms,
        }
        return bases.get(quantity, 0.0)

    def total(self, quantity: Quantity, plan: Plan) -> float:
        """A plan's cost, base included, or its predicted damage (with the interactions, if there are any)."""
        return float(self.totals(quantity, np.asarray([plan.choices]))[0])

    def totals(self, quantity: Quantity, choices: NDArray[Any]) -> NDArray[np.float64]:
        """[P]: `total` of many plans at once, `choices` being [P, S]."""
        self._check_choices(choices)
        flat = self.offsets[:-1] + choices.astype(np.int64)
        if quantity is Quantity.DAMAGE and self.interactions is not None:
            return np.array([self.interactions[np.ix_(row, row)].sum() for row in flat])
        return np.asarray(self.values(quantity)[flat].sum(axis=1) + self.base(quantity))

    def within(self, limits: Limits, choices: NDArray[Any]) -> NDArray[np.bool_]:
        """[P]: which of the plans keep every limit, `choices` being [P, S]."""
        kept = np.ones(len(choices), dtype=bool)
        for quantity, limit in limits.items():
            kept &= self.totals(quantity, choices) <= limit
        return kept

    def formats(self, plan: Plan) -> dict[str, Format]:
        """The format of every site by its name."""
        self._check_choices(np.asarray([plan.choices]))
        return {
            site.name: site.candidates[choice].format for site, choice in zip(self.sites, plan.choices, strict=True)
        }

    @cached_property
    def _values(self) -> dict[Quantity, NDArray[np.float64]]:
        candidates = [candidate for site in self.sites for candidate in site.candidates]
        columns: dict[Quantity, list[float]] = {
            Quantity.SIZE: [candidate.size_bytes for candidate in candidates],
            Quantity.BIT_OPERATIONS: [candidate.bit_operations for candidate in candidates],
            Quantity.LATENCY: [candidate.latency_ms or 0.0 for candidate in candidates],
            Quantity.LOAD: [candidate.load_ms for candidate in candidates],
            Quantity.DAMAGE: [candidate.damage for candidate in candidates],
        }
        return {quantity: _frozen(column) for quantity, column in columns.items()}

    def _check_choices(self, choices: NDArray[Any]) -> None:
        if choices.ndim != 2 or choices.shape[1] != len(self.sites):
            raise ProblemInvalid(
                f"a plan needs one choice for each of {len(self.sites)} sites, got {choices.shape[1:]}"
            )
        if choices.size and (choices.min() < 0 or bool((choices >= np.diff(self.offsets)).any())):
            raise ProblemInvalid("a plan chooses a candidate that its site does not have")


def whole_steps(ms: float) -> float:
    """The nearest multiple of `TIME_STEP_MS`, as problems keep times."""
    return round(ms / TIME_STEP_MS) * TIME_STEP_MS


def _frozen(values: Sequence[float]) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    array.flags.writeable = False
    return array


def _checked_interactions(matrix: NDArray[Any], count: int) -> NDArray[np.float64]:
    taken_over = matrix.dtype == np.float64 and matrix.flags.owndata and matrix.flags.c_contiguous
    G = matrix if taken_over and not matrix.flags.writeable else np.array(matrix, dtype=np.float64, order="C")
    if G.shape != (count, count):
        raise ProblemInvalid(f"interactions must be [{count}, {count}], one row per candidate, got {list(G.shape)}")
    scale = largest(G)
    if not math.isfinite(scale):
        raise ProblemInvalid("interactions must be finite, got NaN or infinity")
    if asymmetry(G) > 1e-9 * scale:
        raise ProblemInvalid("interactions must be symmetric; use (G + G') / 2")
    G.flags.writeable = True  # it is ours, and an eigenvalue solver needs room
    symmetrise(G)
    smallest, greatest = eigenvalue_range(G)
    if smallest < -_PSD_TOLERANCE * max(greatest, 0.0) - np.finfo(float).tiny:
        raise ProblemInvalid(
            f"interactions must be positive semidefinite, got the eigenvalue {smallest:.3g}; "
            "measured pairs need a projection to positive eigenvalues first"
        )
    G.flags.writeable = False
    return G
