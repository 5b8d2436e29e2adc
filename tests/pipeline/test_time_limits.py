"""Small uploads keep a worker for minutes, large ones for as long as real jobs take."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import pipeline
from network.errors import TooMuchWork
from pipeline.events import Event, StageBegan
from pipeline.table import STAGES
from pipeline.time_limits import MIB, SAMPLE, TimeLimit

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


def test_a_limit_grows_up_to_the_most() -> None:
    limit = TimeLimit(timedelta(seconds=10), timedelta(seconds=2), timedelta(seconds=60))
    assert [limit.of(size).total_seconds() for size in (0, MIB // 2, 5 * MIB, 25 * MIB, 100 * MIB)] == [
        10,
        11,
        20,
        60,
        60,
    ]


@pytest.mark.parametrize(("base", "each", "most"), [(0, 1, 1), (2, 1, 1), (1, -1, 1)])
def test_limits_that_are_none_are_refused(base: int, each: int, most: int) -> None:
    with pytest.raises(ValueError, match="expected 0 < base"):
        TimeLimit(base * MINUTE, each * MINUTE, most * MINUTE)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_two_kilobytes_get_minutes_and_a_resnet50_with_its_images_hours(stage: pipeline.stage.Stage) -> None:
    small, large = stage.limit(2048), stage.limit(1100 * MIB)
    assert small <= 10 * MINUTE + timedelta(seconds=2)
    assert large >= HOUR
    if stage.name.startswith("admit"):
        assert small < 61 * timedelta(seconds=1)
        # so that the run says what is wrong, not the end of its process
        assert SAMPLE.of(2048) < small / 2
        assert SAMPLE.of(1100 * MIB) < large / 2


def test_a_job_tells_the_limits_of_its_uploads(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "W"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, ["N", 8])],
        [value("y", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32), "W")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(1).standard_normal((60, 8)).astype(np.float32))
    size = len(model) + (tmp_path / "data.npz").stat().st_size
    began: list[StageBegan] = []

    def keep(event: Event) -> None:
        if isinstance(event, StageBegan):
            began.append(event)
            if event.stage == "normalise":
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.plan(model, tmp_path / "data.npz", progress=keep)
    limits = {stage.name: stage.limit(size) for stage in STAGES}
    assert [(event.stage, event.time_limit) for event in began] == [
        (name, limits[name]) for name in ("admit", "normalise")
    ]


def test_a_small_file_with_a_large_product_is_refused_before_it_is_run() -> None:
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["h"]),
        helper.make_node("Expand", ["one", "shape"], ["big"]),
        helper.make_node("MatMul", ["big", "big"], ["z"]),
        helper.make_node("ReduceMax", ["z"], ["most"], keepdims=0),
        helper.make_node("Add", ["h", "most"], ["y"]),
    ]
    constants = {"W": np.ones((4, 4), np.float32), "one": np.float32(1), "shape": np.array([12_000, 12_000])}
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ["N", 4])],
        [value("y", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()
    with pytest.raises(TooMuchWork, match=r"at least 1\.73e\+12 multiplications"):
        pipeline.plan(model)
