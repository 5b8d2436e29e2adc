"""What a job came to, in one line."""

from __future__ import annotations

from typing import Any

import pytest

from app.schemas.headline import headline, loading, reason


def _claim(**members: Any) -> dict[str, Any]:
    return {
        "metric": "top1",
        "outputs": ["logits"],
        "part": "",
        "parts": 1,
        "unit": "share",
        "float_value": 0.89,
        "quantized_value": 0.88888,
        "drop": 0.00112,
        "max_drop": 0.01,
        **members,
    }


def _plan(*claims: dict[str, Any], **members: Any) -> dict[str, Any]:
    certificate = {name: claims[0][name] for name in ("metric", "float_value", "quantized_value", "drop", "max_drop")}
    sizes = {"float_size_bytes": 1_088_477, "size_bytes": 98_418}
    return {"outcome": "met", "reason": None, **sizes, "certificate": {**certificate, "claims": claims}, **members}


def test_the_line_has_sizes_values_and_whether_the_budget_is_met() -> None:
    expected = "1,088,477 -> 98,418 bytes (11.1 times smaller), top1 0.8900 -> 0.8889, budget met"
    assert headline(_plan(_claim())) == expected


@pytest.mark.parametrize(
    ("float_size_bytes", "size_bytes", "change"),
    [(1000, 500, "2.0 times smaller"), (1000, 950, "5.0 % smaller"), (1000, 1003, "0.3 % larger")],
)
def test_a_change_that_is_no_multiple_is_said_in_percent(float_size_bytes: int, size_bytes: int, change: str) -> None:
    assert change in headline(_plan(_claim(), float_size_bytes=float_size_bytes, size_bytes=size_bytes))


def test_of_several_claims_the_one_nearest_to_its_budget_or_past_it_is_named() -> None:
    boxes = _claim(metric="mse", outputs=["a", "b"], unit="squared units of the output", max_drop=0.5, drop=0.4)
    boxes |= {"float_value": 1.0, "quantized_value": 1.4}
    assert "mse of a and b 1 -> 1.4 squared units of the output" in headline(_plan(_claim(), boxes))
    part = _claim(parts=3, part="boxes[2]")
    assert "top1 of boxes[2] 0.8900" in headline(_plan(part))


@pytest.mark.parametrize("outcome", ["not_met", "deadline"])
def test_a_budget_that_is_not_met_is_said_with_its_reason_and_what_could_be_reached(outcome: str) -> None:
    evaluated = [{"drop": 0.03, "size_bytes": 500}, {"drop": 0.02, "size_bytes": 7_000}]
    why = "the best plan found misses the budget by 0.0100; allow more bits"
    plan = _plan(_claim(), outcome=outcome, reason=why, search={"evaluated": evaluated})
    assert "budget not met" in headline(plan)
    assert reason(plan) == f"{why}. The most accurate plan that was evaluated (drop 0.02) has 7,000 bytes."
    assert reason({**plan, "search": None}) == why
    assert reason(_plan(_claim())) is None


def test_measured_times_stand_in_the_line() -> None:
    timed = {"measured": {"float": {"median_ms": 4.5678}, "quantized": {"median_ms": 2.1}}}
    assert ", 4.57 -> 2.1 ms, " in headline(_plan(_claim(), latency=timed))


def test_times_to_load_are_said_as_predicted_and_as_measured() -> None:
    load = {"predicted_ms": 31.26, "base_ms": 2.0, "float_ms": 6.0}
    line = "Loading takes 31.3 ms as predicted for a reference machine, and 6 ms for the float network."
    assert loading({"load": load}) == line
    measured = {"float": {"median_ms": 7.5}, "quantized": {"median_ms": 44.0}}
    assert loading({"load": {**load, "measured": measured}}) == f"{line} Measured on the worker: 44 and 7.5 ms."
    assert loading({}) is None


def test_members_that_an_older_plan_lacks_are_left_out() -> None:
    certificate = {"metric": "top1", "float_value": 0.5, "quantized_value": 0.4, "drop": 0.1, "max_drop": 0.2}
    assert headline({"certificate": certificate, "outcome": "met"}) == "top1 0.5000 -> 0.4000, budget met"
    assert headline({"layers": []}) == ""
