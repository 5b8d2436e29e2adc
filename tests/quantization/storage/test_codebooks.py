"""Codebooks against brute force, dynamic programming in plain loops, and what their files hold."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from quantization.formats import CodebookFormat, IntegerFormat
from quantization.granularity import Fold, fold
from quantization.rounding import codebook_tables, kmeans
from quantization.rounding.codebook_tables import codebook, fit_tables
from quantization.rounding.nearest import round_nearest
from quantization.storage.codebooks import outlier_count
from quantization.storage.families import quantized_weight
from quantization.storage.parts import NotStorable, storage

Floats = NDArray[np.float32]
SHAPES = [((5, 3, 2, 2), 0), ((40, 7), 1), ((2, 40, 3), 2), ((7, 40), 0), ((2, 6, 11), 1)]


def _weight(shape: tuple[int, ...], seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_t(4, shape).astype(np.float32)


def _importance(shape: tuple[int, ...], seed: int = 1) -> Floats:
    return np.random.default_rng(seed).gamma(0.5, size=shape).astype(np.float32)


def _error(values: NDArray[np.generic], masses: NDArray[np.generic], found: NDArray[np.float64]) -> float:
    distances = np.abs(np.asarray(values, dtype=np.float64)[:, None] - found).min(axis=1)
    return float((masses * distances**2).sum())


def _least_error(values: Floats, masses: Floats, count: int) -> float:
    """The error of the best clusters, by dynamic programming over all runs in float64."""
    order = np.argsort(values)
    x, h = values[order].astype(np.float64), masses[order].astype(np.float64)
    n = len(x)
    cost = np.zeros((n + 1, n + 1))
    for start, stop in itertools.combinations(range(n + 1), 2):
        part, mass = x[start:stop], h[start:stop]
        middle = (part * mass).sum() / mass.sum() if mass.sum() else 0.0
        cost[start, stop] = (mass * (part - middle) ** 2).sum()
    best = cost[0]
    for _ in range(count - 1):
        best = np.array([min(best[start] + cost[start, stop] for start in range(stop + 1)) for stop in range(n + 1)])
    return float(best[n])


@settings(deadline=None, max_examples=60)
@given(
    values=st.lists(st.integers(-8, 8), min_size=1, max_size=6),
    masses=st.lists(st.integers(0, 3), min_size=6, max_size=6),
    count=st.integers(2, 5),
)
def test_short_rows_get_the_best_of_all_clusters(values: list[int], masses: list[int], count: int) -> None:
    x = np.array(values, dtype=np.float32)
    h = np.array(masses[: len(x)], dtype=np.float32)
    (found,) = kmeans.centers(x[None], h[None], count)
    taken = (h if h.any() else np.ones_like(h)).astype(np.float64)
    least = math.inf
    for clusters in itertools.product(range(count), repeat=len(x)):
        inside = [np.array(clusters) == cluster for cluster in range(count)]
        middles = [np.average(x[i], weights=taken[i]) if taken[i].any() else 0.0 for i in inside]
        least = min(least, float((taken * (x - np.array(middles)[list(clusters)]) ** 2).sum()))
    assert found.shape == (count,)
    assert (np.diff(found) >= 0).all()
    assert _error(x, taken, found) == pytest.approx(least, abs=1e-9)


@pytest.mark.parametrize("count", [4, 8, 16])
def test_rows_as_long_as_the_bins_are_solved_exactly(count: int) -> None:
    rows, masses = _weight((3, 100)), _importance((3, 100))
    for found, x, h in zip(kmeans.centers(rows, masses, count), rows, masses, strict=True):
        assert _error(x, h, found) == pytest.approx(_least_error(x, h, count), rel=1e-6)


@pytest.mark.parametrize("count", [4, 16])
def test_long_rows_come_close_to_the_best(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    rows, masses = _weight((16, 1000)), _importance((16, 1000))
    found = kmeans.centers(rows, masses, count)
    monkeypatch.setattr(kmeans, "BINS", 1000)
    best = kmeans.centers(rows, masses, count)
    ratios = [_error(x, h, a) / _error(x, h, b) for x, h, a, b in zip(rows, masses, found, best, strict=True)]
    assert min(ratios) > 1 - 1e-9
    assert np.mean(ratios) < 1.005
    assert max(ratios) < 1.05


def test_centers_do_not_depend_on_units() -> None:
    rows, masses = _weight((4, 300)), _importance((4, 300))
    found = kmeans.centers(rows, masses, 8)
    np.testing.assert_allclose(kmeans.centers(rows * 2**-20, masses * 2**30, 8), found * 2**-20, rtol=1e-12)


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_every_value_is_at_the_nearest_of_its_own_table(shape: tuple[int, ...], axis: int, bits: int) -> None:
    weight = _weight(shape)
    found = codebook(weight, CodebookFormat(bits, 100), axis, _importance(shape))
    folded = fold(shape, axis)
    assert isinstance(folded, Fold)
    assert found.table.shape == (folded.outer, 1 << bits, folded.inner)
    values = found.dequantize()
    kept = np.zeros(weight.size, dtype=np.bool_)
    kept[found.positions] = True
    kept = kept.reshape(folded)
    for outer, inner in np.ndindex(folded.outer, folded.inner):
        x = weight.reshape(folded)[outer, :, inner]
        got = values.reshape(folded)[outer, :, inner]
        distances = np.abs(x[:, None] - found.table[outer, :, inner] * found.factor)
        least = np.where(kept[outer, :, inner], 0, distances.min(axis=1))
        np.testing.assert_allclose(np.abs(x - got), least, atol=1e-7)


def test_the_worst_weights_are_kept_and_the_tables_fit_the_others() -> None:
    format_, weight, importance = CodebookFormat(3, 200), _weight((20, 300)), _importance((20, 300))
    plain = codebook(weight, CodebookFormat(3), 0, importance)
    found = codebook(weight, format_, 0, importance)
    kept = np.zeros(weight.shape, dtype=np.bool_)
    kept.flat[found.positions] = True
    assert kept.sum() == outlier_count(format_, weight.size) == 120
    np.testing.assert_array_equal(found.dequantize()[kept], weight[kept])
    errors = importance * (found.dequantize() - weight) ** 2
    of_plain = importance * (plain.dequantize() - weight) ** 2
    assert errors.sum() < np.sort(of_plain, axis=None)[:-120].sum()  # better than to keep the worst of the plain one
    largest = np.sort(np.abs(weight), axis=None)[-120:]
    by_size = codebook(np.where(np.abs(weight) < largest[0], weight, 0), CodebookFormat(3), 0, importance)
    assert errors.sum() < (importance * (by_size.dequantize() - weight) ** 2)[np.abs(weight) < largest[0]].sum()


def test_importance_moves_the_error_where_it_matters_less() -> None:
    weight, importance = _weight((8, 500)), _importance((8, 500))
    format_ = CodebookFormat(3)
    plain, weighted = codebook(weight, format_, 0), codebook(weight, format_, 0, importance)
    totals = [((w.dequantize() - weight) ** 2 * importance).sum() for w in (plain, weighted)]
    squares = [((w.dequantize() - weight) ** 2).sum() for w in (plain, weighted)]
    assert totals[1] < 0.9 * totals[0]
    assert squares[0] < squares[1]


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_tables_serve_better_than_integers(bits: int) -> None:
    weight = _weight((8, 500))
    errors = [
        ((w.dequantize() - weight) ** 2).sum()
        for w in (codebook(weight, CodebookFormat(bits), 0), round_nearest(weight, IntegerFormat(bits), 0))
    ]
    assert errors[0] < 0.85 * errors[1]


@pytest.mark.parametrize("outliers", [0, 200])
def test_few_distinct_values_survive_exactly(outliers: int) -> None:
    values = np.array([-1.5, 0.25, 3.0, 0.0], dtype=np.float32)
    weight = values[np.random.default_rng(0).integers(0, 4, (6, 9))]
    weight[0] = 0.5
    weight[1] = 0
    for importance in (None, np.zeros_like(weight), _importance(weight.shape).clip(0.3) - np.float32(0.3)):
        found = codebook(weight, CodebookFormat(2, outliers), 0, importance)
        if importance is None or not importance.any():
            np.testing.assert_array_equal(found.dequantize(), weight)
        else:
            matters = importance > 0
            np.testing.assert_array_equal(found.dequantize()[matters], weight[matters])


@pytest.mark.parametrize("outliers", [0, 50])
@pytest.mark.parametrize("power", [-90, -30, 0, 30, 120])
def test_no_magnitude_is_too_small_or_too_large(power: int, outliers: int) -> None:
    """A power of two before all weights changes nothing but that power."""
    weight, unit = _weight((6, 50)), np.ldexp(np.float32(1), power)
    plain, moved = (codebook(values, CodebookFormat(3, outliers), 0) for values in (weight, weight * unit))
    np.testing.assert_array_equal(moved.dequantize(), plain.dequantize() * unit)


def test_what_does_not_fold_is_not_stored() -> None:
    with pytest.raises(NotStorable, match="codebook3/channel has a table for what each output sums over"):
        storage(CodebookFormat(3), (16, 8, 3, 3), 1)  # of a ConvTranspose
    with pytest.raises(ValueError, match="summed over across them"):
        codebook(_weight((16, 8, 3, 3)), CodebookFormat(3), 1)


def test_what_a_codebook_costs() -> None:
    parts = storage(CodebookFormat(3, 45), (64, 1000), 0).parts
    assert sum(part.size_bytes for part in parts) == 64 * 1000 * 3 // 8 + 64 * 8 * 2 + 4 + 288 * 8


def test_bad_input_is_refused() -> None:
    weight = _weight((4, 9))
    with pytest.raises(ValueError, match="finite float32"):
        codebook(np.full_like(weight, np.nan), CodebookFormat(2), 0)
    with pytest.raises(ValueError, match=r"at least 0 and of shape \(4, 9\)"):
        codebook(weight, CodebookFormat(2), 0, -np.ones_like(weight))
    with pytest.raises(ValueError, match=r"at least 0 and of shape \(4, 9\)"):
        fit_tables(weight, CodebookFormat(2), 0, np.ones((4, 8), dtype=np.float32))


def test_broken_arrays_are_refused() -> None:
    good = codebook(_weight((4, 50)), CodebookFormat(2, 100), 0)
    arrays = good.arrays()
    cases: list[tuple[str, NDArray[Any], str]] = [
        ("codes", good.codes.astype(np.int16), "codes must be int8"),
        ("codes", np.full_like(good.codes, 2), "holds codes -2 to 1, got 2 to 2"),
        ("table", good.table[:, :3], "is not that of codebook2"),
        ("table", np.full_like(good.table, np.inf), "must be finite"),
        ("factor", np.float32([1, 1]), "one positive float32 number"),
        ("factor", np.array(0, np.float32), "one positive float32 number"),
        ("positions", good.positions.astype(np.int64), "positions must be int32"),
        ("positions", good.positions[::-1], "must ascend within 0 to 199"),
        ("positions", good.positions + np.int32(200), "must ascend within 0 to 199"),
        ("values", good.values[:1], "keeps 2 of 200 weights"),
        ("values", np.full_like(good.values, np.nan), "kept must be finite"),
    ]
    for name, broken, message in cases:
        with pytest.raises(ValueError, match=message):
            quantized_weight(good.format, {**arrays, name: broken})


@pytest.mark.parametrize("masses", [False, True])
@pytest.mark.parametrize("outliers", [0, 50])
def test_parts_are_the_whole(monkeypatch: pytest.MonkeyPatch, outliers: int, masses: bool) -> None:
    weight = _weight((90, 40))
    importance = _importance((90, 40)) if masses else None
    whole = codebook(weight, CodebookFormat(2, outliers), 0, importance)
    monkeypatch.setattr(codebook_tables, "_AT_ONCE", 200)
    monkeypatch.setattr(kmeans, "_CHUNK", 100)
    parts = codebook(weight, CodebookFormat(2, outliers), 0, importance)
    for tensor, own in zip(whole.tensors(), parts.tensors(), strict=True):
        assert tensor.SerializeToString() == own.SerializeToString()
