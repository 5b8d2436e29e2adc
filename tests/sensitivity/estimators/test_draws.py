"""The running mean and its standard error against numpy, and where samples lie in values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from network.execution import TorchNetwork
from sensitivity.estimators.draws import Draws
from sensitivity.estimators.eigenvalues import PowerRule
from sensitivity.estimators.sample_layout import SampleLayout, sample_layouts


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


def test_equal_samples_first_do_not_mislead(tokens):
    ids = np.array([[0, 1, 2], [0, 1, 2], [3, 4, 0]])
    assert sample_layouts(TorchNetwork(tokens), {"ids": ids}, ["m"]) == {"m": SampleLayout(0, 3)}


@pytest.mark.parametrize("rule", [{"rtol": 0.0}, {"max_iterations": 0}])
def test_a_power_rule_that_cannot_stop_is_refused(rule):
    with pytest.raises(ValueError, match="must"):
        PowerRule(**rule)
