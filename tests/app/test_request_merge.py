from __future__ import annotations

from typing import Any

import pytest

from app.schemas.parsing import merge


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [  # the test cases of RFC 7396, appendix A, that objects of ours can have
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
        # ours: a constraint on a layer is one thing
        ({"layers": {"a": {"keep": True}}}, {"layers": {"a": {"bits": [8]}}}, {"layers": {"a": {"bits": [8]}}}),
        (
            {"layers": {"a": {"keep": True}}},
            {"layers": {"a": None, "b": {"bits": [4]}}},
            {"layers": {"b": {"bits": [4]}}},
        ),
        # a metric and a metric graph take each other's place, with their options
        ({"metric": "top5", "options": {"k": 3}}, {"metric_id": "ab"}, {"metric_id": "ab"}),
        ({"metric_id": "ab", "options": {"higher_is_better": False}}, {"metric": "kl"}, {"metric": "kl"}),
        (
            {"metric_id": "ab", "options": {"higher_is_better": False}},
            {"metric_id": "cd"},
            {"metric_id": "cd", "options": {"higher_is_better": False}},
        ),
        ({"metric": "kl"}, {"metric": "top1", "metric_id": "ab"}, {"metric": "top1", "metric_id": "ab"}),
        # ours: options and the kind of drop belong to a metric
        (
            {"budget": {"metric": "mse", "kind": "of_null", "options": {"axis": 1}, "max_drop": 0.1}},
            {"budget": {"metric": "top1"}},
            {"budget": {"metric": "top1", "max_drop": 0.1}},
        ),
        (
            {"budget": {"metric": None, "metric_id": None, "kind": "absolute", "options": {}}},
            {"budget": {"metric": "mse", "max_drop": 0.3}},
            {"budget": {"metric": "mse", "max_drop": 0.3}},
        ),
        (
            {"budget": {"metric": "top1", "kind": "relative", "max_drop": 0.1}},
            {"budget": {"metric": "top1", "max_drop": 0.2}},
            {"budget": {"metric": "top1", "kind": "relative", "max_drop": 0.2}},
        ),
    ],
)
def test_changes_are_merged_as_the_standard_says(target: Any, patch: Any, result: Any) -> None:
    assert merge(target, patch) == result
