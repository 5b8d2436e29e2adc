"""How many samples run at once: within the memory that the worker has."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from onnx import ModelProto

from evaluation.dataset import Dataset
from evaluation.splits import split
from network.graph import Network
from network.normalise import normalise
from pipeline import workspace
from pipeline.analysis import Scores
from pipeline.config import KEPT_SHARE, RUN_SHARE, SampleConfig
from pipeline.context import Context
from pipeline.search_space import SearchSpace
from pipeline.table import TABLE
from pipeline.workspace import MOST_IN_A_BACKWARD_PASS, MOST_IN_A_RUN, Inputs


@pytest.fixture
def inputs(model: bytes) -> Inputs:
    network: Network = normalise(ModelProto.FromString(model), {"image": (1, 8, 8)})
    dataset = Dataset({"image": np.zeros((600, 1, 8, 8), np.float32)})
    return Inputs(network, dataset, split(600, 0), SampleConfig(0), synthetic=False)


def test_with_much_memory_batches_end_at_their_caps(inputs: Inputs) -> None:
    assert inputs.batch == MOST_IN_A_RUN
    assert inputs.backward_batch == MOST_IN_A_BACKWARD_PASS
    assert SampleConfig.of(0, 4 << 30) == SampleConfig.of(0, 64 << 30) == SampleConfig.of(0, None) == inputs.config


def test_with_little_memory_they_take_its_shares(inputs: Inputs) -> None:
    small = replace(inputs, config=SampleConfig.of(0, 400 * inputs.sample_bytes))
    assert small.batch == int(RUN_SHARE * 400)
    assert small.backward_batch == 2
    assert small.group == int(KEPT_SHARE * 400) // small.batch * small.batch
    assert replace(inputs, config=SampleConfig.of(0, 1)).batch == 1


@pytest.mark.parametrize("opset", [None, 18])
def test_a_job_reads_and_builds_everything_once(job, model, samples, monkeypatch, opset) -> None:
    calls: Counter[str] = Counter()

    def counted(name: str, function):
        def call(*arguments, **options):
            calls[name] += 1
            return function(*arguments, **options)

        return call

    for name in ("read_dataset", "load", "split"):
        monkeypatch.setattr(workspace, name, counted(name, getattr(workspace, name)))
    for owner, name in ((SearchSpace, "build"), (Scores, "combined")):
        monkeypatch.setattr(owner, name, counted(name, getattr(owner, name)))
    opened = Context.open

    def open_counted(context, stage):
        calls[stage] += 1
        return opened(context, stage)

    monkeypatch.setattr(Context, "open", open_counted)  # results that are too large to be held as bytes
    run = job(model, samples, {"weights": {"bits": [4, 8], "rounding": "nearest"}, "opset": opset})
    run.run()
    networks = 1 if opset is None else 2  # at the newest opset for the analysis, at that of the file for the rest
    expected = {"read_dataset": 1, "load": networks, "split": networks, "build": 1, "combined": 1}
    expected |= {"calibrate": 1, "certify": 1}
    assert calls == expected


def test_a_stage_sees_only_what_it_names(job, model, samples) -> None:
    """What lies in the workspace already is refused like what does not: the stage's key does not depend on it."""
    run = job(model, samples, {"weights": {"bits": [8], "rounding": "nearest"}})
    run.run()
    workspace_of_job = run.context.workspace
    readers = {
        "calibrate": workspace_of_job.candidates,
        "resolve": workspace_of_job.resolved,
        "cross_layer": workspace_of_job.scores,
        "agreement": workspace_of_job.analysis,
        "normalise": workspace_of_job.network,
    }
    run.context._stage = replace(TABLE.stages[0], reads=())
    for read in readers.values():
        with pytest.raises(LookupError, match="which its `reads` do not name"):
            read()
