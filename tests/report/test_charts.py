"""Charts of a real small job: what they show, what is missing, and networks that are large."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from report import Documents, charts
from report.charts.interactions import MOST_LAYERS, strongest
from report.charts.layers import MOST_LABELS
from report.charts.points import plan_points
from report.contents import CHARTS, DOCUMENTS
from report.render import vega_lite


def values_of(specification: Any) -> list[dict[str, Any]]:
    """Every row of data anywhere in a specification."""
    return list(_values(specification))


def _values(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        for name, value in node.items():
            if name == "datasets":
                for rows in value.values():
                    yield from rows
            elif name == "values" and isinstance(value, list) and value and isinstance(value[0], dict):
                yield from value
            else:
                yield from _values(value)
    elif isinstance(node, list):
        for value in node:
            yield from _values(value)


@pytest.mark.parametrize("name", CHARTS)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_chart_is_drawn_from_a_real_job(documents: Documents, name: str, theme: str) -> None:
    specification = vega_lite(getattr(charts, name)(documents, theme))
    assert specification["config"]["background"] == {"light": "#ffffff", "dark": "#0f1419"}[theme]
    assert values_of(specification)


def test_a_theme_that_nobody_has_is_refused(documents: Documents) -> None:
    with pytest.raises(ValueError, match="pink"):
        charts.stages(documents, "pink")


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_reads_what_it_says_and_is_none_without(documents: Documents, name: str) -> None:
    facts = CHARTS[name]
    alone = Documents(**{kind: getattr(documents, kind) for kind in facts.reads})
    if facts.shows_stages:
        alone = replace(alone, stage_seconds=documents.stage_seconds)
    assert vega_lite(getattr(charts, name)(alone)) == vega_lite(getattr(charts, name)(documents))
    bare = Documents(plan=documents.plan)
    assert (getattr(charts, name)(bare) is None) == (name not in ("layers", "interval"))


def test_the_frontier_shows_every_kind_of_plan(documents: Documents) -> None:
    assert documents.frontier is not None
    points = plan_points(documents)
    assert len([point for point in points if point.kind == "delivered"]) == 1
    labels = {point.label for point in points if point.kind == "uniform widths"}
    assert labels
    assert labels <= {f"all {bits} bits" for bits in (2, 3, 4, 8)}
    measured = [point for point in points if point.drop is not None]
    assert measured
    shown = values_of(vega_lite(charts.frontier(documents)))
    texts = " ".join(str(row.get("text")) for row in shown)
    assert "the float model: " in texts
    assert f"budget: {documents.measured['max_drop']:g}" in texts
    delivered = [row for row in shown if row.get("kind") == "delivered" and "drop" in row]
    assert [(row["drop"], row["low"], row["high"]) for row in delivered] == [
        tuple(documents.measured[member] for member in ("drop", "low", "high"))
    ]


def test_the_delivered_plan_is_shown_where_it_is_none_that_the_search_chose(documents: Documents) -> None:
    plan, frontier = copy.deepcopy(documents.plan), copy.deepcopy(documents.frontier)
    assert plan is not None
    assert frontier is not None
    for point in frontier["points"]:
        point["chosen"] = False
    plan["size_bytes"] += 1000
    (delivered,) = (
        point for point in plan_points(replace(documents, plan=plan, frontier=frontier)) if point.kind == "delivered"
    )
    assert (delivered.cost, delivered.predicted_damage) == (plan["size_bytes"], plan["predicted_damage"])
    assert delivered.drop is None
    assert vega_lite(charts.frontier(replace(documents, plan=plan, frontier=frontier)))


@pytest.mark.parametrize(
    ("cost", "unit"),
    [("bit_operations", "bit operations"), ("latency", "milliseconds"), ("load", "milliseconds to load")],
)
def test_other_costs_have_their_own_unit(documents: Documents, cost: str, unit: str) -> None:
    assert documents.plan is not None
    assert documents.frontier is not None
    times = {"latency": 0.5, "load": 31.5}
    plan = {**documents.plan, **{name: {"predicted_ms": ms} for name, ms in times.items()}}
    given = replace(documents, plan=plan, frontier={**documents.frontier, "cost": cost, "unit": unit})
    (delivered,) = (point for point in plan_points(given) if point.kind == "delivered")
    assert delivered.cost == times.get(cost, documents.plan["bit_operations"])
    axis = vega_lite(charts.frontier(given))["vconcat"][0]["layer"][0]["encoding"]["x"]
    assert axis["title"] == unit


def test_layers_stand_in_the_order_of_the_network_with_their_own_words(documents: Documents) -> None:
    rows = values_of(vega_lite(charts.layers(documents)))[: len(documents.layers)]
    assert [row["layer"] for row in rows] == [row["name"] for row in documents.layers]
    assert all(str(layer["format"]) in row["text"] for layer, row in zip(documents.layers, rows, strict=True))


def large(documents: Documents, count: int) -> Documents:
    """A plan of `count` layers, each like one of the real ones, with interactions."""
    plan, sensitivity = copy.deepcopy(documents.plan), copy.deepcopy(documents.sensitivity)
    assert plan is not None
    assert sensitivity is not None
    rows = [{**plan["layers"][i % len(plan["layers"])], "name": f"encoder.block{i}.attention"} for i in range(count)]
    candidates = [f"{row['name']}:{row['format']}" for row in rows]
    matrix = [[(i * j % 7 - 3) / 1000 for j in range(count)] for i in range(count)]
    return replace(
        documents,
        plan={**plan, "layers": rows},
        sensitivity={**sensitivity, "interactions": {"candidates": candidates, "matrix": matrix, "sketch_error": 0}},
    )


def test_a_large_network_stays_readable(documents: Documents) -> None:
    many = large(documents, 160)
    layers = vega_lite(charts.layers(many))
    labelled = layers["vconcat"][-1]["encoding"]["x"]["axis"]["values"]
    assert 20 <= len(labelled) <= MOST_LABELS
    assert len({row["layer"] for row in values_of(layers)}) == 160
    heat = vega_lite(charts.interactions(many))
    assert len({row["row"] for row in values_of(heat)}) == MOST_LAYERS
    assert heat["title"] == f"the {MOST_LAYERS} of 160 that interact most"


def test_a_pair_counts_twice_as_in_the_sum_that_predicts(documents: Documents) -> None:
    many = large(documents, 3)
    assert strongest(many)[-1] == ("encoder.block1.attention", "encoder.block2.attention", pytest.approx(-0.002))
    shown = {(row["row"], row["column"]): row["value"] for row in values_of(vega_lite(charts.interactions(many)))}
    assert shown["encoder.block0.attention", "encoder.block2.attention"] == pytest.approx(-0.006)


def test_layers_that_end_alike_are_told_apart(documents: Documents) -> None:
    assert documents.plan is not None
    rows = [{**documents.plan["layers"][0], "name": f"{'x' * 10}{i}{'tail' * 20}"} for i in range(3)]
    shown = values_of(vega_lite(charts.layers(replace(documents, plan={**documents.plan, "layers": rows}))))
    assert len({row["layer"] for row in shown}) == 3


def test_a_folder_of_results_is_read_as_far_as_it_is_there(tmp_path: Any, documents: Documents) -> None:
    assert Documents.of_folder(tmp_path) == Documents()
    with pytest.raises(ValueError, match=r"got neither; give plan.json or certificate.json"):
        charts.interval(Documents.of_folder(tmp_path))
    (tmp_path / "plan.json").write_text('{"layers": []}')
    assert Documents.of_folder(tmp_path).plan == {"layers": []}
    assert {kind for kind in DOCUMENTS if getattr(documents, kind) is None} == {"certificate"}
