"""The estimate of the whole job: when it comes, and what it counts."""

from __future__ import annotations

from dataclasses import replace

import pytest

import pipeline.job_forecast
from pipeline.cost_model import Work
from pipeline.events import WHOLE_JOB, Estimate, StageBegan
from pipeline.job_forecast import job_bytes
from pipeline.job_work import EVALUATIONS, EVALUATIONS_AFTER_ANOTHER, JobWork
from pipeline.machine_speed import MachineSpeed
from sensitivity.anchors import ANCHORS

SPEED = MachineSpeed(sample_seconds=1e-3, load_seconds=0.01, loop_ratio=1.0, mac_seconds=1e-10)
FEW = {"weights": {"bits": [4, 8]}}
LONG = ("calibrate", "cross_layer", "sensitivity", "agreement", "plan", "certify")


@pytest.fixture(autouse=True)
def _known_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.job_forecast, "measure_speed", lambda _context, _inputs: SPEED)


def estimates(run) -> list[Estimate]:
    return [event for event in run.of_kind(Estimate) if event.stage == WHOLE_JOB]


def work_of(run) -> JobWork:
    return JobWork(run.context.workspace.inputs(run.config.calibrate.samples), run.config)


def seconds(work: JobWork, stages) -> float:
    return sum((work.of(stage) for stage in stages), Work()).seconds(SPEED)


def test_the_whole_job_is_estimated_once_before_weights_are_rounded(job, model, samples) -> None:
    run = job(model, samples, FEW)
    run.run()
    (estimate,) = estimates(run)
    before = [event.stage for event in run.events[: run.events.index(estimate)] if isinstance(event, StageBegan)]
    assert before == ["admit", "normalise", "resolve", "reference", "claims"]
    work = work_of(run)
    assert estimate.seconds == pytest.approx(seconds(work, LONG))
    assert estimate.float_passes == pytest.approx(estimate.seconds / (1e-3 * work.inputs.dataset.samples))
    assert estimate.memory_bytes > job_bytes(work, list(LONG)) > 0
    assert job_bytes(work, ["plan"]) <= job_bytes(work, list(LONG))


def test_stages_that_have_a_result_are_not_counted(job, model, samples) -> None:
    results: dict[str, bytes] = {}
    job(model, samples, FEW, results).run()
    other = job(model, samples, {**FEW, "budget": {"metric": "top1", "max_drop": 0.05}}, results)
    other.run()
    (estimate,) = estimates(other)
    assert estimate.seconds == pytest.approx(seconds(work_of(other), ("plan", "certify")))
    again = job(model, samples, FEW, results)
    again.run()
    assert estimates(again) == []


def test_a_job_with_a_deadline_is_not_expected_to_search_for_longer(job, model, samples) -> None:
    run = job(model, samples, {**FEW, "search": {"deadline_seconds": 1}})
    run.run()
    (estimate,) = estimates(run)
    without = seconds(work_of(run), [stage for stage in LONG if stage != "plan"])
    assert estimate.seconds == pytest.approx(without), "the deadline is over when the search begins"


def test_what_is_counted_follows_the_request(job, model, samples) -> None:
    run = job(model, samples, FEW)
    run.run()
    work = work_of(run)
    assert work.measured == [2] * len(run.context.workspace.network().sites)
    samples_of_pass = len(work.inputs.sensitivity_samples)
    assert work.of("cross_layer").samples > 2 * samples_of_pass
    assert work.of("plan").loads == pytest.approx(EVALUATIONS * 3)
    named = replace(run.config.sensitivity, methods=("hawq_v2",))
    assert work.of("sensitivity").samples == 0
    assert JobWork(work.inputs, replace(run.config, sensitivity=named)).of("sensitivity").samples > samples_of_pass
    again = replace(run.config, plan=replace(run.config.plan, drop_per_damage=0.1))
    assert JobWork(work.inputs, again).of("plan").loads == pytest.approx(EVALUATIONS_AFTER_ANOTHER * 3)
    unrounded = replace(run.config, plan=replace(run.config.plan, rounds_whole_plans=False))
    assert JobWork(work.inputs, unrounded).of("plan").seconds(SPEED) < work.of("plan").seconds(SPEED)
    assert work.of("admit") == Work()


def test_a_plan_holds_its_own_codes_whatever_else_was_rounded(job, model, samples) -> None:
    """Those of other formats are read from a file, one weight at a time; calibration has them all in memory."""
    taken = []
    for bits in ([4, 8], [2, 3, 4, 5, 6, 7, 8]):
        run = job(model, samples, {"weights": {"bits": bits}})
        run.run()
        taken.append([job_bytes(work_of(run), [stage]) for stage in ("calibrate", "plan", "certify")])
    (few, plan, certify), (many, *others) = taken
    assert few < many
    assert [plan, certify] == others


def test_of_many_formats_a_few_are_measured(job, model, samples) -> None:
    formats = [f"int{bits}/channel" for bits in range(2, 9)] + [f"int{bits}/tensor" for bits in range(2, 9)]
    run = job(model, samples, {"weights": {"formats": formats}})
    config = replace(run.config, cross_layer=replace(run.config.cross_layer, every=False))
    narrow = job(model, samples, FEW)
    narrow.run()
    inputs = narrow.context.workspace.inputs(narrow.config.calibrate.samples)
    assert set(JobWork(inputs, config).measured) == {ANCHORS}
    every = replace(config, cross_layer=replace(config.cross_layer, every=True))
    assert set(JobWork(inputs, every).measured) == {14}


def test_a_plan_that_the_request_brings_is_rounded_and_certified(job, model, samples) -> None:
    run = job(model, samples, {"plan": {"base": "float32", "layers": {"first": "int8/channel"}}})
    run.run()
    (estimate,) = estimates(run)
    assert estimate.seconds == pytest.approx(seconds(work_of(run), ("calibrate", "certify")))
