from __future__ import annotations

from typing import Any

from report import charts, render
from report.documents import Documents
from report.files import make

HOSTILE = "</script><script>alert(1)</script>"


def job(name: str, unit: str = "bytes", scale: float = 1.0) -> dict[str, Any]:
    costs = [(100.0, 0.5), (200.0, 0.1), (400.0, 0.0)]
    points = [
        {"cost": scale * cost, "predicted_damage": damage, "chosen": damage == 0.1, "bits": {}}
        for cost, damage in costs
    ]
    return {"name": name, "frontier": {"unit": unit, "points": points}}


def drawn(*jobs: dict[str, Any]) -> Any:
    return charts.comparison(Documents(compared={"jobs": list(jobs)}))


def test_every_job_has_a_line_and_a_mark_at_what_it_delivered():
    given = render.vega_lite(drawn(job("first"), job("second", scale=2.0)))
    (values,) = given["datasets"].values()
    assert [(row["job"], row["cost"]) for row in values if row["delivered"]] == [("1. first", 200), ("2. second", 400)]
    assert len(values) == 4  # a logarithm has no place for a damage of zero
    svg = make("charts/comparison.svg", Documents(compared={"jobs": [job("first"), job("second")]})).decode()
    assert "2. second: 200 bytes, predicted damage 0.1 nats" in svg


def test_costs_of_another_unit_and_jobs_without_a_search_are_left_out():
    given = render.vega_lite(drawn(job("a"), {"name": "b", "frontier": None}, job("c", unit="bit operations")))
    (values,) = given["datasets"].values()
    assert {row["job"] for row in values} == {"1. a"}
    assert drawn({"name": "b", "frontier": None}) is None


def test_names_from_elsewhere_are_text():
    svg = make("charts/comparison.svg", Documents(compared={"jobs": [job(HOSTILE), job("b")]})).decode()
    assert "<script" not in svg
