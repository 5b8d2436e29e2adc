"""How many samples run at once: within the memory that the worker has."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import ModelProto

from evaluation.dataset import Dataset
from evaluation.splits import split
from network.graph import Network
from network.normalise import normalise
from pipeline.config import KEPT_SHARE, RUN_SHARE, SampleConfig
from pipeline.workspace import MOST_IN_A_BACKWARD_PASS, MOST_IN_A_RUN, Inputs


@pytest.fixture
def inputs(model: bytes) -> Inputs:
    network: Network = normalise(ModelProto.FromString(model), {"image": (1, 8, 8)})
    dataset = Dataset({"image": np.zeros((600, 1, 8, 8), np.float32)}, None, None)
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
