"""Means over samples with their standard errors, and where samples lie in values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from network.execution import TorchNetwork
from network.normalise import from_proto
from sensitivity.estimators.draws import Draws
from sensitivity.estimators.eigenvalues import PowerRule
from sensitivity.estimators.linearisation import joined
from sensitivity.estimators.sample_layout import SampleLayout, _layout, sample_layouts


def test_of_single_samples_it_is_the_mean_and_its_standard_error(rng):
    values = rng.normal(size=50)
    draws = Draws(2)
    for part in np.split(values, [7, 20]):
        draws.add(0, torch.from_numpy(part), len(part))
    mean, stderr = draws.mean_and_stderr()
    assert mean[0] == pytest.approx(values.mean())
    assert stderr[0] == pytest.approx(values.std(ddof=1) / np.sqrt(50))
    assert np.isnan([mean[1], stderr[1]]).all()


def test_a_sum_over_a_batch_counts_for_its_samples(rng):
    """Batches of 10, 10 and 4 samples: the mean is over samples; 2000 repetitions have the spread that is stated."""
    found = []
    for _ in range(2000):
        draws = Draws(1)
        for size in (10, 10, 4):
            draws.add(0, torch.tensor([rng.normal(3.0, 1.0, size=size).sum()]), size)
        found.append(np.concatenate(draws.mean_and_stderr()))
    mean, stderr = np.array(found).T
    assert mean.mean() == pytest.approx(3.0, abs=0.03)
    # samples of unit variance: each batch's mean has variance 1 / size, which the weights approximate
    assert np.square(stderr).mean() == pytest.approx(mean.var(), rel=0.15)


def test_a_single_draw_says_nothing_about_its_spread():
    draws = Draws(1)
    draws.add(0, torch.tensor([6.0]), 3)
    assert [column.tolist() for column in draws.mean_and_stderr()] == [[2.0], [np.inf]]


def test_samples_are_found_wherever_they_lie(tokens, rng):
    ids = rng.integers(5, size=(4, 3))
    layouts = sample_layouts(TorchNetwork(tokens), {"ids": ids}, ["e", "p", "h", "m", "w"])
    expected = {"e": SampleLayout(0, 1), "h": SampleLayout(1, 1), "m": SampleLayout(0, 3), "w": SampleLayout(0, 1)}
    assert layouts == expected
    value = torch.arange(3 * 4 * 2).reshape(12, 2)  # 3 positions of 4 samples
    rows = layouts["m"].rows(value, 4)
    assert rows[1].tolist() == [2, 3, 10, 11, 18, 19]


def test_samples_are_found_among_values_that_are_no_numbers():
    first, second = torch.tensor([[1.0, torch.nan]]), torch.tensor([[torch.nan, 4.0]])
    assert _layout(first, second, torch.cat([first, second])) == SampleLayout(0, 1)
    nothing = torch.full((1, 2), torch.nan)
    assert _layout(nothing, nothing, nothing.repeat(2, 1)) == SampleLayout(0, 1)


def test_equal_samples_first_do_not_mislead(rng):
    """Two blank samples: every layout would hold for them."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], name="transpose", perm=[1, 0, 2]),
        helper.make_node("Reshape", ["t", "merged"], ["m"], name="merge"),
        helper.make_node("Reshape", ["m", "apart"], ["a"], name="part"),
        helper.make_node("Transpose", ["a"], ["y"], name="back", perm=[1, 0, 2]),
    ]
    graph = helper.make_graph(
        nodes,
        "merged",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(np.array([-1, 4]), "merged"),
            numpy_helper.from_array(np.array([3, -1, 4]), "apart"),
        ],
    )
    network = from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))
    x = np.concatenate([np.zeros((2, 3, 4)), rng.normal(size=(1, 3, 4))]).astype(np.float32)
    assert sample_layouts(TorchNetwork(network), {"x": x}, ["m"]) == {"m": SampleLayout(0, 3)}


def test_sums_over_samples_and_one_over_the_batch_join_to_one_over_the_batch():
    of_samples, of_batch = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10.0])
    assert joined([of_samples, of_samples]).tolist() == [2.0, 4.0, 6.0]
    assert joined([of_samples, of_batch]).tolist() == [16.0]


@pytest.mark.parametrize("rule", [{"rtol": 0.0}, {"max_iterations": 0}])
def test_a_power_rule_that_cannot_stop_is_refused(rule):
    with pytest.raises(ValueError, match="must"):
        PowerRule(**rule)
