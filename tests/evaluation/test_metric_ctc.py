"""Label error rate against decoding and edit distances by plain loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.errors import MetricNotApplicable
from evaluation.metrics.ctc import decode, edit_distances
from evaluation.metrics.measurement import DropKind
from tests.evaluation.classes_measuring import measure, transcripts

sequences = st.lists(st.integers(0, 3), max_size=9)


def greedy(best, blank):
    return [token for token, _ in itertools.groupby(best) if token != blank]


def levenshtein(first, second):
    table = list(range(len(second) + 1))
    for i, x in enumerate(first, 1):
        before, table[0] = table[0], i
        for j, y in enumerate(second, 1):
            before, table[j] = table[j], min(table[j] + 1, table[j - 1] + 1, before + (x != y))
    return table[-1]


def padded(rows):
    width = max(map(len, rows))
    return np.array([[*row, *[-2] * (width - len(row))] for row in rows], dtype=np.int64).reshape(len(rows), width)


@given(pairs=st.lists(st.tuples(sequences, sequences), min_size=1, max_size=6))
def test_edit_distances_are_those_of_a_table_for_each_pair(pairs):
    first, second = (padded(list(rows)) for rows in zip(*pairs, strict=True))
    np.testing.assert_array_equal(edit_distances(first, second), [levenshtein(*pair) for pair in pairs])


@given(
    rows=st.lists(st.lists(st.integers(0, 2), min_size=8, max_size=8), min_size=1, max_size=5), blank=st.integers(0, 2)
)
def test_decoding_joins_runs_and_drops_blanks(rows, blank):
    decoded = decode(np.array(rows), blank)
    assert [[int(token) for token in row if token >= 0] for row in decoded] == [greedy(row, blank) for row in rows]


@pytest.mark.parametrize("blank", [0, 2, -1])
@pytest.mark.parametrize("labelled", [True, False])
def test_it_is_all_errors_over_all_labels(blank, labelled):
    before, after, labels = transcripts(40, 2.0, 0)
    roll = [each.copy() for each in (before, after)]
    if blank:  # the classes turn so that the blank lies elsewhere
        roll = [np.roll(each, blank, axis=-1) for each in (before, after)]
        labels = np.where(labels < 0, -1, (labels + blank) % 5)
    decoded = [[greedy(row, blank % 5) for row in each.argmax(-1)] for each in roll]
    truth = [[token for token in row if token >= 0] for row in labels] if labelled else decoded[0]
    tokens = sum(map(len, truth))
    rates = [sum(map(levenshtein, each, truth)) / tokens for each in decoded]
    measured = measure("ctc", *roll, labels if labelled else None, blank=blank)
    assert (measured.float_value, measured.quantized_value) == pytest.approx(tuple(rates))
    assert measured.drop() == pytest.approx(rates[1] - rates[0])
    if not labelled:
        assert measured.float_value == 0.0
        assert measured.drop(DropKind.RELATIVE) == measured.drop()


def test_samples_without_tokens_are_no_harm():
    before, after, labels = transcripts(10, 1.0, 1)
    labels[2] = -1
    assert np.isfinite(measure("ctc", before, after, labels).contributions).all()


def test_tokens_on_another_axis():
    before, after, labels = transcripts(10, 1.0, 2)
    moved = [each.transpose(0, 2, 1) for each in (before, after)]
    assert measure("ctc", *moved, labels, axis=1).drop() == measure("ctc", before, after, labels).drop()


def test_a_step_without_a_token_is_a_wrong_one():
    before, after, _ = transcripts(4, 0.0, 3)
    after[1, 3:7] = np.nan
    decoded = [greedy(row, 0) for row in before.argmax(-1)]
    broken = after.argmax(-1)
    broken[1, 3:7] = [91, 92, 93, 94]
    errors = levenshtein(greedy(broken[1], 0), decoded[1])
    assert measure("ctc", before, after).drop() == pytest.approx(errors / sum(map(len, decoded)))
    assert errors >= 3


def test_what_cannot_be_measured_is_refused():
    before, after, labels = transcripts(10, 1.0, 4)
    for blank in (5, -6, 10**20):
        with pytest.raises(MetricNotApplicable, match="expected 0 to 4"):
            measure("ctc", before, after, labels, blank=blank)
    with pytest.raises(MetricNotApplicable, match="pad labels with -1"):
        measure("ctc", before, after, np.maximum(labels, 0))
    with pytest.raises(MetricNotApplicable, match="decodes none"):
        measure("ctc", np.eye(5)[np.zeros((10, 20), int)], after.astype(np.float64))
    with pytest.raises(MetricNotApplicable, match=r"needs an output \[samples, steps, tokens\]"):
        measure("ctc", before[:, 0], after[:, 0], labels)
    with pytest.raises(MetricNotApplicable, match=r"needs labels \[10, n\]"):
        measure("ctc", before, after, labels[:, 0])
