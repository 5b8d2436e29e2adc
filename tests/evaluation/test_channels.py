"""Channel groups, and the share explained of each."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.channels import Channels, separating_axis
from evaluation.metrics.claim import Claim, Measured, measure
from evaluation.metrics.measurement import DropKind
from evaluation.metrics.null_outputs import mean_outputs, other_samples
from evaluation.metrics.truth import Truth

SAMPLES = 400


def boxes(seed: int = 0) -> np.ndarray:
    """[samples, 6, 20]: four coordinates in pixels that grow with the place, two scores near 0."""
    generator = np.random.default_rng(seed)
    pixels = 10 * generator.standard_normal((SAMPLES, 4, 20)) + 100 * np.arange(20)
    scores = 0.01 * generator.random((SAMPLES, 2, 20))
    return np.concatenate([pixels, scores], 1).astype(np.float32)


def explained(before: np.ndarray, after: np.ndarray) -> Measured:
    return measure([Claim("explained", ("y",))], {"y": before}, {"y": after}, Truth())


def test_the_axis_that_separates_meanings() -> None:
    assert separating_axis(boxes()) == 1
    assert separating_axis(np.swapaxes(boxes(), 1, 2)) == 2
    assert separating_axis(np.zeros((5, 1))) is None
    assert separating_axis(np.zeros((5,))) is None


@pytest.mark.parametrize("null", [mean_outputs, other_samples])
def test_a_network_that_knows_nothing_explains_nothing_of_any_channel(null) -> None:
    """Though its boxes lie where boxes lie: what positions differ in is not what samples differ in."""
    before = boxes()
    after = null({"y": before})["y"]
    drops = explained(before, after).drops(DropKind.ABSOLUTE, 0.02)
    assert len(drops) == 6
    assert (drops > 0.99).all()


def test_scores_are_not_drowned_by_pixels() -> None:
    before = boxes()
    after = before.copy()
    after[:, 5] = 0.005
    measured = explained(before, after)
    assert measured.every[measured.worst(DropKind.ABSOLUTE, 0.02)][1].part == "y[5]"
    assert measured.drop(DropKind.ABSOLUTE, 0.02) > 0.99


def test_copies_of_the_input_explain_nothing() -> None:
    """A cache of nine old steps and a new one: the new one alone is measured."""
    generator = np.random.default_rng(0)
    before = generator.standard_normal((SAMPLES, 10, 1)).astype(np.float32)
    after = before.copy()
    after[:, 9] += 0.5 * generator.standard_normal((SAMPLES, 1)).astype(np.float32)
    drops = [
        part.drop()
        for _, part in measure(
            [Claim("explained", ("y",), None, {"axis": 2})], {"y": before}, {"y": after}, Truth()
        ).every
    ]
    assert drops == pytest.approx([0.25], rel=0.2)


def test_r2_against_targets_that_are_the_float_outputs_is_the_share_explained() -> None:
    before = boxes()
    after = before + 0.1 * np.random.default_rng(1).standard_normal(before.shape).astype(np.float32)
    truth = Truth({"targets": before})
    r2 = measure([Claim("r2", ("y",), None, {"axis": 1})], {"y": before}, {"y": after}, truth)
    for (_, part), (_, other) in zip(r2.every, explained(before, after).every, strict=True):
        assert part.drop() == pytest.approx(part.float_value - part.quantized_value)
        assert part.drop() == pytest.approx(other.drop(), rel=1e-6)


def test_a_channel_that_never_varies_is_measured_by_its_size() -> None:
    before = boxes()
    before[:, 2] = 7.0
    channels = Channels.of(before)
    assert channels.constant.tolist() == [False, False, True, False, False, False]
    after = before.copy()
    after[:, 2] = 7.7
    assert explained(before, after).drops(DropKind.ABSOLUTE, 0.02)[2] == pytest.approx(0.01, rel=1e-3)


def test_many_channels_are_put_together_and_each_keeps_its_variance() -> None:
    before = np.random.default_rng(0).standard_normal((SAMPLES, 1000)).astype(np.float32) * np.arange(1, 1001)
    channels = Channels.of(before)
    assert (channels.channels, channels.groups, channels.edges[-1]) == (1000, 256, 1000)
    after = 1.0001 * before
    after[:, 0] = 0
    assert explained(before, after).drops(DropKind.ABSOLUTE, 0.02)[0] == pytest.approx(0.25, rel=0.2)
