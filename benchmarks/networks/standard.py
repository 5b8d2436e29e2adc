"""The standard's own tests of its operators, through everything that the product does with a graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from network.opset import OLDEST_OPSET
from tests.oracles import opset_runs
from tests.oracles.node_tests import Kind, Outcome, cases, run_execution


def outcomes() -> list[Outcome]:
    """Of every test that the installed onnx has: of its execution, and of its way to the newest opset and back."""
    found = []
    for case in cases():
        found.append(run_execution(case))
        found += opset_runs.outcomes(case, opsets=(OLDEST_OPSET,))
    return found


def lines(found: Sequence[Outcome]) -> list[str]:
    """One for each test whose numbers are wrong, or that ends with an error of another library."""
    return [f"BAD {one.name}: {one.kind.value}, {one.text}" for one in found if one.kind in (Kind.WRONG, Kind.FOREIGN)]


def summary(found: Sequence[Outcome]) -> dict[str, Any]:
    """The members of the last line."""
    return {
        "node_tests": len(found),
        "node_tests_wrong": sum(one.kind is Kind.WRONG for one in found),
        "node_tests_foreign_errors": sum(one.kind is Kind.FOREIGN for one in found),
    }
