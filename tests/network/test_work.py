"""A network that runs too long is ended with its reason; one that does not is left alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from network.batch_axes import batching_of_another, find_batching
from network.batching import Batching
from network.errors import ModelNotRunnable, TooMuchWork
from network.work import UNLIMITED, TrialRun, WorkLimits

SAMPLES: dict[str, Any] = {"x": np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)}


def looped(rounds: int, *, while_true: bool = False) -> bytes:
    """`y = x + rounds`, one at a time; or without a bound on the rounds, and a condition that stays true."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["goes"]), helper.make_node("Add", ["a", "one"], ["b"])],
        "body",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("a", TensorProto.FLOAT, None)],
        [value("goes", TensorProto.BOOL, []), value("b", TensorProto.FLOAT, None)],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["" if while_true else "rounds", "true", "x"], ["y"], body=body)],
        "g",
        [value("x", TensorProto.FLOAT, ["N", 4])],
        [value("y", TensorProto.FLOAT, ["N", 4])],
        [
            numpy_helper.from_array(np.array(rounds), "rounds"),
            numpy_helper.from_array(np.array(True), "true"),
            numpy_helper.from_array(np.float32(1), "one"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return bytes(model.SerializeToString())


def batching(data: bytes, work: WorkLimits) -> Batching:
    return find_batching(data, onnx.ModelProto.FromString(data), SAMPLES, {}, 1, work)


@pytest.mark.parametrize("while_true", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_loop_without_an_end_is_ended(while_true: bool, threads: int) -> None:
    run = TrialRun(looped(2**62, while_true=while_true), threads, WorkLimits(sample_seconds=0.2))
    with pytest.raises(TooMuchWork, match=r"one sample takes more than 0\.2 s .* a Loop of it does not end"):
        run({"x": SAMPLES["x"][:1]}, 1)


def test_admission_ends_it_at_its_first_run() -> None:
    with pytest.raises(TooMuchWork, match="one sample"):
        batching(looped(2**62), WorkLimits(sample_seconds=0.2))
    data = looped(2**62)
    with pytest.raises(TooMuchWork, match="one sample"):
        batching_of_another(
            data, onnx.ModelProto.FromString(data), Batching(), SAMPLES, 1, WorkLimits(sample_seconds=0.2)
        )


def test_a_loop_with_an_end_is_run() -> None:
    assert batching(looped(10), WorkLimits(60, 600)) == Batching()
    run = TrialRun(looped(10), 1, UNLIMITED)
    np.testing.assert_allclose(run({"x": SAMPLES["x"]}, 40)[0], SAMPLES["x"] + 10, rtol=1e-5)


def test_all_samples_together_have_a_limit_of_their_own() -> None:
    """No run takes less than a picosecond of processor time for forty samples."""
    with pytest.raises(TooMuchWork, match=r"once on 40 samples takes about .* send fewer samples"):
        batching(looped(100_000), WorkLimits(sample_seconds=600, samples_seconds=1e-12))


def test_other_failures_stay_what_they_are() -> None:
    run = TrialRun(looped(3), 1, WorkLimits(sample_seconds=600))
    with pytest.raises(ModelNotRunnable, match="Invalid rank"):
        run({"x": np.ones(4, np.float32)}, 1)


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_limits_are_positive(seconds: float) -> None:
    with pytest.raises(ValueError, match="sample_seconds must be positive"):
        WorkLimits(sample_seconds=seconds)
