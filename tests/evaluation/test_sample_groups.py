"""Samples of different lengths come in groups of arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.dataset import read_dataset
from evaluation.errors import DatasetWrongNames
from evaluation.sample_groups import groups_of
from network.tensor_spec import TensorSpec

IDS = (TensorSpec("ids", "int64", (None, None)),)


def saved(path: Path, **arrays: Any) -> Path:
    np.savez(path / "data.npz", **arrays)
    return path / "data.npz"


def test_groups_are_joined_sample_by_sample(tmp_path: Path) -> None:
    arrays = {
        "short/ids": np.arange(60).reshape(30, 2),
        "short/labels": np.ones((30, 2)),
        "long/ids": np.arange(150).reshape(30, 5),
        "long/labels": np.ones((30, 5)),
    }
    dataset = read_dataset(saved(tmp_path, **arrays), IDS, 1 << 20)
    assert dataset.samples == 60
    assert [dataset.inputs["ids"][row].shape for row in (0, 59)] == [(2,), (5,)]
    assert dataset.labels is not None
    assert dataset.labels[0].tolist() == [1, 1, -1, -1, -1]
    assert dataset.take(np.array([59, 0])).inputs["ids"][0].tolist() == [145, 146, 147, 148, 149]


def test_groups_of_one_length_are_one_array(tmp_path: Path) -> None:
    arrays = {f"{name}/ids": np.zeros((30, 4), np.int64) for name in "ab"}
    assert read_dataset(saved(tmp_path, **arrays), IDS, 1 << 20).inputs["ids"].shape == (60, 4)


def test_groups_hold_the_same_arrays(tmp_path: Path) -> None:
    arrays = {"a/ids": np.zeros((30, 4), int), "b/ids": np.zeros((30, 5), int), "b/labels": np.zeros(30)}
    with pytest.raises(DatasetWrongNames, match="different arrays beside the inputs of the network"):
        read_dataset(saved(tmp_path, **arrays), IDS, 1 << 20)


def test_a_slash_in_the_name_of_an_input_is_no_group() -> None:
    assert groups_of(["model/ids", "labels"], ["model/ids"]) == [{"model/ids": "model/ids", "labels": "labels"}]
    assert groups_of(["a/x", "b/x"], ["x"]) == [{"x": "a/x"}, {"x": "b/x"}]
    assert groups_of(["a/x", "b/z"], ["x"]) == [{"a/x": "a/x", "b/z": "b/z"}]


def test_what_is_given_once_is_the_same_for_all_samples(tmp_path: Path) -> None:
    inputs = (*IDS, TensorSpec("speed", "float32", ()), TensorSpec("style", "float32", (1, 3)))
    style = np.arange(3, dtype=np.float32)[None]
    path = saved(tmp_path, ids=np.zeros((60, 4), np.int64), speed=np.float32(2), style=style)
    dataset = read_dataset(path, inputs, 1 << 20)
    assert dataset.inputs["speed"].tolist() == [2] * 60
    assert (dataset.inputs["style"] == np.repeat(style, 60, axis=0)).all()
