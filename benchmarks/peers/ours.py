"""Our files of a network: library calls for a ladder of budgets, which share one analysis."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pipeline
from benchmarks.peers.networks import PeerCase
from benchmarks.peers.running import MadeFile, made_file
from planner.errors import LimitUnreachable

MAX_DROPS = (0.03, 0.01, 0.003)
# the most accurate file that takes at most this share of the float file
SHARES = (0.16, 0.24, 0.4)
ACTIVATION_DROPS = (0.01,)
ACTIVATION_SHARES = (0.27, 0.45)
ACTIVATIONS = ", A8"
"""What the names of files with 8-bit activations end with."""


def requests() -> dict[str, dict[str, Any]]:
    """Requests by the name of their file; one with a `share` is limited to that share of the float file."""
    weights = _ladder(MAX_DROPS, SHARES)
    activations = _ladder(ACTIVATION_DROPS, ACTIVATION_SHARES)
    quantized = {"activations": {"bits": [8]}}
    return weights | {name + ACTIVATIONS: request | quantized for name, request in activations.items()}


def _ladder(drops: Sequence[float], shares: Sequence[float]) -> dict[str, dict[str, Any]]:
    return {f"max_drop {drop}": {"budget": {"metric": "top1", "max_drop": drop}} for drop in drops} | {
        f"{share} of float": {"budget": {"metric": "top1"}, "objective": "accuracy", "share": share} for share in shares
    }


def our_files(case: PeerCase, work: Path) -> Iterator[tuple[str, MadeFile, str]]:
    """Each file of the ladder that can be so small, with its name and its job's outcome."""
    float_bytes = case.model.stat().st_size
    for name, request in requests().items():
        share = request.pop("share", None)
        limits = {} if share is None else {"limits": {"max_size_bytes": int(share * float_bytes)}}
        started = time.perf_counter()
        try:
            result = pipeline.plan(case.model, case.samples, request | limits, cache=work / "cache")
        except LimitUnreachable:
            continue
        seconds = time.perf_counter() - started
        yield name, made_file(result.model, case, seconds), str(result.outcome)
