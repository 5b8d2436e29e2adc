"""How many samples run at once: within the memory that the worker has."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import ModelProto

from evaluation.dataset import Dataset, split
from network.graph import Network
from network.normalise import normalise
from pipeline.workspace import GROUP_SHARE, MOST_IN_A_BACKWARD_PASS, MOST_IN_A_RUN, RUN_SHARE, Inputs
from sensitivity.loss import Loss


@pytest.fixture
def inputs(model: bytes) -> Inputs:
    network: Network = normalise(ModelProto.FromString(model), {"image": (1, 8, 8)})
    dataset = Dataset({"image": np.zeros((600, 1, 8, 8), np.float32)}, None, None)
    return Inputs(network, dataset, split(600, 0), Loss.KL, synthetic=False)


def test_with_much_memory_batches_end_at_their_caps(inputs: Inputs) -> None:
    assert inputs.batch == MOST_IN_A_RUN
    assert inputs.backward_batch == MOST_IN_A_BACKWARD_PASS
    assert replace(inputs, memory_limit_bytes=64 << 30).batch == MOST_IN_A_RUN


def test_with_little_memory_they_take_its_shares(inputs: Inputs) -> None:
    sample = inputs._sample_bytes
    small = replace(inputs, memory_limit_bytes=400 * sample)
    assert small.batch == int(RUN_SHARE * 400)
    assert small.backward_batch == 2
    assert small.group == int(GROUP_SHARE * 400) // small.batch * small.batch
    assert replace(inputs, memory_limit_bytes=1).batch == 1
