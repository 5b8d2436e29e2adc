"""Perplexity against PyTorch's cross entropy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax

from evaluation.errors import MetricNotApplicable
from evaluation.metrics.measurement import DropKind, Unit
from tests.evaluation.classes_measuring import measure, tokens


def oracle(output, labels):
    rows = torch.from_numpy(output.astype(np.float64)).reshape(-1, output.shape[-1])
    loss = torch.nn.functional.cross_entropy(rows, torch.from_numpy(labels).reshape(-1), ignore_index=-1)
    return float(loss.exp())


def test_it_is_the_exponential_of_the_cross_entropy():
    before, after, labels = tokens(50, 1.0, 0)
    measured = measure("perplexity", before, after, labels)
    values = oracle(before, labels), oracle(after, labels)
    assert (measured.float_value, measured.quantized_value) == pytest.approx(values)
    assert measured.drop() == pytest.approx(values[1] - values[0])
    assert measured.drop(DropKind.RELATIVE) == pytest.approx(values[1] / values[0] - 1)
    assert measured.unit is Unit.NONE


def test_a_network_that_knows_nothing_hesitates_between_all_tokens():
    before, _, labels = tokens(50, 1.0, 0)
    assert measure("perplexity", before, np.zeros_like(before), labels).quantized_value == pytest.approx(6.0)


def test_without_labels_it_is_the_exponential_of_the_divergence():
    before, after, _ = tokens(50, 1.0, 0)
    measured = measure("perplexity", before, after)
    assert measured.float_value == 1.0
    assert measured.quantized_value == pytest.approx(np.exp(measure("kl", before, after).drop()))


@pytest.mark.parametrize("labelled", [True, False])
def test_probabilities_and_logits_and_other_axes_are_alike(labelled):
    before, after, labels = tokens(30, 1.0, 1)
    labels = labels if labelled else None
    expected = measure("perplexity", before, after, labels).drop()
    shifted = [each + 7 for each in (before, after)]
    assert measure("perplexity", *shifted, labels).drop() == pytest.approx(expected, rel=1e-4)
    softmaxes = [softmax(each.astype(np.float64), axis=-1) for each in (before, after)]
    assert measure("perplexity", *softmaxes, labels).drop() == pytest.approx(expected, rel=1e-6)
    moved = [each.transpose(0, 2, 1) for each in (before, after)]
    assert measure("perplexity", *moved, labels, axis=1).drop() == expected


def test_a_masked_token_costs_a_bounded_amount():
    before, after, labels = tokens(30, 0.0, 2)
    first = int(labels[0, 0])
    after[0, 0, first] = -np.inf
    measured = measure("perplexity", before, after, labels)
    own = float(torch.nn.functional.cross_entropy(torch.from_numpy(before[0, :1]), torch.tensor([first])))
    more = (100 - own) / (labels >= 0).sum()
    assert np.log(measured.quantized_value / measured.float_value) == pytest.approx(more, rel=1e-5)


def test_what_cannot_be_measured_is_refused():
    before, after, labels = tokens(30, 1.0, 3)
    before[..., 0] = 500.0
    with pytest.raises(MetricNotApplicable, match="next token at each position"):
        measure("perplexity", before, after, np.full_like(labels, 1))
    with pytest.raises(MetricNotApplicable, match="at least 2 tokens"):
        measure("perplexity", before[:, :1, :1], after[:, :1, :1])
