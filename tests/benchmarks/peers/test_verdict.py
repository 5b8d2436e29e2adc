"""What is said of two files, on samples where what is right is known."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.peers.running import MadeFile
from benchmarks.peers.verdict import lost, verdict

SAMPLES = 4000
FLOAT = np.ones(SAMPLES, dtype=bool)
FLOAT_FILE = MadeFile(1000, FLOAT, 0.0)


def file_of(size, wrong):
    """A file that has the class of the samples with these numbers wrong."""
    right = FLOAT.copy()
    right[list(wrong)] = False
    return MadeFile(size, right, 1.0)


def both_halves(count):
    return [*range(count), *range(SAMPLES // 2, SAMPLES // 2 + count)]


def test_points_lost_and_their_paired_error():
    """Three samples become wrong and one right, of ten: 20 points, from the differences 1, 1, 1, -1 and six zeros."""
    before = np.array([1, 1, 1, 0, 1, 1, 1, 1, 0, 0], dtype=bool)
    after = np.array([0, 0, 0, 1, 1, 1, 1, 1, 0, 0], dtype=bool)
    found = lost(before, after)
    assert found.points == pytest.approx(20)
    assert found.stderr == pytest.approx(100 * np.sqrt(((4 - 10 * 0.2**2) / 9) / 10))


def test_errors_that_two_files_share_are_not_in_the_error_of_their_difference():
    theirs = file_of(10, both_halves(500))
    assert lost(theirs.right, theirs.right).stderr == 0
    assert lost(FLOAT, theirs.right).stderr > 0


def test_the_smallest_file_that_loses_less_by_an_error_stands_beside_theirs():
    ours = {
        "tiny": file_of(10, both_halves(300)),
        "small": file_of(20, both_halves(50)),
        "large": file_of(30, []),
    }
    found = verdict(FLOAT_FILE, file_of(100, both_halves(100)), ours)
    assert found.ours == "small"
    assert (found.our_bytes, found.their_bytes) == (20, 100)
    assert found.our_loss.points == pytest.approx(2.5)
    assert found.their_loss.points == pytest.approx(5)
    assert found.extra.points == pytest.approx(-2.5)
    assert found.smaller
    assert found.smaller_within_error


def test_the_half_that_chooses_has_no_say_in_the_verdict():
    """Ours is perfect where it was chosen, and loses where it is judged."""
    ours = {"lucky": file_of(10, range(SAMPLES // 2, SAMPLES // 2 + 400))}
    theirs = file_of(100, both_halves(100))
    found = verdict(FLOAT_FILE, theirs, ours)
    assert found.extra.points == pytest.approx(15)
    assert not found.smaller
    assert not found.smaller_within_error


def test_a_file_that_takes_more_bytes_is_never_smaller():
    found = verdict(FLOAT_FILE, file_of(10, both_halves(100)), {"large": file_of(11, [])})
    assert found.extra.points < 0
    assert not found.smaller
    assert not found.smaller_within_error


def test_without_one_that_loses_less_the_smaller_file_that_loses_least():
    """Theirs loses nothing, so nothing loses less; the best of ours takes more bytes than theirs."""
    ours = {"tiny": file_of(10, both_halves(40)), "small": file_of(20, both_halves(3)), "large": file_of(200, [])}
    found = verdict(FLOAT_FILE, file_of(100, []), ours)
    assert found.ours == "small"
    assert not found.smaller
    assert found.extra.points == pytest.approx(0.15)
    assert found.smaller_within_error == (found.extra.points <= 2 * found.extra.stderr)


@pytest.mark.parametrize(("wrong", "within"), [(2, True), (40, False)])
def test_a_loss_is_within_error_up_to_two_standard_errors(wrong, within):
    """k of n samples lose sqrt(k) standard errors: 2 are 1.4, 40 are 6.3."""
    found = verdict(FLOAT_FILE, file_of(100, []), {"only": file_of(10, both_halves(wrong))})
    assert not found.smaller
    assert found.smaller_within_error == within


def test_what_is_expected_counts_and_labels_are_told():
    """Ours has more of these labels wrong, and less is expected to be."""
    expected = np.full(SAMPLES, 0.9)
    theirs = MadeFile(100, FLOAT, 1.0, expected - 0.1)
    ours = MadeFile(10, file_of(10, both_halves(100)).right, 1.0, expected - 0.05)
    found = verdict(MadeFile(1000, FLOAT, 0.0, expected), theirs, {"only": ours})
    assert found.their_loss.points == pytest.approx(10)
    assert found.our_loss.points == pytest.approx(5)
    assert found.extra.points == pytest.approx(-5)
    assert found.extra_by_labels.points == pytest.approx(5)
    assert found.smaller
