"""The runner against numpy: batches, fixed batch sizes, the last batch, refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from evaluation.runner import OnnxRunner
from network.errors import ModelInvalid

Build = Callable[..., bytes]


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((23, 3)).astype(np.float32)


@pytest.fixture
def expected(x: np.ndarray) -> np.ndarray:
    return x @ (np.arange(12, dtype=np.float32).reshape(3, 4) / 7)


@pytest.mark.parametrize("batch", [1, 5, 23, 100])
@pytest.mark.parametrize("fixed", ["N", 1, 4, 23, 64])
@pytest.mark.parametrize("runs", [1, 3])
def test_every_batch_size_gives_every_sample_once(
    linear: Build, x: np.ndarray, expected: np.ndarray, batch: int, fixed: int | str, runs: int
) -> None:
    runner = OnnxRunner(linear(fixed), threads=1, runs=runs)
    assert runner.static_batch == (None if fixed == "N" else fixed)
    np.testing.assert_allclose(runner.first_output({"x": x}, batch), expected, rtol=1e-6, atol=1e-6)


def test_the_same_run_gives_the_same_bits(linear: Build, x: np.ndarray) -> None:
    runs = [OnnxRunner(linear(), threads=2).first_output({"x": x}, 7).tobytes() for _ in range(3)]
    assert len(set(runs)) == 1


def test_other_arrays_are_ignored_and_missing_ones_named(linear: Build, x: np.ndarray) -> None:
    runner = OnnxRunner(linear(), threads=1)
    runner.first_output({"x": x, "other": x}, 8)
    with pytest.raises(ValueError, match=r"missing: \['x'\]"):
        runner.first_output({"other": x}, 8)
    with pytest.raises(ValueError, match="at least 1"):
        runner.first_output({"x": x[:0]}, 8)
    with pytest.raises(ValueError, match="batch"):
        runner.first_output({"x": x}, 0)


def test_inputs_with_different_fixed_batches_are_refused(linear: Build) -> None:
    with pytest.raises(ModelInvalid, match=r"\[2, 3\]"):
        OnnxRunner(linear(2, second_batch=3), threads=1)


def test_what_onnx_runtime_refuses_is_a_network_error(linear: Build) -> None:
    with pytest.raises(ModelInvalid, match="does not load"):
        OnnxRunner(b"nonsense", threads=1)
    with pytest.raises(ModelInvalid, match="does not run"):
        OnnxRunner(linear(), threads=1).first_output({"x": np.zeros((5, 2), np.float32)}, 5)


def test_onnx_runtime_prints_nothing(linear: Build, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelInvalid):
        OnnxRunner(linear(), threads=1).first_output({"x": np.zeros((5, 2), np.float32)}, 5)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("op_type", "y", "attributes", "expected"),
    [
        ("ReduceSum", [], {"keepdims": 0}, lambda x: x.sum(1)),
        ("Transpose", [3, "N"], {"perm": [1, 0]}, lambda x: x[:, :, None]),
    ],
)
def test_outputs_without_a_sample_axis_are_computed_sample_by_sample(
    single_node: Build, x: np.ndarray, op_type: str, y: list[int | str], attributes: dict[str, object], expected: Any
) -> None:
    runner = OnnxRunner(single_node(op_type, ["N", 3], y, **attributes), threads=1)
    np.testing.assert_allclose(runner.first_output({"x": x}, 8), expected(x), rtol=1e-6)
    fixed = OnnxRunner(single_node(op_type, [4, 3], y[:1], **attributes), threads=1)
    with pytest.raises(ModelInvalid, match="first axis"):
        fixed.first_output({"x": x}, 8)


def test_rows_that_samples_have_more_or_less_of_are_filled_up(single_node: Build) -> None:
    x = np.array([[0, 1, 0], [2, 3, 4], [0, 0, 0]], np.float32)
    data = single_node("NonZero", ["N", 3], [2, "found"], TensorProto.INT64)
    found = OnnxRunner(data, threads=1).first_output({"x": x}, 3)
    np.testing.assert_array_equal(found[:, 1], [[1, -1, -1], [0, 1, 2], [-1, -1, -1]])


def test_outputs_may_hold_integers(single_node: Build, x: np.ndarray) -> None:
    data = single_node("ArgMax", ["N", 3], ["N"], TensorProto.INT64, axis=1, keepdims=0)
    np.testing.assert_array_equal(OnnxRunner(data, threads=1).first_output({"x": x}, 10), x.argmax(1))


def test_threads_are_checked(linear: Build) -> None:
    with pytest.raises(ValueError, match="threads"):
        OnnxRunner(linear(), threads=0)
    with pytest.raises(ValueError, match="runs must be at least 1, got 0"):
        OnnxRunner(linear(), threads=1, runs=0)
