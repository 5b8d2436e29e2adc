"""Rank correlation and retrieval against scipy, scikit-learn and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics.pairwise import cosine_similarity

from evaluation.errors import MetricNotApplicable
from evaluation.metrics import embeddings
from evaluation.metrics.measurement import Measurement
from evaluation.metrics.pair import Pair
from evaluation.metrics.registry import metric_of
from evaluation.metrics.truth import Truth

NAMES = ("rank_correlation", "recall_at_k")


def measure(name, before, after, truth=None, **options) -> Measurement:
    (measured,) = metric_of(name).measure(Pair(("e",), (before,), (after,), Truth(truth or {}), options))
    return measured


def case(samples=20, noise=0.5, seed=0, features=6):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 4, samples)
    centres = np.random.default_rng(9).normal(size=(4, features))
    before = (centres[labels] + 0.8 * generator.normal(size=(samples, features))).astype(np.float32)
    after = (before + noise * generator.normal(size=before.shape)).astype(np.float32)
    return before, after, labels


def test_the_correlation_of_few_embeddings_is_that_of_all_pairs():
    before, after, _ = case(17)
    rows, columns = np.triu_indices(17, 1)
    wanted = spearmanr(*(cosine_similarity(each.astype(float))[rows, columns] for each in (before, after))).statistic
    measured = measure("rank_correlation", before, after)
    assert measured.quantized_value == pytest.approx(wanted)
    assert measured.drop() == pytest.approx(1 - wanted)


def test_a_set_of_pairs_stands_for_all():
    before, after, _ = case(300)
    rows, columns = np.triu_indices(300, 1)
    wanted = spearmanr(*(cosine_similarity(each.astype(float))[rows, columns] for each in (before, after))).statistic
    assert measure("rank_correlation", before, after).quantized_value == pytest.approx(wanted, abs=0.02)


@pytest.mark.parametrize("ties", [False, True])
def test_weights_of_single_scores_are_copies(ties):
    generator = np.random.default_rng(3)
    targets = generator.normal(size=40)
    before, after = (targets + s * generator.normal(size=40) for s in (0.3, 0.8))
    if ties:
        targets, before, after = (each.round() for each in (targets, before, after))
    measured = measure("rank_correlation", before, after, {"targets": targets})
    assert measured.float_value == pytest.approx(spearmanr(targets, before).statistic)
    weights = generator.multinomial(40, np.full(40, 1 / 40), 5)
    drops = measured.weighted(weights.astype(float))
    for copies, drop in zip(weights, drops, strict=True):
        one, two, three = (np.repeat(each, copies) for each in (targets, before, after))
        assert drop == pytest.approx(spearmanr(one, two).statistic - spearmanr(one, three).statistic)


@pytest.mark.parametrize("k", [1, 5])
def test_recall_is_that_of_a_plain_loop(k):
    before, after, labels = case(30)
    labels[:3] = -1
    values = []
    kept = []
    for output in (before, after):
        close = cosine_similarity(output.astype(float))
        np.fill_diagonal(close, -2)
        nearest = np.argsort(-close, axis=1)[:, :k]
        kept.append(nearest)
        values.append(np.mean([labels[i] in labels[nearest[i]] for i in range(3, 30)]))
    measured = measure("recall_at_k", before, after, {"labels": labels}, k=k)
    assert [measured.float_value, measured.quantized_value] == pytest.approx(values)
    share = np.mean([len(set(one) & set(two)) / k for one, two in zip(*kept, strict=True)])
    measured = measure("recall_at_k", before, after, k=k)
    assert measured.float_value == 1.0
    assert measured.quantized_value == pytest.approx(share)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("with_labels", [False, True])
def test_equal_outputs_lose_nothing_noise_loses_more_and_a_null_network_most(name, with_labels):
    before, _, labels = case(200)
    truth = {"labels": labels} if with_labels else {}
    assert measure(name, before, before.copy(), truth).drop() == pytest.approx(0.0, abs=1e-12)
    drops = [measure(name, before, case(200, noise)[1], truth).drop() for noise in (0.1, 0.5, 2.0)]
    assert drops == sorted(drops)
    assert drops[-1] > 0.2
    for null in (np.roll(before, 1, axis=0), np.zeros_like(before) + before.mean(0)):
        assert measure(name, before, null, truth).drop() > max(drops[1], 0.5)


@pytest.mark.parametrize("name", NAMES)
def test_lengths_and_rotations_change_nothing(name):
    before, after, _ = case(40)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]
    lengths = np.random.default_rng(2).uniform(0.5, 2, (40, 1))
    plain = measure(name, before, after)
    assert measure(name, before, (after @ rotation) * lengths).drop() == pytest.approx(plain.drop())
    folded = measure(name, before.reshape(40, 2, 3), after.reshape(40, 2, 3))
    assert folded.drop() == plain.drop()


def test_nothing_finite_is_the_worst():
    before, after, labels = case(40)
    for wrong in (np.nan, np.inf):
        broken = np.full_like(before, wrong)
        assert measure("rank_correlation", before, broken).quantized_value == pytest.approx(-1.0)
        assert measure("rank_correlation", before[:, 0], broken[:, 0]).quantized_value == pytest.approx(-1.0)
        assert measure("recall_at_k", before, broken).quantized_value == 0.0
        assert measure("recall_at_k", before, broken, {"labels": labels}).quantized_value == 0.0
    some = after.copy()
    some[3, 2] = np.nan
    for name in NAMES:
        assert measure(name, before, some).drop() > measure(name, before, after).drop()


@pytest.mark.parametrize(("name", "single"), [("rank_correlation", True), ("rank_correlation", False)])
def test_the_standard_error_is_the_spread_over_data_sets(name, single):
    found = []
    for seed in range(120):
        before, after, _ = case(80, 0.7, seed)
        found.append(measure(name, before[:, 0], after[:, 0]) if single else measure(name, before, after))
    spread = np.std([each.drop() for each in found], ddof=1)
    assert np.mean([each.stderr() for each in found]) == pytest.approx(spread, rel=0.25)


def test_the_standard_error_of_recall_is_about_further_queries():
    """That the gallery is a sample too makes the spread a little larger."""
    found = []
    for seed in range(200):
        before, after, labels = case(100, 0.7, seed)
        found.append(measure("recall_at_k", before, after, {"labels": labels}))
    spread = np.std([each.drop() for each in found], ddof=1)
    assert np.mean([each.stderr() for each in found]) == pytest.approx(spread, rel=0.25)


@pytest.mark.timeout(60)  # it takes one second
def test_draws_spread_as_the_standard_error_says():
    before, after, _ = case(500)
    measured = measure("rank_correlation", before, after)
    weights = np.random.default_rng(0).multinomial(500, np.full(500, 1 / 500), 1000).astype(float)
    drops = measured.weighted(weights)
    assert drops.std() == pytest.approx(measured.stderr(), rel=0.25)


def test_ranks_that_ignore_weights_are_noticed(monkeypatch):
    monkeypatch.setattr(embeddings._Ranked, "of", lambda self, weights: np.tile(self.places + 0.5, (len(weights), 1)))
    before, after, _ = case(21)
    with np.errstate(all="ignore"):
        wrong = measure("rank_correlation", before[:, 0], after[:, 0]).weighted(np.arange(21.0)[None])
    monkeypatch.undo()
    right = measure("rank_correlation", before[:, 0], after[:, 0]).weighted(np.arange(21.0)[None])
    assert abs(wrong - right) > 1e-3


@pytest.mark.parametrize(
    ("name", "output", "truth", "options", "text"),
    [
        ("recall_at_k", np.ones((4, 1), np.float32), {}, {}, "needs embeddings"),
        ("recall_at_k", np.eye(4, dtype=np.float32), {}, {"k": 4}, "got k = 4; expected 1 to 3"),
        ("recall_at_k", np.eye(4, dtype=np.float32), {}, {"k": 0}, "got k = 0"),
        ("recall_at_k", np.eye(4, dtype=np.float32), {"labels": np.arange(4)}, {}, "share a label"),
        ("recall_at_k", np.eye(4, dtype=np.float32), {"labels": np.zeros((4, 2))}, {}, r"shape \[4, 2\]"),
        ("rank_correlation", np.ones((4, 2), np.float32), {}, {}, "different similarities"),
        ("rank_correlation", np.ones((4, 1), np.float32), {}, {}, "different scores"),
        ("rank_correlation", np.eye(2, dtype=np.float32), {}, {}, "at least 3"),
    ],
)
def test_what_cannot_be_measured_is_refused(name, output, truth, options, text):
    with pytest.raises(MetricNotApplicable, match=text):
        measure(name, output, output, truth, **options)
