"""A job as a library call: in a notebook, with files, bytes or arrays, and with nothing of the service."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import pipeline
from app.errors import AppError
from pipeline.events import PlanEvaluated, Progress, StageEnded
from pipeline.store import FolderStore, MemoryStore

REQUEST = {"budget": {"metric": "top1", "max_drop": 0.05}, "weights": {"bits": [4, 8], "rounding": "nearest"}}

WITHOUT_THE_SERVICE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"sqlalchemy", "celery", "kombu", "fastapi", "starlette", "redis", "psycopg", "httpx"}:
            raise ImportError(f"{name} is not there")

sys.meta_path.insert(0, Refuse())
import pipeline

folder = sys.argv[1]
request = {"budget": {"metric": "top1", "max_drop": 0.05}, "weights": {"bits": [4, 8], "rounding": "nearest"}}
result = pipeline.plan(f"{folder}/model.onnx", f"{folder}/data.npz", request)
applied = pipeline.apply(f"{folder}/model.onnx", result.plan, f"{folder}/data.npz")
assert applied.model == result.model
assert applied.certificate["max_drop"] == 0.05
assert {weight["bits"] for weight in pipeline.audit(result.model)["weights"]} <= {4, 8}
print(result.outcome)
"""


@pytest.fixture
def files(tmp_path, model, samples) -> Path:
    (tmp_path / "model.onnx").write_bytes(model)
    np.savez(tmp_path / "data.npz", **samples)
    return tmp_path


def test_it_works_where_nothing_of_the_service_can_be_imported(files):
    program = [sys.executable, "-c", WITHOUT_THE_SERVICE, str(files)]
    done = subprocess.run(program, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert done.stdout.strip() == "met", done.stderr


def test_files_bytes_and_arrays_give_the_same(files, model, samples):
    results = [
        pipeline.plan(files / "model.onnx", files / "data.npz", REQUEST),
        pipeline.plan(model, samples, REQUEST),
        pipeline.plan(str(files / "model.onnx"), {name: array.tolist() for name, array in samples.items()}, REQUEST),
    ]
    assert len({result.model for result in results[:2]}) == 1
    assert results[0].plan["layers"] == results[1].plan["layers"]
    first = results[0]
    assert first.outcome == first.plan["outcome"] == "met"
    assert first.certificate["drop"] <= 0.05
    assert first.frontier["points"]
    assert first.sensitivity["sites"]
    session = onnxruntime.InferenceSession(first.model, providers=["CPUExecutionProvider"])
    assert session.run(None, {"image": samples["image"][:2]})[0].shape == (2, 10)
    # lists are float64 to numpy, and the graph wants float32: read like any other upload
    assert results[2].outcome == "met"


def ran(events: list) -> list[str]:
    return [event.stage for event in events if isinstance(event, StageEnded) and event.ran]


@pytest.mark.parametrize("kind", ["folder", "store"])
def test_a_second_question_repeats_no_analysis(files, model, samples, kind):
    cache = files / "cache" if kind == "folder" else MemoryStore()
    events: list = []
    first = pipeline.plan(model, samples, REQUEST, cache=cache, progress=events.append)
    assert len([event for event in events if isinstance(event, PlanEvaluated)]) == len(
        first.plan["search"]["evaluated"]
    )
    fractions = [event.fraction for event in events if isinstance(event, Progress)]
    assert fractions == sorted(fractions)
    events.clear()
    again = pipeline.plan(model, samples, REQUEST, cache=cache, progress=events.append)
    assert (again.artifacts, ran(events)) == (first.artifacts, [])
    other = pipeline.plan(model, samples, {**REQUEST, "budget": {"max_drop": 0.5}}, cache=cache, progress=events.append)
    assert ran(events) == ["claims", "plan", "certify"]  # `top1` was named before, and now is found
    assert len(other.model) <= len(first.model)


def test_a_call_that_is_cut_short_goes_on(files, model, samples):
    class Interrupted(Exception):
        pass

    def until_agreement(event):
        events.append(event)
        if isinstance(event, Progress) and event.stage == "agreement" and event.fraction > 0.85 * whole:
            raise Interrupted

    events: list = []
    expected = pipeline.plan(model, samples, REQUEST, progress=events.append)
    whole = max(event.fraction for event in events if isinstance(event, Progress) and event.stage == "agreement")
    events.clear()
    with pytest.raises(Interrupted):
        pipeline.plan(model, samples, REQUEST, cache=files / "cache", progress=until_agreement)
    assert "sensitivity" in ran(events)
    events.clear()
    result = pipeline.plan(model, samples, REQUEST, cache=files / "cache", progress=events.append)
    assert result.artifacts == expected.artifacts
    assert ran(events)[0] == "agreement"


def test_bad_requests_are_refused_with_the_codes_of_the_api(model, samples):
    with pytest.raises(AppError, match="max_drop is a fraction") as refused:
        pipeline.plan(model, samples, {"budget": {"max_drop": 5}})
    assert refused.value.code == "budget_invalid"
    with pytest.raises(ValueError, match="layers names 'conv9', which is no layer") as unknown:
        pipeline.plan(model, samples, {"layers": {"conv9": {"keep": True}}})
    assert unknown.value.code == "layers_unknown"
    with pytest.raises(FileNotFoundError):
        pipeline.plan("nowhere.onnx")
    with pytest.raises(AttributeError, match="no attribute 'plans'"):
        pipeline.plans  # noqa: B018


def test_without_samples_they_are_made(model):
    result = pipeline.plan(model, request={"weights": {"bits": [8], "rounding": "nearest"}})
    assert result.certificate["synthetic"]
    assert result.outcome == "met"


def test_the_threads_of_the_caller_are_as_before(model, samples):
    before = torch.get_num_threads()
    pipeline.plan(model, samples, {"weights": {"bits": [8]}}, machine=pipeline.Machine(before + 1))
    assert torch.get_num_threads() == before


def test_a_folder_keeps_the_first_of_two_results_and_drops_chunks_alone(tmp_path):
    store, other = FolderStore(tmp_path / "cache"), FolderStore(tmp_path / "cache")
    assert store.load("stage") is None
    assert not store.exists("stage")
    assert store.store("stage", b"first") == other.store("stage", b"second") == b"first"
    for name in ("a", "b"):
        store.store(f"stage/{name}", name.encode())
    store.store("cached/a", b"kept")
    other.drop("stage/")
    other.drop("no stage/")
    assert [store.load(key) for key in ("stage", "stage/a", "stage/b", "cached/a")] == [b"first", None, None, b"kept"]
    assert not list(tmp_path.rglob(".*"))
