"""What the options of `plan` and `submit` say, without a server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from app.cli.changes import with_changes
from app.cli.options import AppliedOptions, JobOptions, parse_bits
from app.cli.output import Refused
from app.cli.planning import applied_body
from app.cli.submitting import Files, submitted
from app.embedded import HomeLock
from app.schemas.parsing import parse_plan, parse_request
from app.supervisor import Backoff, new_worker_name, owner_name, owner_prefix
from bitbudget_client import Upload

NOTHING = JobOptions()


@pytest.mark.parametrize(
    ("text", "bits"), [("4", [4]), ("2-8", [2, 3, 4, 5, 6, 7, 8]), ("2,4,8", [2, 4, 8]), ("2-4,8", [2, 3, 4, 8])]
)
def test_bits(text, bits):
    assert parse_bits(text) == bits


@pytest.mark.parametrize("text", ["", "many", "8-2", "4;8", "2,,8"])
def test_bits_that_cannot_be_read(text):
    with pytest.raises(Refused, match=r"2-8 or 2,4,8, got "):
        parse_bits(text)


def test_without_options_the_defaults_of_the_service_hold():
    assert NOTHING.body() == {}


def test_options_make_a_request_that_the_service_takes():
    body = JobOptions(
        max_drop=0.02,
        metric="top1",
        objective="bit_operations",
        bits="2-4",
        activation_bits="4,8",
        keep=["conv1"],
        requantize=True,
        opset=18,
        seed=3,
    ).body()
    request = parse_request({**body, "model_id": "0" * 64, "dataset_id": "1" * 64})
    assert (request.budget.max_drop, request.budget.metric, request.objective) == (0.02, "top1", "bit_operations")
    assert (request.activations.bits, request.opset) == ((4, 8), 18)
    assert request.weights.requantize
    assert (request.weights.bits, request.seed, request.layers["conv1"].keep) == ((2, 3, 4), 3, True)


def test_a_metric_and_a_metric_graph_are_not_both_given(tmp_path: Path):
    with pytest.raises(Refused, match="--metric and --metric-graph say two things"):
        JobOptions(metric="top1", metric_graph=tmp_path / "iou.onnx").body()
    assert JobOptions(metric_graph=tmp_path / "iou.onnx").body() == {}


class Uploads:
    """A client that keeps what it is sent."""

    def upload_model(self, path: Path, sent: Any) -> Upload:
        return Upload({"id": f"model {path.name}"})

    def upload_dataset(self, path: Path, sent: Any) -> Upload:
        return Upload({"id": f"dataset {path.name}"})

    def post_job(self, path: str, body: Mapping[str, Any], key: str | None) -> dict[str, Any]:
        assert path == "/v1/jobs"
        return dict(body)


def test_a_metric_graph_is_uploaded_and_takes_the_place_of_a_metric(tmp_path: Path):
    files = Files(*(tmp_path / name for name in ("net.onnx", "data.npz", "iou.onnx")))
    for path in (files.model, files.data, files.metric):
        path.write_bytes(b"x")
    body = {"budget": {"metric": "top5", "options": {"k": 3}, "max_drop": 0.1}, "seed": 3}
    assert submitted(Uploads(), body, files) == {
        "model_id": "model net.onnx",
        "dataset_id": "dataset data.npz",
        "budget": {"max_drop": 0.1, "metric_id": "model iou.onnx"},
        "seed": 3,
    }


def test_options_override_the_request_file_member_by_member(tmp_path: Path):
    path = tmp_path / "request.json"
    path.write_text(json.dumps({"budget": {"max_drop": 0.5, "metric": "kl"}, "layers": {"fc": {"bits": [8]}}}))
    body = JobOptions(max_drop=0.1, keep=["conv1"], request=path).body()
    assert body == {
        "budget": {"max_drop": 0.1, "metric": "kl"},
        "layers": {"fc": {"bits": [8]}, "conv1": {"keep": True}},
    }


@pytest.mark.parametrize(("text", "says"), [("{", "is not JSON"), ("[]", "must hold a JSON object, got list")])
def test_a_request_file_that_is_no_object(tmp_path: Path, text, says):
    path = tmp_path / "request.json"
    path.write_text(text)
    with pytest.raises(Refused, match=says):
        JobOptions(request=path).body()


def test_a_plan_is_applied_as_the_job_did_that_delivered_it_but_for_the_options():
    layers = [{"name": "fc", "format": "int4/channel", "damage": 0.5}]
    before = {
        "budget": {"metric": "top1", "max_drop": 0.5},
        "weights": {"bits": [4], "rounding": "nearest"},
        "seed": 7,
        "target": "storage-only",
        "opset": 18,
        "objective": "size",
    }
    body = applied_body({"version": 1, "request": before, "layers": layers}, AppliedOptions(max_drop=0.1))
    assert body == {
        "budget": {"metric": "top1", "max_drop": 0.1},
        "weights": {"rounding": "nearest"},
        "seed": 7,
        "target": "storage-only",
        "opset": 18,
        "plan": {"version": 1, "layers": [{"name": "fc", "format": "int4/channel"}]},
    }
    parse_request({**body, "model_id": "0" * 64, "dataset_id": "1" * 64})
    by_hand = applied_body({"version": 1, "layers": layers}, AppliedOptions(rounding="gptq"))
    assert by_hand == {"weights": {"rounding": "gptq"}, "plan": body["plan"]}


def test_changes_on_the_command_line_take_the_place_of_formats():
    rows = [
        {"name": "conv1", "weight": "w", "nodes": ["first"], "format": "int4/channel", "damage": 0.5},
        {"name": "fc", "weight": "v", "nodes": ["last"], "format": "int4/channel", "damage": 0.5},
    ]
    plan = {"version": 1, "layers": rows, "activations": [{"name": "x", "format": "uint8/tensor"}], "outcome": "met"}
    changed = parse_plan(with_changes(plan, ["first=int8/channel", "x=float32"]))
    assert [row.format for row in changed.layers] == ["int8/channel", "int4/channel"]
    assert [row.format for row in changed.activations] == ["float32"]
    partial = {"base": "float32", "layers": {"conv1": "int4/channel", "a=b": "int4/channel"}}
    changed = parse_plan(with_changes(partial, ["a=b=int8/channel", "fc=int2/channel"]))
    assert {row.name: row.format for row in changed.layers} == {
        "conv1": "int4/channel",
        "a=b": "int8/channel",
        "fc": "int2/channel",
    }
    assert changed.base == "float32"


@pytest.mark.parametrize(
    ("plan", "change", "says"),
    [
        ({"layers": {"fc": "int4/channel"}}, "fc", "takes a layer and its format"),
        ({"layers": {"fc": "int4/channel"}}, "fd=float32", "names 'fd', which the plan that it changes does not have"),
        ({"layers": {"fc": 4}}, "fc=float32", "layers.0.format: Input should be a valid string"),
    ],
)
def test_changes_that_fit_no_plan(plan, change, says):
    with pytest.raises(Refused, match=says):
        with_changes(plan, [change])


def test_pauses_between_restarts_double_and_start_anew_after_a_healthy_life():
    backoff = Backoff(first=1.0, longest=5.0, healthy=60.0)
    pauses = [0.0]
    for lived in (0.1, 0.1, 0.1, 0.1, 100.0, 0.1):
        pauses.append(backoff.after(pauses[-1], lived))
    assert pauses[1:] == [1.0, 2.0, 4.0, 5.0, 1.0, 2.0]


def test_the_lock_of_a_home_has_one_holder(tmp_path: Path):
    first, second = HomeLock(tmp_path / "home"), HomeLock(tmp_path / "home")
    assert first.acquire()
    assert not second.acquire()
    first.release()
    assert second.acquire()
    second.release()


def test_no_owner_begins_with_the_name_of_another():
    worker = new_worker_name()
    assert new_worker_name() != worker
    assert owner_name(worker, 123).startswith(owner_prefix(worker))
    assert not owner_name(worker, 1234).startswith(owner_name(worker, 123))
