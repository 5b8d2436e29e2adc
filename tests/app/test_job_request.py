from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import AppError
from app.schemas.job_request import Estimator, JobRequest, Sensitivity, TargetName
from app.schemas.parsing import parse_object, parse_request, without_retired
from app.schemas.weights import WIDTHS_OF_TARGETS
from planner.targets import OPSETS, target, target_names
from tests.app.requests import DATA, MODEL, request_of


@pytest.mark.parametrize(
    ("weights", "left"),
    [
        ({"adaround_seconds": 60.0, "bits": [4]}, {"bits": [4]}),
        ({"adaround_seconds": 60.0, "refinement": "none"}, {"refinement": "none"}),
        ({"adaround_seconds": 9.0, "refinement": "adaround"}, {"refinement": "sequential"}),
    ],
)
def test_a_stored_request_loses_what_is_no_longer_there(weights: dict[str, Any], left: dict[str, Any]) -> None:
    stored = request_of(weights=weights)
    assert parse_request(without_retired(stored)) == parse_request(request_of(weights=left))
    assert stored == request_of(weights=weights)
    assert without_retired(request_of()) == request_of()


def test_a_stored_budget_that_let_everything_be_lost_is_still_read() -> None:
    assert parse_request(without_retired(request_of(budget={"max_drop": 1.0}))).budget.max_drop > 0.999
    in_units = request_of(budget={"metric": "kl", "max_drop": 1.0})
    assert without_retired(in_units) == in_units


def test_every_default_is_filled_in() -> None:
    assert parse_request(request_of()).model_dump(mode="json") == {
        "model_id": MODEL,
        "dataset_id": None,
        "inputs": {},
        "budget": {
            "metric": None,
            "options": {},
            "metric_id": None,
            "max_drop": 0.01,
            "kind": "absolute",
            "confidence": None,
        },
        "outputs": {},
        "objective": "size",
        "limits": {"max_size_bytes": None, "max_bit_operations": None, "max_latency_ms": None, "max_load_ms": None},
        "weights": {
            "bits": None,
            "granularity": "channel",
            "block_size": 32,
            "symmetric": True,
            "formats": None,
            "rounding": "gptq",
            "refinement": "auto",
            "leftovers": "float16",
            "requantize": False,
        },
        "activations": {"bits": None, "ranges": "mse"},
        "sensitivity": {"method": "auto", "compare": []},
        "search": {"method": "auto", "deadline_seconds": None, "drop_per_damage": None},
        "layers": {},
        "target": "onnxruntime-cpu",
        "opset": None,
        "latency_table": None,
        "plan": None,
        "seed": 0,
    }


def test_the_targets_are_those_of_the_planner() -> None:
    assert sorted(get_args(TargetName)) == list(target_names())
    for name in target_names():
        assert WIDTHS_OF_TARGETS.get(name, tuple(range(2, 9))) == target(name).weight_bits


def test_the_opsets_are_those_of_the_planner() -> None:
    assert [one for one in range(30) if _is_taken(opset=one)] == list(OPSETS)


def _is_taken(**members: Any) -> bool:
    try:
        parse_request(request_of(**members))
    except AppError:
        return False
    return True


def test_a_table_of_latencies_is_taken() -> None:
    table = {"conv1": {"int4/channel": 0.12, "float32": 1}, "base_ms": 0.5}
    assert parse_request(request_of(latency_table=table)).model_dump(mode="json")["latency_table"] == table


@pytest.mark.parametrize("limit", ["max_latency_ms", "max_load_ms"])
def test_a_time_may_be_the_only_limit_of_the_least_drop(limit: str) -> None:
    request = parse_request(request_of(objective="accuracy", limits={limit: 5}))
    assert getattr(request.limits, limit) == 5


def test_the_request_of_the_documentation_is_taken() -> None:
    text = """
    {"model_id": "MODEL", "dataset_id": "DATA",
     "budget": {"metric": "top1", "max_drop": 0.01, "kind": "absolute", "confidence": null},
     "objective": "size",
     "limits": {"max_size_bytes": null, "max_bit_operations": null, "max_latency_ms": null, "max_load_ms": null},
     "weights": {"bits": [2, 3, 4, 5, 6, 8], "granularity": "channel", "rounding": "gptq"},
     "activations": {"bits": null},
     "sensitivity": {"method": "auto", "compare": []},
     "search": {"method": "auto", "deadline_seconds": null},
     "layers": {"conv1": {"keep": true}, "fc": {"bits": [8]}},
     "seed": 0}"""
    request = parse_request(parse_object(text.replace("MODEL", MODEL).replace("DATA", DATA)))
    assert request.weights.bits == (2, 3, 4, 5, 6, 8)
    assert request.model_dump(mode="json")["layers"] == {"conv1": {"keep": True}, "fc": {"bits": [8]}}


@given(
    bits=st.lists(st.integers(2, 8), min_size=1),
    drop=st.floats(0, 1, exclude_max=True),
    confidence=st.none() | st.floats(0.5, 0.999),
    layers=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
        st.sampled_from([{"keep": True}, {"keep": False}, {"bits": [4, 2]}, {"min_bits": 2}]),
    ),
    seed=st.integers(0, 2**63 - 1),
)
def test_what_is_stored_reads_back_as_the_samerequest_of(
    bits: list[int], drop: float, confidence: float | None, layers: dict[str, Any], seed: int
) -> None:
    request = parse_request(
        request_of(
            budget={"max_drop": drop, "confidence": confidence}, weights={"bits": bits}, layers=layers, seed=seed
        )
    )
    stored = json.loads(json.dumps(request.model_dump(mode="json")))
    assert parse_request(stored) == request
    assert stored["weights"]["bits"] == sorted(set(bits))


def test_a_request_cannot_be_changed() -> None:
    request = JobRequest(model_id=MODEL)
    with pytest.raises(ValueError, match="frozen"):
        request.seed = 1  # type: ignore[misc]


def test_the_methods_of_a_request_are_those_that_a_job_can_plan_with() -> None:
    from pipeline.methods import CHEAP, DEAR, MEASURED

    named = get_args(Sensitivity.model_fields["method"].annotation)
    assert sorted(named) == sorted(("auto", *MEASURED, *CHEAP, *DEAR))
    assert sorted(get_args(Estimator)) == sorted((*CHEAP, *DEAR))
