"""The sequential test: wrong answers are as rare as promised, right ones come early, certain ones are certain."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.sequential import SequentialTest, Verdict

BATCH = 32


def population(lost: int, won: int, size: int) -> np.ndarray:
    return np.concatenate([np.ones(lost), -np.ones(won), np.zeros(size - lost - won)])


def read(values: np.ndarray, limit: float, seed: int, **arguments: float) -> tuple[Verdict, int]:
    """The first verdict and how many values it took, in a random order."""
    order = np.random.default_rng(seed).permutation(len(values))
    test = SequentialTest(len(values), limit, (-1.0, 1.0), **arguments)
    for start in range(0, len(values), BATCH):
        verdict = test.update(values[order[start : start + BATCH]])
        if verdict is not Verdict.OPEN:
            return verdict, min(start + BATCH, len(values))
    return Verdict.OPEN, len(values)


@pytest.mark.parametrize(("lost", "won"), [(8, 0), (30, 20), (0, 10)])
def test_wrong_verdicts_are_rare_even_at_the_limit(lost, won):
    """300 orders with the mean exactly at the limit, where both answers are wrong to be sure of.

    By Ville's inequality each comes with a chance of at most 0.1, so of 300 orders more than 48 give it with a chance
    below 0.1 % (binomial).
    """
    values = population(lost, won, 320)
    limit = (lost - won) / 320
    verdicts = [read(values, limit, seed, error=0.1)[0] for seed in range(300)]
    assert verdicts.count(Verdict.WITHIN) <= 48
    assert verdicts.count(Verdict.BEYOND) <= 48


@pytest.mark.parametrize(("lost", "won", "right"), [(60, 10, Verdict.BEYOND), (2, 60, Verdict.WITHIN)])
def test_clear_cases_end_early(lost, won, right):
    verdicts, counts = zip(*(read(population(lost, won, 1000), 0.01, seed) for seed in range(20)), strict=True)
    assert set(verdicts) == {right}
    assert np.mean(counts) < 800


def test_the_answer_comes_before_the_end_when_the_rest_cannot_turn_it():
    """11 lost of 100 with a limit of 0.10: certain as soon as the others are too few to be won, without any bet."""
    test = SequentialTest(100, 0.10, (0.0, 1.0), error=1e-300)
    assert test.update(np.ones(10)) is Verdict.OPEN
    assert test.update(np.ones(1)) is Verdict.BEYOND
    within = SequentialTest(100, 0.10, (0.0, 1.0), error=1e-300)
    assert within.update(np.zeros(90)) is Verdict.OPEN  # ten more could be lost: at the limit, but not counted certain
    assert within.update(np.zeros(1)) is Verdict.WITHIN


def test_batches_do_not_matter_and_a_verdict_stays():
    values = np.random.default_rng(0).choice([-1.0, 0.0, 1.0], 300, p=[0.05, 0.75, 0.2])
    whole, single = (SequentialTest(300, 0.01, (-1.0, 1.0)) for _ in range(2))
    assert whole.update(values) is Verdict.BEYOND
    verdicts = [single.update(values[index : index + 1]) for index in range(300)]
    first = verdicts.index(Verdict.BEYOND)
    assert set(verdicts[first:]) == {Verdict.BEYOND}
    assert set(verdicts[:first]) == {Verdict.OPEN}


def test_variance_is_found_out_not_given():
    """The same distance from the limit takes fewer samples when the numbers scatter less."""
    generator = np.random.default_rng(1)
    counts = []
    for scatter in (0.05, 0.3):
        values = np.clip(generator.normal(0.03, scatter, 1000), -1, 1)
        counts.append(read(values - values.mean() + 0.03, 0.01, 2)[1])
    assert counts[0] < counts[1]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((0, 0.1, (0.0, 1.0)), "population >= 1"),
        ((10, 0.1, (1.0, 1.0)), "finite bounds low < high"),
        ((10, 0.1, (0.0, float("inf"))), "finite bounds low < high"),
        ((10, 0.1, (0.0, 1.0), 1.0), "0 < error < 1"),
    ],
)
def test_what_cannot_be_tested_is_refused(arguments, text):
    with pytest.raises(ValueError, match=text):
        SequentialTest(*arguments)


def test_values_outside_the_bounds_or_too_many_are_refused():
    with pytest.raises(ValueError, match="expected values from 0 to 1"):
        SequentialTest(10, 0.1, (0.0, 1.0)).update(np.array([-0.5]))
    with pytest.raises(ValueError, match="more than the 2 values"):
        SequentialTest(2, 0.1, (0.0, 1.0)).update(np.zeros(3))
