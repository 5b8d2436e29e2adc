from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import helper

from network.graph import Network
from quantization.formats import Granularity, IntegerFormat
from quantization.rounding.gptq import gptq, prepare
from quantization.rounding.gptq_columns import chunks
from quantization.rounding.gptq_factor import factorise
from quantization.rounding.nearest import round_nearest
from quantization.rounding.ranges import optimal_scales
from quantization.rounding.statistics import InputStatistics, input_statistics
from quantization.storage.weights import IntegerWeight

MakeNetwork = Callable[..., Network]
FORMATS = [
    IntegerFormat(bits, granularity)
    for granularity in (Granularity.TENSOR, Granularity.CHANNEL)
    for bits in range(2, 9)
]


def textbook(
    rows: NDArray[np.float32], hessian: NDArray[np.float64], scales: NDArray[np.float32], format_: IntegerFormat
) -> NDArray[np.float64]:
    """Codes `[rows, K]` by algorithm 1 of arXiv 2210.17323 with act-order, blocks of one column, float64."""
    order = np.argsort(-np.diag(hessian), kind="stable")
    sorted_ = damped(hessian[None])[0][np.ix_(order, order)]
    upper = np.linalg.cholesky(np.linalg.inv(sorted_)).T  # H^-1 = U' U
    left = rows[:, order].astype(np.float64)
    codes = np.empty_like(left)
    for column in range(left.shape[1]):
        codes[:, column] = np.clip(np.rint(left[:, column] / scales), format_.lowest_code, format_.highest_code)
        error = (left[:, column] - codes[:, column] * scales) / upper[column, column]
        left[:, column + 1 :] -= np.outer(error, upper[column, column + 1 :])
    restored = np.empty_like(codes)
    restored[:, order] = codes
    return restored


def damped(hessian: NDArray[np.float64]) -> NDArray[np.float64]:
    """With 1 % of the mean diagonal added to the diagonal of each group."""
    reduced = hessian.shape[1]
    return hessian + 0.01 * np.einsum("gii->g", hessian)[:, None, None] / reduced * np.eye(reduced)


def objective(weight: NDArray[np.float32], rounded: IntegerWeight, statistics: InputStatistics) -> NDArray[Any]:
    """`d' H d` of every row, H damped, `[groups, rows]`."""
    to_matrix = statistics.reduction.to_matrix
    deltas = to_matrix(rounded.dequantize()).astype(np.float64) - to_matrix(weight)
    return np.einsum("grk,gkl,grl->gr", deltas, damped(statistics.hessian), deltas)


LAYERS: dict[str, tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "conv": ("Conv", (16, 4, 9, 9), (6, 4, 3, 3), {"pads": [1, 1, 1, 1]}),
    "conv groups": ("Conv", (16, 6, 7, 7), (9, 2, 3, 3), {"group": 3, "strides": [2, 2]}),
    "depthwise": ("Conv", (16, 5, 9, 9), (5, 1, 3, 3), {"group": 5}),
    "conv 1-D": ("Conv", (16, 3, 40), (8, 3, 5), {"dilations": [2]}),
    "transposed conv": ("ConvTranspose", (8, 4, 6, 6), (4, 5, 2, 2), {"strides": [2, 2]}),
    "transposed groups": ("ConvTranspose", (8, 4, 6, 6), (4, 3, 3, 3), {"group": 2}),
    "gemm": ("Gemm", (200, 30), (30, 12), {}),
    "gemm transposed": ("Gemm", (200, 30), (12, 30), {"transB": 1}),
    "matmul": ("MatMul", (20, 10, 150), (150, 7), {}),
}


@pytest.fixture(params=LAYERS)
def layer(
    request: pytest.FixtureRequest, make_network: MakeNetwork
) -> tuple[NDArray[np.float32], InputStatistics, int]:
    """A weight, the statistics of correlated inputs, and the channel axis."""
    op_type, input_shape, shape, attributes = LAYERS[request.param]
    rng = np.random.default_rng(7)
    inputs = rng.standard_normal(input_shape).astype(np.float32)
    for axis in range(1, inputs.ndim):  # neighbours look alike, as in real activations
        inputs = inputs + 0.7 * np.roll(inputs, 1, axis=axis)
    inputs = np.maximum(inputs, 0)
    weight = rng.standard_normal(shape).astype(np.float32)
    network = make_network([helper.make_node(op_type, ["x", "w"], ["y"], **attributes)], {"x": inputs}, {"w": weight})
    (site,) = network.sites
    statistics = input_statistics(network, site)
    assert isinstance(statistics, InputStatistics)
    statistics.add(site.layers[0], inputs)
    return weight, statistics, site.channel_axis


def test_rounds_as_the_textbook_does(layer: tuple[NDArray[np.float32], InputStatistics, int]) -> None:
    weight, statistics, axis = layer
    to_matrix = statistics.reduction.to_matrix
    matrix = to_matrix(weight)
    prepared = prepare(weight, statistics)
    assert (prepared.factor.damping, prepared.note) == (0.01, "")
    weights = gptq(prepared, FORMATS, axis)
    scales = [optimal_scales(weight, format_, axis) for format_ in FORMATS]
    for format_, rounded, scale in zip(FORMATS, weights, scales, strict=True):
        assert rounded.format == format_
        assert rounded.shape == weight.shape
        row_scales = to_matrix(np.broadcast_to(scale, weight.shape))[:, :, 0]
        codes = to_matrix(rounded.codes)
        expected = np.stack(
            [textbook(matrix[g], statistics.hessian[g], row_scales[g], format_) for g in range(len(matrix))]
        )
        if len(to_matrix(weight)[0, 0]) <= 256:  # then rows may keep their nearest codes
            nearest = to_matrix(round_nearest(weight, format_, axis).codes)
            expected = np.where(np.all(codes == nearest, axis=2, keepdims=True), codes, expected)
        # float32 updates may send a value that lies between two codes the other way, and the rest of its row after it
        assert np.mean(np.all(codes == expected, axis=2)) > 0.85
        both = [
            np.einsum("grk,gkl,grl->", d, statistics.hessian, d)
            for d in (codes * row_scales[:, :, None] - matrix, expected * row_scales[:, :, None] - matrix)
        ]
        assert both[0] == pytest.approx(both[1], rel=0.02)


def test_scales_are_refitted_to_the_codes(layer: tuple[NDArray[np.float32], InputStatistics, int]) -> None:
    weight, statistics, axis = layer
    to_matrix = statistics.reduction.to_matrix
    matrix = to_matrix(weight).astype(np.float64)
    hessian = damped(statistics.hessian)
    for rounded in gptq(prepare(weight, statistics), FORMATS, axis):
        codes = to_matrix(rounded.codes).astype(np.float64)
        products, squares = np.zeros(rounded.scale.size), np.zeros(rounded.scale.size)
        owner = to_matrix(np.broadcast_to(np.arange(rounded.scale.size).reshape(rounded.scale.shape), weight.shape))
        np.add.at(products, owner[:, :, 0], np.einsum("grk,gkl,grl->gr", codes, hessian, matrix))
        np.add.at(squares, owner[:, :, 0], np.einsum("grk,gkl,grl->gr", codes, hessian, codes))
        np.testing.assert_allclose(rounded.scale.ravel(), products / squares, rtol=1e-3)


def test_output_error_is_below_that_of_nearest(layer: tuple[NDArray[np.float32], InputStatistics, int]) -> None:
    weight, statistics, axis = layer
    for rounded in gptq(prepare(weight, statistics), FORMATS, axis):
        nearest = round_nearest(weight, rounded.format, axis)
        assert objective(weight, rounded, statistics).sum() < objective(weight, nearest, statistics).sum()


def test_formats_do_not_disturb_each_other_nor_do_chunks(
    layer: tuple[NDArray[np.float32], InputStatistics, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, statistics, axis = layer
    together = gptq(prepare(weight, statistics), FORMATS, axis)
    monkeypatch.setattr("quantization.rounding.gptq_columns._CHUNK", 1)
    monkeypatch.setattr("quantization.rounding.gptq_columns._LANES", 0)
    assert list(chunks((1, 3, 8), 1)) == [slice(0, 1), slice(1, 2), slice(2, 3)]  # a row at a time
    for whole, format_ in zip(together, FORMATS, strict=True):
        (alone,) = gptq(prepare(weight, statistics), [format_], axis)
        assert np.mean(alone.codes == whole.codes) > 0.95  # other product shapes round differently in float32
        np.testing.assert_allclose(alone.scale, whole.scale, rtol=0.02)


@pytest.mark.parametrize(
    ("reduced", "formats", "rows"), [(512, 1, 2048), (512, 4, 512), (4608, 1, 512), (4608, 4, 128)]
)
def test_of_wide_weights_many_rows_are_rounded_together(reduced: int, formats: int, rows: int) -> None:
    first, *_ = chunks((1, 4096, reduced), formats)
    assert first == slice(0, rows)


def matmul_statistics(
    make_network: MakeNetwork, weight: NDArray[np.float32], inputs: NDArray[np.float32]
) -> InputStatistics:
    network = make_network([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": inputs}, {"w": weight})
    statistics = input_statistics(network, network.sites[0])
    assert isinstance(statistics, InputStatistics)
    statistics.add(network.sites[0].layers[0], inputs)
    return statistics


def test_columns_without_input_keep_their_nearest_codes(make_network: MakeNetwork) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((20, 6)).astype(np.float32)
    inputs = rng.standard_normal((50, 20)).astype(np.float32)
    inputs[:, [3, 11]] = 0
    (rounded,) = gptq(prepare(weight, matmul_statistics(make_network, weight, inputs)), [IntegerFormat(4)], 1)
    assert np.array_equal(rounded.codes[[3, 11]], round_nearest(weight, IntegerFormat(4), 1).codes[[3, 11]])


def test_without_any_input_it_is_nearest(make_network: MakeNetwork) -> None:
    weight = np.random.default_rng(0).standard_normal((20, 6)).astype(np.float32)
    statistics = matmul_statistics(make_network, weight, np.zeros((5, 20), np.float32))
    (rounded,) = gptq(prepare(weight, statistics), [IntegerFormat(3)], 1)
    nearest = round_nearest(weight, IntegerFormat(3), 1)
    assert np.array_equal(rounded.codes, nearest.codes)
    np.testing.assert_allclose(rounded.scale, nearest.scale, rtol=1e-3)


def test_fewer_samples_than_columns_are_enough(make_network: MakeNetwork) -> None:
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((64, 6)).astype(np.float32)
    inputs = rng.standard_normal((8, 64)).astype(np.float32)
    statistics = matmul_statistics(make_network, weight, inputs)
    (rounded,) = gptq(prepare(weight, statistics), [IntegerFormat(3)], 1)
    nearest = round_nearest(weight, IntegerFormat(3), 1)
    assert objective(weight, rounded, statistics).sum() < 0.3 * objective(weight, nearest, statistics).sum()


def test_raises_the_damping_and_says_so(make_network: MakeNetwork) -> None:
    rng = np.random.default_rng(2)
    weight = rng.standard_normal((12, 4)).astype(np.float32)
    statistics = matmul_statistics(make_network, weight, rng.standard_normal((40, 12)).astype(np.float32))
    # what sums of rounded products may do at worst, blown up: an eigenvalue clearly below zero
    vector = rng.standard_normal(12)
    statistics.hessian -= 3 * np.trace(statistics.hessian[0]) / 12 * np.outer(vector, vector) / (vector @ vector)
    prepared = prepare(weight, statistics)
    assert prepared.factor.damping in (1.0, 10.0)
    assert prepared.note == f"H could not be factorised at damping 0.01; {prepared.factor.damping:g} was used"
    (rounded,) = gptq(prepared, [IntegerFormat(4)], 1)
    assert np.isfinite(rounded.dequantize()).all()


def test_targets_the_float_outputs_where_inputs_are_known_to_be_off(make_network: MakeNetwork) -> None:
    rng = np.random.default_rng(3)
    weight = rng.standard_normal((24, 10)).astype(np.float32)
    exact = (rng.standard_normal((400, 24)) @ rng.standard_normal((24, 24))).astype(np.float32)
    inputs = (0.8 * exact + 0.5 * rng.standard_normal(exact.shape)).astype(np.float32)
    network = make_network([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": inputs}, {"w": weight})
    errors = []
    for reference in (None, exact):
        statistics = input_statistics(network, network.sites[0])
        assert isinstance(statistics, InputStatistics)
        statistics.add(network.sites[0].layers[0], inputs, reference)
        (rounded,) = gptq(prepare(weight, statistics), [IntegerFormat(4)], 1)
        errors.append(float(np.square(inputs @ rounded.dequantize() - exact @ weight).sum()))
    assert errors[1] < 0.5 * errors[0]


def test_same_input_same_codes(make_network: MakeNetwork) -> None:
    rng = np.random.default_rng(4)
    weight = rng.standard_normal((30, 8)).astype(np.float32)
    statistics = matmul_statistics(make_network, weight, rng.standard_normal((60, 30)).astype(np.float32))
    first, second = (gptq(prepare(weight, statistics), FORMATS, 1) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert a.codes.tobytes() == b.codes.tobytes()
        assert a.scale.tobytes() == b.scale.tobytes()


@pytest.mark.parametrize("tiled", [0, 1 << 18])
@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.bool_])
def test_columns_in_order_and_back(tiled: int, dtype: type[np.generic], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantization.rounding.gptq_factor._TILED", tiled)
    rng = np.random.default_rng(5)
    inputs = rng.standard_normal((2, 70, 200))
    factor = factorise(inputs @ inputs.mT, 0.01)
    plain = rng.integers(-2, 2, (2, 90, 70)).astype(dtype)
    plain.setflags(write=False)
    matrices = [plain, plain[:, :, ::-1], plain[:, ::3], np.broadcast_to(plain[:, :, :1], plain.shape)]
    matrices.append(np.asfortranarray(plain))
    for matrix in matrices:
        columns = factor.sort(matrix)
        expected = np.stack([m[:, order].T for m, order in zip(matrix, factor.order, strict=True)])
        np.testing.assert_array_equal(columns, expected)
        np.testing.assert_array_equal(factor.unsort(columns), matrix)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"damping": 0.0}, "damping must be above 0"),
        ({"channel_axis": 0}, "change along the inputs"),
        ({"weight": np.ones((5, 4), np.float32)}, "do not fit"),
        ({"weight": np.full((12, 4), np.nan, np.float32)}, "finite"),
    ],
)
def test_refuses(make_network: MakeNetwork, change: dict[str, Any], message: str) -> None:
    weight = np.eye(12, 4, dtype=np.float32)
    statistics = matmul_statistics(make_network, weight, np.ones((3, 12), np.float32))
    arguments: dict[str, Any] = {"weight": weight, "damping": 0.01, "channel_axis": 1} | change
    channel_axis = arguments.pop("channel_axis")
    with pytest.raises(ValueError, match=message):
        gptq(prepare(statistics=statistics, **arguments), [IntegerFormat(4)], channel_axis)
