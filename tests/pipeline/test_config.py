"""A stage's slice is all that it sees of a request, and its key holds all of the slice."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from app.errors import AppError
from app.schemas.job_request import JobRequest
from app.schemas.parsing import parse_request
from pipeline.certificate_config import CertificateConfig
from pipeline.config import JobConfig, SampleConfig
from pipeline.configure import configure
from pipeline.context import stage_keys
from pipeline.stage import UPLOADS, Machine
from pipeline.table import TABLE
from planner.errors import PlannerError

PLAN = {"version": 1, "layers": [{"name": "fc", "format": "int4/channel"}]}
OTHER_PLAN = {"version": 1, "layers": [{"name": "fc", "format": "int4/channel", "rounded_with": ["int4/channel"]}]}

# values that a member of a request may have, by its path; None leaves it out
MEMBERS: dict[tuple[str, ...], list[Any]] = {
    ("budget", "metric"): [None, "top1", "agreement", "kl", "cosine"],
    ("budget", "max_drop"): [None, 0.01, 0.5],
    ("budget", "kind"): [None, "relative"],
    ("budget", "confidence"): [None, 0.9, 0.95],
    ("objective",): [None, "bit_operations", "latency", "accuracy"],
    ("limits", "max_size_bytes"): [None, 1000, 2000],
    ("limits", "max_latency_ms"): [None, 1.5],
    ("limits", "max_load_ms"): [None, 2.5],
    ("weights", "bits"): [None, [2, 4], [4, 8], [8]],
    ("weights", "granularity"): [None, "tensor", "block"],
    ("weights", "symmetric"): [None, False],
    ("weights", "formats"): [None, None, ["int4/channel", "int8/channel"], ["power4/channel"]],
    ("weights", "rounding"): [None, "nearest"],
    ("weights", "refinement"): [None, "none", "sequential"],
    ("weights", "leftovers"): [None, "float32"],
    ("weights", "requantize"): [None, True],
    ("activations", "bits"): [None, [8], [4, 8]],
    ("activations", "ranges"): [None, "minmax"],
    ("sensitivity", "method"): [None, "hawq_v2", "noise", "hawq"],
    ("sensitivity", "compare"): [None, ["hawq_v2"], ["m_fac", "noise"]],
    ("search", "method"): [None, "bisection"],
    ("search", "deadline_seconds"): [None, 5.0, 60.0],
    ("layers", "fc"): [None, {"keep": True}, {"bits": [3]}, {"bits": [8]}, {"min_bits": 4}, {"same_as": "conv"}],
    ("layers", "conv"): [None, {"formats": ["codebook3/channel"]}, {"min_bits": 3}],
    ("target",): [None, "storage-only", "integer-w8-a8"],
    ("opset",): [None, 18, 21],
    ("latency_table",): [None, {"fc": {"int4/channel": 0.25}}, {"fc": {"int4/channel": 0.5}, "base_ms": 1.0}],
    ("plan",): [None, None, PLAN, OTHER_PLAN],
    ("seed",): [None, 1, 2],
}
SLICES = [stage.name for stage in TABLE.stages if stage.name in {field.name for field in dataclasses.fields(JobConfig)}]
MACHINES = [Machine(), Machine(2), Machine(1, 1 << 30), Machine(1, 8 << 30), Machine(2, 1 << 30)]


def request_of(chosen: dict[tuple[str, ...], Any]) -> dict[str, Any]:
    request: dict[str, Any] = {"model_id": "a" * 64, "dataset_id": "b" * 64}
    for path, value in chosen.items():
        if value is not None:
            place = request
            for name in path[:-1]:
                place = place.setdefault(name, {})
            place[path[-1]] = value
    return request


@st.composite
def jobs(draw: st.DrawFn) -> tuple[JobConfig, JobConfig]:
    """The slices of two jobs that differ in some members, or in the machine."""
    some = st.sets(st.sampled_from(sorted(MEMBERS)), max_size=5)
    first = {path: draw(st.sampled_from(MEMBERS[path])) for path in draw(some)}
    second = first | {path: draw(st.sampled_from(MEMBERS[path])) for path in draw(some)}
    machines = draw(st.sampled_from(MACHINES)), draw(st.sampled_from(MACHINES))
    job_ids = draw(st.sampled_from([("one", "one"), ("one", "other")]))
    try:
        pair = [
            configure(parse_request(request_of(chosen)), machine, job_id)
            for chosen, machine, job_id in zip((first, second), machines, job_ids, strict=True)
        ]
    except (AppError, PlannerError):
        assume(False)
    return pair[0], pair[1]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(jobs())
def test_keys_are_equal_where_slices_are_and_nowhere_else(pair):
    """For the same inputs: what a stage reads has its part in the key, too."""
    read = {name: "the same" for stage in TABLE.stages for name in stage.reads}
    for stage in (stage for stage in TABLE.stages if stage.name in SLICES):
        first, second = (getattr(config, stage.name) for config in pair)
        assert (stage.key(first, read) == stage.key(second, read)) == (first == second), stage.name


@pytest.mark.parametrize("stage", TABLE.stages, ids=lambda stage: stage.name)
def test_a_stage_takes_its_slice(stage):
    parameters = list(inspect.signature(stage.run).parameters.values())
    assert len(parameters) == 2
    assert parameters[0].annotation == "Context"
    kinds = (JobConfig, CertificateConfig)
    slices = {field.name: field.type for kind in kinds for field in dataclasses.fields(kind)}
    assert parameters[1].annotation == slices[stage.name].removesuffix(" | None")


def test_the_context_of_a_stage_holds_nothing_of_the_request(job, model, samples):
    """Not even in what it keeps for itself: nothing that can be reached from it is a part of the request."""
    run = job(model, samples, {"budget": {"max_drop": 0.123}, "search": {"deadline_seconds": 4567.0}})
    held, seen = [run.context], set()
    while held:
        value = held.pop()
        if id(value) in seen or isinstance(value, type(run)):
            continue
        seen.add(id(value))
        assert not isinstance(value, (JobConfig, JobRequest)), "a stage could read what its key lacks"
        assert not (isinstance(value, float) and value in (0.123, 4567.0))
        held += list(vars(value).values()) if hasattr(value, "__dict__") and not callable(value) else []
        held += list(value.values()) if isinstance(value, dict) else []
        held += list(value) if isinstance(value, (list, tuple, set)) else []
    assert len(seen) > 10


def test_facts_of_the_machine_are_in_the_slices_that_depend_on_them():
    def slices(machine: Machine, **request: Any) -> JobConfig:
        return configure(parse_request({"model_id": "a" * 64, **request}), machine, "job")

    def differing(first: JobConfig, second: JobConfig) -> set[str]:
        return {name for name in SLICES if getattr(first, name) != getattr(second, name)}

    measured = {"objective": "latency"}
    assert differing(slices(Machine(1)), slices(Machine(2))) == set()
    assert differing(slices(Machine(1), **measured), slices(Machine(2), **measured)) == {"latency", "certify"}
    loaded = {"limits": {"max_load_ms": 5.0}}
    assert differing(slices(Machine(1), **loaded), slices(Machine(2), **loaded)) == {"certify"}
    given_table = {**measured, "latency_table": {"fc": {"int4/channel": 1.0}}}
    assert differing(slices(Machine(1), **given_table), slices(Machine(2), **given_table)) == set()
    assert differing(slices(Machine(1, 4 << 30)), slices(Machine(1))) == set()
    small = differing(slices(Machine(1, 1 << 30)), slices(Machine(1)))
    assert small == set(SLICES) - {"admit", "normalise", "latency"}
    assert SampleConfig.of(0, 1 << 30) != SampleConfig.of(0, None)


def test_another_budget_changes_the_keys_of_the_plan_and_what_follows():
    def keys(**request: Any) -> dict[str, str]:
        config = configure(parse_request({"model_id": "a" * 64, **request}), Machine(), "job")
        return stage_keys(TABLE.needed(config), config, {"model": "m", "dataset": "d"})

    before = keys()
    chosen, searched = {"plan", "certify"}, {"resolve", "plan", "certify"}
    untouched = {*UPLOADS, "admit", "normalise"}
    for request, changed in (
        # whether a metric can tell a network from one that knows nothing depends on the budget
        ({"budget": {"max_drop": 0.5}}, {"claims", *chosen}),
        ({"outputs": {"y": {"metric": "kl"}}}, {"claims", *chosen}),
        ({"objective": "accuracy", "limits": {"max_size_bytes": 1000}}, searched),
        # coded formats are offered where bytes alone count
        ({"objective": "bit_operations"}, set(before) - untouched - {"reference", "claims"}),
        ({"layers": {"fc": {"min_bits": 6}}}, searched),
        ({"search": {"method": "bisection"}}, chosen),
        ({"weights": {"refinement": "none"}}, chosen),
        ({"layers": {"fc": {"formats": ["power4/channel"]}}}, set(before) - untouched - {"reference", "claims"}),
        # what the outputs weigh decides what damage is, and not how weights are rounded
        ({"outputs": {"y": {"weight": 2.0}}}, set(before) - untouched - {"reference", "resolve", "calibrate"}),
        ({"seed": 1}, set(before) - untouched),
    ):
        after = keys(**request)
        assert {name for name in before if before[name] != after[name]} == changed, request


LAYERS = ("conv1", "conv2", "fc")
REQUESTS = {
    "search": {"weights": {"bits": [2, 4, 8]}, "activations": {"bits": [8]}, "sensitivity": {"method": "noise"}},
    "given latencies": {
        "weights": {"bits": [4, 8], "rounding": "nearest"},
        "objective": "latency",
        "latency_table": {name: {"int4/channel": 0.5, "int8/channel": 1.0} for name in LAYERS},
    },
    "given plan": {
        "plan": {
            "version": 1,
            "layers": [{"name": name, "format": "int3/channel"} for name in ("conv1", "conv2", "fc")],
        }
    },
}


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
def test_a_stage_run_twice_from_one_slice_gives_the_same_bytes(job, model, samples, request_):
    """Also with other threads and more memory, which may only make it faster."""
    runs = [job(model, samples, request_, machine=machine) for machine in (Machine(1), Machine(2, 8 << 30))]
    results = [run.run() for run in runs]
    assert runs[0].keys == runs[1].keys
    for stage in runs[0].ran:
        key = runs[0].keys[stage]
        assert runs[0].results[key] == runs[1].results[key], stage
    assert results[0].artifacts == results[1].artifacts


def test_coded_formats_are_offered_where_bytes_alone_count() -> None:
    def coded(**request: Any) -> bool:
        config = configure(parse_request({"model_id": "a" * 64, **request}), Machine(), "job")
        return bool(config.resolve.formats.coded) and bool(config.calibrate.candidates.coded)

    assert coded()
    assert coded(target="storage-only")
    assert coded(layers={"fc": {"bits": [3]}})
    assert coded(objective="accuracy", limits={"max_size_bytes": 1000})
    for request in (
        {"weights": {"bits": [2, 3, 4, 5, 6, 7, 8]}},
        {"weights": {"granularity": "block"}},
        {"weights": {"formats": ["int4/channel"]}},
        {"activations": {"bits": [8]}},
        {"objective": "bit_operations"},
        {"objective": "latency"},
        {"limits": {"max_latency_ms": 5.0}},
        {"limits": {"max_bit_operations": 10**9}},
        {"target": "integer-w8-a8"},
    ):
        assert not coded(**request), request
