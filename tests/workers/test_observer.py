"""Events as a child may send them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from pipeline import events
from workers.observer import parse_event, storable_object
from workers.wire import WireBroken


def header(kind: str, **fields: Any) -> dict[str, Any]:
    return {"do": "event", "kind": kind, "fields": fields}


def test_events_come_as_they_were_sent():
    assert parse_event(header("Progress", stage="plan", fraction=0.5, eta_seconds=None)) == events.Progress("plan", 0.5)
    began = parse_event(header("StageBegan", stage="cross_layer", time_limit=60))
    assert began == events.StageBegan("cross_layer", timedelta(seconds=60))
    estimate = {"stage": "job", "seconds": 9.5, "memory_bytes": 1 << 30, "float_passes": 30.5}
    assert parse_event(header("Estimate", **estimate)) == events.Estimate(**estimate)
    measured = {"drop": 0.1, "layers": [{"name": "ünïcode"}]}
    assert parse_event(header("PlanEvaluated", measured=measured)) == events.PlanEvaluated(measured)


@pytest.mark.parametrize(
    "sent",
    [
        header("Exit", code=0),
        header("Progress", stage="plan", fraction=0.5),
        header("Progress", stage="plan", fraction="0.5", eta_seconds=None),
        header("Progress", stage="\ud800", fraction=0.5, eta_seconds=None),
        header("Progress", stage=["plan"], fraction=0.5, eta_seconds=None),
        header("Progress", stage="x" * 65, fraction=0.5, eta_seconds=None),
        header("Progress", stage="plan", fraction=float("nan"), eta_seconds=None),
        header("Estimate", stage="plan", seconds=1.0, memory_bytes=10**400, float_passes=None),
        header("Estimate", stage="job", seconds=1.0, memory_bytes=1, float_passes="many"),
        header("StageBegan", stage="plan", time_limit=10**9),
        header("StageBegan", stage="plan", time_limit=-1),
        header("StageBegan", stage="plan", time_limit=True),
        header("PlanEvaluated", measured={"name": "\ud800"}),
        header("PlanEvaluated", measured={"name": "a\x00b"}),
        header("PlanEvaluated", measured={"x": "y" * 2_000_000}),
        {"do": "event", "kind": ["Progress"], "fields": {}},
        {"do": "event", "kind": "Progress", "fields": []},
    ],
)
def test_what_makes_no_sense_is_refused(sent):
    with pytest.raises(WireBroken):
        parse_event(sent)


def test_what_no_database_could_keep_is_refused():
    assert storable_object({"a": [1, "é"]}) == {"a": [1, "é"]}
    for value in ({"a": float("inf")}, {"a": "\x00"}, {"a": "\udfff"}, {"a": {1, 2}}):
        with pytest.raises(WireBroken):
            storable_object(value)
