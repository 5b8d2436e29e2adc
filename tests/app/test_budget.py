"""The accuracy that a request may spend: what its kinds mean, and budgets of single outputs."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from app.errors import AppError
from app.schemas.budget import NEED_LABELS, OF_UNITS, SHARE_OF_NULL, Budget, MetricName, MetricOptions
from app.schemas.job_request import JobRequest
from app.schemas.parsing import parse_request
from evaluation.metrics.measurement import DropKind, Unit
from evaluation.metrics.registry import METRICS
from tests.app.requests import DATA, MODEL, request_of

OWN = "c" * 64


def request(**members: Any) -> JobRequest:
    return parse_request(request_of(dataset_id=DATA, **members))


def test_the_metrics_of_a_request_are_those_that_are_measured() -> None:
    assert set(get_args(MetricName)) == set(METRICS)


def test_budgets_of_shares_are_fractions_and_no_others() -> None:
    assert set(OF_UNITS) == {name for name, metric in METRICS.items() if metric.unit is not Unit.SHARE}
    assert set(SHARE_OF_NULL) <= set(OF_UNITS)


def test_the_metrics_that_need_labels_are_known_before_the_data_are() -> None:
    always = {name for name, metric in METRICS.items() if metric.needs_truth and metric.truth == ("labels",)}
    assert set(NEED_LABELS) <= always


def test_every_option_of_a_metric_can_be_said() -> None:
    said = set(MetricOptions.model_fields)
    assert {option for metric in METRICS.values() for option in metric.options} <= said
    assert said - {option for metric in METRICS.values() for option in metric.options} <= {"higher_is_better"}


def test_the_kinds_of_drop_are_those_that_are_measured() -> None:
    assert set(get_args(Budget.model_fields["kind"].annotation)) == {kind.value for kind in DropKind}


@pytest.mark.parametrize("metric", SHARE_OF_NULL)
def test_errors_in_units_are_budgeted_as_a_share_of_what_knowing_nothing_costs(metric: str) -> None:
    assert request(budget={"metric": metric}).budget.kind == "of_null"
    assert request(budget={"metric": metric, "max_drop": 0.5}).budget.kind == "of_null"
    in_units = request(budget={"metric": metric, "max_drop": 12.5, "kind": "absolute"})
    assert (in_units.budget.kind, in_units.budget.max_drop) == ("absolute", 12.5)
    assert request(budget={"metric": "r2"}).budget.kind == "absolute"


def test_a_stored_budget_keeps_its_kind() -> None:
    stored = request(budget={"metric": "mse", "max_drop": 2, "kind": "absolute"}).model_dump(mode="json")
    assert parse_request(stored).budget.kind == "absolute"


def test_options_that_were_not_given_are_not_stored() -> None:
    budget = request(budget={"metric": "recall_at_k", "options": {"k": 3}}).model_dump(mode="json")["budget"]
    assert budget["options"] == {"k": 3}


TAKEN: list[dict[str, Any]] = [
    {"budget": {"metric": "kl", "max_drop": 3}},
    {"budget": {"metric": "sqnr_db", "max_drop": 6}},
    {"budget": {"metric": "perplexity", "max_drop": 1.5}},
    {"budget": {"metric_id": OWN, "max_drop": 40, "options": {"higher_is_better": False}}},
    {"budget": {"max_drop": 0.999}},
    {"budget": {"max_drop": 0}},
    {"outputs": {"y": {"metric": "mse", "max_drop": 2}}},
    {"budget": {"metric": "mse", "max_drop": 5, "kind": "absolute"}, "outputs": {"y": {"max_drop": 2}}},
    {"outputs": {"y": {"weight": 0}}, "budget": {"max_drop": 0}},
    {"outputs": {"y": {"weight": 0.25, "metric": "miou", "options": {"axis": 1}, "max_drop": 0.1}}},
]


@pytest.mark.parametrize("members", TAKEN)
def test_what_has_a_meaning_is_taken(members: dict[str, Any]) -> None:
    taken = request(**members)
    assert parse_request(taken.model_dump(mode="json")) == taken


FRACTION = "max_drop is a fraction below 1, and {0} would allow everything to be lost; you probably mean {0} percent"
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"budget": {"max_drop": 1}}, FRACTION.format(1)),
    ({"budget": {"metric": "explained", "max_drop": 2}}, FRACTION.format(2)),
    ({"budget": {"metric": "mse", "max_drop": 2}}, FRACTION.format(2)),
    ({"budget": {"metric": "perplexity", "max_drop": 2, "kind": "relative"}}, FRACTION.format(2)),
    ({"budget": {"metric_id": OWN, "max_drop": 2, "kind": "of_null"}}, FRACTION.format(2)),
    ({"outputs": {"y": {"max_drop": 1}}}, "outputs.y: " + FRACTION.format(1)),
    ({"outputs": {"y": {"metric": "miou", "max_drop": 5}}}, "outputs.y: " + FRACTION.format(5)),
    # of_null is the budget's kind, and so the output's
    (
        {"budget": {"metric": "mse", "max_drop": 0.1}, "outputs": {"y": {"metric": "mse", "max_drop": 5}}},
        "outputs.y: " + FRACTION.format(5),
    ),
    ({"outputs": {"y": {"max_drop": 0}}}, "outputs.y.max_drop is a budget of its own"),
    ({"budget": {"max_drop": 0}, "outputs": {"y": {"max_drop": 0.1}}}, "outputs.y.max_drop is a budget of its own"),
    ({"budget": {"metric": "kl", "metric_id": OWN}}, "metric_id is a metric of your own, and metric names kl, too"),
    ({"budget": {"options": {"k": 3}}}, "options.k is said to a metric, and no metric is named here"),
    ({"outputs": {"y": {"options": {"axis": 1}}}}, "options.axis is said to a metric, and no metric is named here"),
    ({"budget": {"metric": "top5", "options": {"kk": 3}}}, "budget.options.kk: there is no field of this name"),
    ({"budget": {"metric": "top5", "options": {"k": 0}}}, "budget.options.k: Input should be greater than or equal"),
    ({"budget": {"metric_id": "c"}}, "budget.metric_id: String should match pattern"),
    ({"budget": {"metric": "detection_f1", "options": {"iou": 1}}}, "budget.options.iou: Input should be less than 1"),
]


@pytest.mark.parametrize(("members", "text"), REFUSED)
def test_what_has_none_is_refused_with_what_to_do(members: dict[str, Any], text: str) -> None:
    with pytest.raises(AppError) as caught:
        request(**members)
    assert caught.value.code == "budget_invalid"
    assert text in str(caught.value)


def test_labels_come_with_data_for_outputs_too() -> None:
    with pytest.raises(AppError, match="the metric top1 needs labels, and the request names no dataset"):
        parse_request(request_of(outputs={"y": {"metric": "top1"}}))
    assert request(outputs={"y": {"metric": "top1"}}).dataset_id == DATA


def test_what_a_job_reads_has_names() -> None:
    assert request(budget={"metric_id": OWN}).uploads == {"model": MODEL, "dataset": DATA, "metric": OWN}
    assert parse_request(request_of()).uploads == {"model": MODEL}
