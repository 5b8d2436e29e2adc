"""The null test: what a metric says of networks that know nothing."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from evaluation.metrics.claim import Claim
from evaluation.metrics.measurement import DropKind
from evaluation.metrics.null_outputs import mean_output, mean_outputs, other_samples
from evaluation.metrics.truth import Truth
from evaluation.nulls import MEAN, OTHER_SAMPLES, blind_to, is_blind, null_drops
from evaluation.outputs import facts_of

Outputs = dict[str, NDArray[np.generic]]
SAMPLES = 90
rng = np.random.default_rng(0)

# what a published face detector's certificate could not tell apart: pixels and probabilities in one output
ROWS = np.concatenate([rng.uniform(0, 640, (SAMPLES, 20, 4)), 0.02 * rng.random((SAMPLES, 20, 2))], axis=2).astype("f")


def drops(metric: str, outputs: Outputs, max_drop: float = 0.01, **truth: NDArray[np.generic]) -> dict[str, float]:
    claim = Claim(metric, tuple(outputs)[:1])
    return null_drops(claim, outputs, Truth(truth), DropKind.ABSOLUTE, max_drop)


def unseen(claims: list[Claim], outputs: Outputs, max_drop: float = 0.01) -> set[str]:
    facts = facts_of(outputs, Truth(), {})
    return {blind.null for blind in blind_to(claims, facts, outputs, Truth(), DropKind.ABSOLUTE, max_drop)}


def test_other_samples_are_all_others_and_the_same_for_all_outputs() -> None:
    index = np.arange(SAMPLES)
    moved = other_samples({"a": index, "b": 10 * index})
    assert (moved["a"] != index).all()
    assert sorted(moved["a"]) == list(index)
    np.testing.assert_array_equal(moved["b"], 10 * moved["a"])
    assert (other_samples({"a": np.arange(2)})["a"] == [1, 0]).all()


def test_mean_outputs_of_numbers_and_of_codes() -> None:
    numbers = rng.normal(size=(SAMPLES, 3)).astype(np.float32)
    np.testing.assert_allclose(
        mean_output(numbers), np.tile(numbers.mean(0, dtype=np.float64), (SAMPLES, 1)), rtol=1e-5
    )
    codes = np.array([[3, 1], [3, 0], [0, 0], [3, 2], [0, 1]])
    np.testing.assert_array_equal(mean_output(codes), np.tile([3, 0], (5, 1)))
    padded = np.array([[1.0, np.nan], [3.0, 5.0]])
    np.testing.assert_array_equal(mean_output(padded), [[2.0, np.nan], [2.0, 5.0]])
    assert set(mean_outputs({"a": numbers, "b": codes[:3]})) == {"a", "b"}


def test_what_the_share_explained_says_of_the_mean_outputs_in_any_unit() -> None:
    for scale in (1e-6, 1.0, 1e6):
        nothing = drops("explained", {"y": scale * rng.normal(size=(SAMPLES, 5))})
        assert nothing[MEAN] == pytest.approx(1.0)
        assert nothing[OTHER_SAMPLES] > 1.2


@pytest.mark.parametrize(
    ("metric", "outputs"),
    [
        ("cosine", {"y": ROWS}),
        ("cosine", {"y": rng.uniform(0, 1, (SAMPLES, 1))}),
        ("agreement", {"y": np.tile([9.0, 0, 0], (SAMPLES, 1)) + rng.random((SAMPLES, 3))}),
    ],
    ids=["pixels drown scores", "one number is its sign", "one class alone"],
)
def test_metrics_that_once_certified_anything_are_blind(metric: str, outputs: Outputs) -> None:
    assert is_blind(drops(metric, outputs, 0.2), 0.2)


def test_metrics_that_see_are_not() -> None:
    logits = 5 * rng.normal(size=(SAMPLES, 5))
    assert not is_blind(drops("agreement", {"y": logits}), 0.01)
    assert not is_blind(drops("top1", {"y": logits}, labels=logits.argmax(1)), 0.01)
    assert not is_blind(drops("explained", {"y": ROWS}, 0.5), 0.5)


def test_blind_is_whoever_lets_any_null_network_pass() -> None:
    assert is_blind({OTHER_SAMPLES: 0.5, MEAN: 0.01}, 0.01)
    assert not is_blind({OTHER_SAMPLES: 0.5, MEAN: 0.02}, 0.01)


def test_channels_that_a_metric_cannot_see_are_named() -> None:
    found = unseen([Claim("cosine", ("y",))], {"y": ROWS}, 0.01)
    # replaced by their means, the scores alone change nothing that the cosine sees
    assert {"output y[4]", "output y[5]"} <= found
    assert not {"output y[0]", "output y"} & found
    assert unseen([Claim("explained", ("y",))], {"y": ROWS}, 0.01) == set()


def test_outputs_without_a_claim_are_named() -> None:
    outputs: Outputs = {"a": rng.normal(size=(SAMPLES, 5)), "b": rng.normal(size=(SAMPLES, 5))}
    assert unseen([Claim("explained", ("a",))], outputs) == {"output b"}
    assert unseen([Claim("explained", ("a",)), Claim("explained", ("b",))], outputs) == set()


def test_a_metric_that_sees_speaks_for_one_that_does_not() -> None:
    """All claims together: a network that knows nothing has to pass all of them."""
    assert unseen([Claim("cosine", ("y",)), Claim("explained", ("y",))], {"y": ROWS}) == set()
