"""Hutchinson's estimate of traces, with its standard error: `Tr(A) = E[u' A u]` for u of independent random signs.

M. F. Hutchinson, Communications in Statistics 18(3), 1989. Here A is positive semidefinite and known by a root R,
`A = R R' / N`, so that a draw `u' A u = ||R' u||^2 / N` takes one product with R' and is never negative. Blocks R_i of
R share the probe: one product gives a draw for the trace of every `R_i R_i' / N`. Every probe may come with another
root, and what is estimated is then the mean over all.

1. The iteration stops on the standard error, for every block, not on the change of the running mean.
2. Sums are in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class TraceStatus(StrEnum):
    """How the estimation ended."""

    CONVERGED = "converged"
    PROBE_BUDGET = "probe_budget"


@dataclass(frozen=True)
class TraceRule:
    """When to stop: every block's standard error below `rtol * |mean|`, at least `min_probes`, at most `max_probes`."""

    rtol: float = 0.1
    min_probes: int = 8
    max_probes: int = 64

    def __post_init__(self) -> None:
        if not 0 < self.rtol < 1:
            raise ValueError(f"rtol must lie between 0 and 1, got {self.rtol}")
        if not 2 <= self.min_probes <= self.max_probes:
            raise ValueError(f"need 2 <= min_probes <= max_probes, got {self.min_probes} and {self.max_probes}")


@dataclass(frozen=True, eq=False)
class TraceEstimate:
    """Mean traces `Tr(A_i) / n_i` of every block `[blocks]` with their standard errors, n_i the numbers in `R_i' u`.

    They come from so many `probes`, the last of them of `batch` samples.
    """

    trace_mean: NDArray[np.float64]
    trace_stderr: NDArray[np.float64]
    probes: int
    batch: int
    status: TraceStatus


@dataclass(frozen=True, eq=False)
class Root:
    """R of `A = R R' / N`: `product` gives `R_i' u` of every block for a probe u of the shape `[N, ...]`."""

    shape: Sequence[int]
    product: Callable[[Tensor], Sequence[Tensor]]


@dataclass(frozen=True, eq=False)
class TraceDraw:
    """`||R_i' u||^2 / (N n_i)` of every block `[blocks]` for one probe u, of `batch` samples (N)."""

    values: NDArray[np.float64]
    batch: int


def hutchinson_trace(roots: Iterable[Root], generator: torch.Generator, rule: TraceRule) -> TraceEstimate:
    """The mean traces of all blocks, from one probe of each root until the rule says that they are known.

    Args:
        roots: `rule.max_probes` of them, all with the same blocks; each gives one product before the next is taken.
        generator: source of the signs.
        rule: when to stop.

    Raises:
        ValueError: the roots end before the rule does.
    """
    return estimate_of_draws((trace_draw(root, random_signs(root.shape, generator)) for root in roots), rule)


def trace_draw(root: Root, signs: Tensor) -> TraceDraw:
    """What one probe of `signs`, in the root's shape, says of every block."""
    blocks = root.product(signs)
    values = [block.double().square().sum().item() / root.shape[0] / block.numel() for block in blocks]
    return TraceDraw(np.array(values), root.shape[0])


def estimate_of_draws(draws: Iterable[TraceDraw], rule: TraceRule) -> TraceEstimate:
    """The mean of as many draws as the rule asks for; no other is taken.

    Raises:
        ValueError: the draws end before the rule does.
    """
    known: list[NDArray[np.float64]] = []
    for draw in draws:
        known.append(draw.values)
        if len(known) < rule.min_probes:
            continue
        mean, stderr = np.mean(known, axis=0), np.std(known, axis=0, ddof=1) / np.sqrt(len(known))
        converged = bool((stderr <= rule.rtol * np.abs(mean)).all())
        if converged or len(known) == rule.max_probes:
            status = TraceStatus.CONVERGED if converged else TraceStatus.PROBE_BUDGET
            return TraceEstimate(mean, stderr, len(known), draw.batch, status)
    raise ValueError(f"traces need {rule.max_probes} roots unless they are known earlier, got {len(known)}")


def random_signs(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Independent entries of +1 and -1 (Rademacher), as int8."""
    return 2 * torch.randint(0, 2, tuple(shape), generator=generator, dtype=torch.int8) - 1
