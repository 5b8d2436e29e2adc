"""Samples go into a network where its batch axis is, one call each, and come out without it."""

from __future__ import annotations

import numpy as np

from benchmarks.networks.entry import made
from benchmarks.networks.random_weights import normal
from benchmarks.networks.running import groups_of, outputs_of
from benchmarks.networks.written import written


def run(file, samples):
    return outputs_of(file, file.model, samples)


def test_the_batch_axis_is_where_the_entry_says():
    text = "(float[2, n, 3] s, float[n, 3] x, float gain) => (float[2, n, 3] y) { p = Add(s, x) y = Mul(p, gain) }"
    rng = np.random.default_rng(0)
    samples = {**normal(s=(2, 3), x=(3,))(rng, 5), "gain": np.arange(5, dtype="f")}
    axes = {"s": 1, "y": 1, "gain": None}
    file = made(written(text, {}), lambda _, n: {k: a[:n] for k, a in samples.items()}, batch_axes=axes, samples=5)
    expected = (samples["s"] + samples["x"][:, None]) * samples["gain"][:, None, None]
    np.testing.assert_allclose(run(file, samples)[""]["y"], expected, rtol=1e-6)


def test_a_fixed_batch_gets_as_many_samples_and_what_does_not_fill_it_is_left_out():
    file = made(written("(float[4, 3] x) => (float[4, 3] y) { y = Relu(x) }", {}), normal(x=(3,)), samples=8)
    x = normal(x=(3,))(np.random.default_rng(1), 11)
    np.testing.assert_array_equal(run(file, x)[""]["y"], np.maximum(x["x"][:8], 0))


def test_lengths_that_differ_are_groups_and_truth_is_no_input():
    file = made(written("(float[n, t] x) => (float[n, t] y) { y = Neg(x) }", {}), normal(x=(3,)))
    samples = {"a/x": np.ones((2, 3), "f"), "b/x": np.ones((1, 5), "f"), "a/labels": np.zeros(2)}
    samples["targets.y"] = np.ones(3)
    assert {group: list(arrays) for group, arrays in groups_of(samples).items()} == {"a": ["x"], "b": ["x"]}
    outputs = run(file, {"a/x": samples["a/x"], "b/x": samples["b/x"]})
    assert [[y.shape for y in rows["y"]] for rows in outputs.values()] == [[(3,), (3,)], [(5,)]]
