"""Outputs of two files beside each other: by name, by place, or as wrong everywhere."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.matched_outputs import MatchedBy, match_outputs

generator = np.random.default_rng(0)
ONE, TWO = (generator.standard_normal((50, 3)).astype(np.float32) for _ in range(2))
NEAR = ONE + np.float32(0.01)


def matched(before, after):
    result = match_outputs(before, after)
    return result, {match.name: (match.quantized_name, match.by) for match in result.matches}


def test_by_name_whatever_the_order():
    result, partners = matched({"a": ONE, "b": TWO}, {"b": TWO, "a": NEAR})
    assert partners == {"a": ("a", MatchedBy.NAME), "b": ("b", MatchedBy.NAME)}
    assert result.outputs["a"] is NEAR
    assert result.unused == ()


def test_what_is_renamed_by_place_if_shapes_agree():
    _, partners = matched({"a": ONE, "b": TWO}, {"c": NEAR, "d": TWO})
    assert partners == {"a": ("c", MatchedBy.POSITION), "b": ("d", MatchedBy.POSITION)}
    _, partners = matched({"a": ONE, "b": TWO}, {"a": NEAR, "d": TWO})
    assert partners["b"] == ("d", MatchedBy.POSITION)
    result, partners = matched({"a": ONE, "b": TWO}, {"a": NEAR, "d": TWO[:, :2]})
    assert partners["b"] == (None, MatchedBy.NOTHING)
    assert result.unused == ("d",)
    assert not result.nothing_fits
    assert match_outputs({"a": ONE}, {"c": ONE, "d": TWO}).nothing_fits


@pytest.mark.parametrize(
    ("output", "other", "reason"),
    [
        (ONE, ONE[:, :2], "has the shape [50, 2]"),
        (ONE, ONE.astype(np.int64), "it holds int64"),
        (np.arange(50), np.arange(50)[:, None], "has the shape [50, 1]"),
        (ONE > 0, ONE, "it holds float32"),
    ],
)
def test_what_does_not_fit_is_wrong_everywhere(output, other, reason):
    result = match_outputs({"a": output, "b": TWO}, {"a": other, "b": TWO})
    assert reason in result.matches[0].reason
    wrong = result.outputs["a"]
    assert (wrong.shape, wrong.dtype) == (output.shape, output.dtype)
    assert not (wrong == output).any()


def test_half_precision_is_compared_in_the_type_of_the_float_network():
    result = match_outputs({"a": ONE}, {"a": ONE.astype(np.float16)})
    assert result.outputs["a"].dtype == np.float32


def test_samples_without_a_number_are_counted_where_the_float_network_has_one():
    before, after = ONE.copy(), ONE.copy()
    before[0, 0] = after[0, 0] = np.nan
    after[3, 1], after[3, 2], after[7, 0] = np.nan, np.inf, -np.inf
    assert match_outputs({"a": before}, {"a": after}).matches[0].not_finite == 2


def test_exchanged_outputs_are_seen_and_bad_ones_are_not_taken_for_others():
    result = match_outputs({"a": ONE, "b": TWO}, {"a": TWO, "b": NEAR})
    assert [match.looks_like for match in result.matches] == ["b", "a"]
    noise = generator.standard_normal((50, 3)).astype(np.float32)
    result = match_outputs({"a": ONE, "b": TWO}, {"a": 5 * noise, "b": TWO})
    assert [match.looks_like for match in result.matches] == [None, None]
    # two outputs that are the same: each is like the other, and like its own
    result = match_outputs({"a": ONE, "b": ONE}, {"a": NEAR, "b": NEAR})
    assert [match.looks_like for match in result.matches] == [None, None]


def test_what_is_found_may_be_of_another_number():
    before, after = np.full((50, 4, 6), np.nan, np.float32), np.full((50, 2, 6), np.nan, np.float32)
    result = match_outputs({"a": before, "b": TWO}, {"a": after, "b": TWO}, ["a"])
    assert [(match.by, match.not_finite) for match in result.matches] == [(MatchedBy.NAME, 0)] * 2
    assert result.outputs["a"].shape == (50, 2, 6)
    assert match_outputs({"a": before}, {"a": after}).nothing_fits
    assert match_outputs({"a": before}, {"a": after[:, 0]}, ["a"]).nothing_fits
