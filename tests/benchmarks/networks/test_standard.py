"""The figures of the standard's tests: only wrong numbers and errors of others are bad."""

from __future__ import annotations

from benchmarks.networks.standard import lines, summary
from tests.oracles.node_tests import Kind, Outcome


def test_only_wrong_numbers_and_foreign_errors_are_bad():
    found = [Outcome(kind.value, kind, "why") for kind in Kind]
    assert summary(found) == {"node_tests": 4, "node_tests_wrong": 1, "node_tests_foreign_errors": 1}
    assert lines(found) == ["BAD wrong: wrong, why", "BAD foreign: foreign, why"]
