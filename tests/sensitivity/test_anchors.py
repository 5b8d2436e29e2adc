"""A matrix from few measured formats: what is measured stays, and what lies on a curve is found on it."""

from __future__ import annotations

import numpy as np
import pytest

from sensitivity.anchors import ANCHORS, anchors, interpolated
from sensitivity.cross_layer import CrossLayer

SITES = ["a"] * 6 + ["b"] * 6 + ["act"] * 4 + ["c"] * 2
ERRORS: list[float | None] = [*(4.0**-k for k in range(6)), *(3 * 4.0**-k for k in range(6)), *[None] * 4, 1.0, 0.1]


def _matrix(rows: np.ndarray) -> CrossLayer:
    """As if measured: rows `[candidates, outputs]`."""
    gram = rows @ rows.T / 2
    damage = np.diagonal(gram)
    return CrossLayer(gram, 0.1 * gram**2, 0.1 * damage, 1.1 * damage, 0.2 * damage, 10)


def _rows() -> np.ndarray:
    """Every site changes the outputs in one direction, by the root of its error."""
    generator = np.random.default_rng(0)
    directions = {site: generator.normal(size=20) for site in dict.fromkeys(SITES)}
    sizes = [np.sqrt(1.0 if error is None else error) for error in ERRORS]
    return np.stack([size * directions[site] for size, site in zip(sizes, SITES, strict=True)])


def _taken(whole: CrossLayer, places: list[int]) -> CrossLayer:
    both = np.ix_(places, places)
    vectors = (whole.damage_stderr[places], whole.measured[places], whole.measured_stderr[places])
    return CrossLayer(whole.matrix[both], whole.sketch_stderr[both], *vectors, whole.samples)


def test_few_of_each_weight_are_measured_and_all_of_an_activation() -> None:
    places = anchors(SITES, ERRORS, few=ANCHORS)
    counts = {site: sum(SITES[place] == site for place in places) for site in SITES}
    assert counts == {"a": ANCHORS, "b": ANCHORS, "act": 4, "c": 2}
    assert {0, 6} <= set(places), "the largest error of a weight is measured: nothing lies beyond"


def test_what_is_proportional_to_the_error_is_found_exactly() -> None:
    whole = _matrix(_rows())
    places = anchors(SITES, ERRORS, few=ANCHORS)
    found = interpolated(_taken(whole, places), places, SITES, ERRORS)
    np.testing.assert_allclose(found.matrix.whole(), whole.matrix, rtol=1e-9)
    np.testing.assert_allclose(found.measured, whole.measured, rtol=1e-9)
    np.testing.assert_allclose(found.damage_stderr, whole.damage_stderr, rtol=1e-9)


def test_a_power_of_the_error_is_followed_between_anchors() -> None:
    rows = _rows()
    rows[:6] *= np.array([error or 0 for error in ERRORS[:6]])[:, None] ** 0.25
    whole = _matrix(rows)
    places = anchors(SITES, ERRORS, few=ANCHORS)
    found = interpolated(_taken(whole, places), places, SITES, ERRORS)
    inside = [place for place in range(6) if place <= max(own for own in places if own < 6)]
    np.testing.assert_allclose(found.damage[inside], whole.damage[inside], rtol=1e-9)
    assert np.linalg.eigvalsh(found.matrix.whole()).min() > -1e-9


def test_all_measured_is_the_matrix_itself() -> None:
    whole = _matrix(_rows())
    found = interpolated(whole, range(len(SITES)), SITES, ERRORS)
    np.testing.assert_array_equal(found.matrix.whole(), whole.matrix)


@pytest.mark.parametrize("broken", [0.0, np.nan, np.inf])
def test_a_site_whose_anchors_say_nothing_does_not_spoil_others(broken: float) -> None:
    whole = _matrix(_rows())
    places = anchors(SITES, ERRORS, few=ANCHORS)
    taken = _taken(whole, places)
    spoiled = [row for row, place in enumerate(places) if SITES[place] == "a"]
    taken.measured[spoiled[-1]] = broken
    found = interpolated(taken, places, SITES, ERRORS)
    np.testing.assert_allclose(found.measured[6:], whole.measured[6:], rtol=1e-9)
    assert np.isfinite(found.measured[0])


def test_few_formats_are_all_measured() -> None:
    assert anchors(SITES, ERRORS) == list(range(len(SITES)))
