"""Samples become calls: along any axis, as whole calls, in groups of one length."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from network.batching import Batching, ragged_samples, shape_of_sample, shapes_of_sample

X = np.arange(24, dtype=np.float32).reshape(4, 3, 2)


def test_samples_go_where_the_axis_is() -> None:
    batching = Batching({"state": 1, "speed": None})
    samples = {"x": X, "state": X, "speed": np.full(4, 2, np.float32)}
    call = batching.call(samples)
    assert {name: array.shape for name, array in call.items()} == {"x": (4, 3, 2), "state": (3, 4, 2), "speed": ()}
    assert call["x"] is X
    assert (call["state"][:, 1] == X[1]).all()
    tensors = batching.call_of_tensors({name: torch.from_numpy(array) for name, array in samples.items()})
    assert all((tensors[name].numpy() == array).all() for name, array in call.items())


def test_outputs_come_back_with_the_samples_first() -> None:
    batching = Batching({}, {"hidden": 1, "total": None})
    hidden = np.moveaxis(X, 0, 1)
    assert (batching.by_sample("hidden", hidden) == X).all()
    assert (batching.by_sample("hidden", torch.from_numpy(hidden.copy())).numpy() == X).all()
    assert batching.by_sample("total", X).shape == (1, 4, 3, 2)
    assert batching.by_sample("y", X) is X


def test_all_samples_share_calls_where_nothing_is_against_it() -> None:
    assert Batching().groups({"x": X}, 3) == [slice(0, 3), slice(3, 4)]
    assert Batching(size=2).groups({"x": X}, 3) == [slice(0, 2), slice(2, 4)]
    assert Batching().shares_calls({"x": X})


def test_samples_share_a_call_where_what_belongs_to_the_call_is_equal() -> None:
    batching = Batching({"speed": None})
    groups = batching.groups({"x": X, "speed": np.array([1, 2, 1, 1])}, 2)
    assert [list(rows) for rows in groups] == [[0, 2], [3], [1]]
    assert not batching.shares_calls({"x": X, "speed": np.array([1, 2, 1, 1])})


def test_samples_that_are_calls_share_none() -> None:
    for samples in (np.zeros((3, 2)), np.arange(6).reshape(3, 2)):
        groups = Batching({"x": None}, {}, 1).groups({"x": samples}, 8)
        assert [np.arange(3)[rows].tolist() for rows in groups] == [[0], [1], [2]]
    assert not Batching({"x": None}, {}, 1).shares_calls({"x": np.zeros((3, 2))})


def test_samples_of_one_length_share_a_call() -> None:
    ragged = ragged_samples([np.zeros(length) for length in (3, 0, 3, 5)])
    batching = Batching()
    assert [list(rows) for rows in batching.groups({"x": ragged}, 8)] == [[0, 2], [1], [3]]
    assert [part["x"].shape for part in map(batching.call, batching.batches({"x": ragged}, 8))] == [
        (2, 3),
        (1, 0),
        (1, 5),
    ]
    assert shape_of_sample(ragged) == (5,)


def test_the_shapes_of_a_sample_are_those_of_one_sample() -> None:
    """Not the largest of each input: a prompt has no cache yet."""
    ids = ragged_samples([np.zeros(9), np.zeros(1)])
    past = ragged_samples([np.zeros((2, 0)), np.zeros((2, 8))])
    assert shapes_of_sample({"ids": ids, "past": past}) == {"ids": (1,), "past": (2, 8)}


def test_shapes_of_calls() -> None:
    batching = Batching({"state": 1, "whole": None})
    assert batching.sample_shape("state", (2, 3, 5)) == (2, 5)


@pytest.mark.parametrize("batching", [Batching(), Batching({"a": 1, "b": None}, {"y": 2}, 4)])
def test_the_document_says_all(batching: Batching) -> None:
    assert Batching.of_document(batching.document()) == batching
