"""Stacks of matrices, as experts are: inputs meet the matrix that they belong to, and each has scales of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper

from network.graph import Network
from network.normalise import from_proto
from quantization.export.audit import audit
from quantization.export.cost import file_bytes, weight_bytes
from quantization.export.export import export, simulate
from quantization.formats import CodebookFormat, Granularity, HadamardFormat, IntegerFormat, PowerFormat, WeightFormat
from quantization.granularity import scale_shape
from quantization.rounding import layers
from quantization.rounding.formats import round_to_formats
from quantization.rounding.gptq import gptq, prepare
from quantization.rounding.layers import reduction
from quantization.rounding.nearest import round_nearest
from quantization.rounding.reduction import MatrixReduction, NotReducible, Reduction, StackReduction
from quantization.rounding.statistics import InputStatistics, input_statistics
from quantization.storage.parts import NotStorable, storage
from quantization.storage.rotations import rotation

MakeNetwork = Callable[..., Network]
RunOnnx = Callable[..., list[NDArray[Any]]]
Floats = NDArray[np.float32]
FORMATS: list[WeightFormat] = [
    *(IntegerFormat(bits, Granularity.CHANNEL, symmetric) for bits in range(2, 9) for symmetric in (True, False)),
    IntegerFormat(4, Granularity.TENSOR),
    IntegerFormat(4, Granularity.BLOCK, block=16),
    IntegerFormat(3, Granularity.BLOCK, symmetric=False, block=32),
    *(CodebookFormat(bits, outliers) for bits in (2, 3, 4) for outliers in (0, 45)),
    PowerFormat(3),
    HadamardFormat(4),
]
# inputs, weight; the weight's place in the node's inputs
PRODUCTS = {
    "samples, experts": ((5, 4, 3, 32), (4, 32, 6), 1),
    "experts, samples": ((4, 7, 32), (4, 32, 6), 1),
    "the same inputs for all": ((7, 32), (4, 32, 6), 1),
    "the same inputs for all, an axis of 1": ((5, 1, 3, 32), (4, 32, 6), 1),
    "a single matrix": ((5, 3, 32), (1, 32, 6), 1),
    "two axes of matrices": ((5, 2, 3, 7, 32), (2, 3, 32, 6), 1),
    "an axis of 1 before the matrices": ((5, 3, 7, 32), (1, 3, 32, 6), 1),
    "as the left factor": ((5, 4, 32, 3), (4, 6, 32), 0),
    "as the left factor, samples behind": ((4, 32, 7), (4, 6, 32), 0),
}


def product(make_network: MakeNetwork, name: str) -> tuple[Network, Floats, Floats]:
    """A network of one MatMul, its input and its weight, in which every matrix has another size and a zero channel."""
    inputs, shape, place = PRODUCTS[name]
    rng = np.random.default_rng(3)
    sizes = 4.0 ** np.arange(np.prod(shape[:-2])).reshape(*shape[:-2], 1, 1)
    weight = (rng.normal(size=shape) * sizes).astype(np.float32)
    x = rng.normal(size=inputs).astype(np.float32)
    names = ["x", "w"] if place else ["w", "x"]
    return make_network([helper.make_node("MatMul", names, ["y"])], {"x": x}, {"w": weight}), x, weight


def columns(view: Reduction, values: Floats) -> Floats:
    batch = view.by_sample(torch.from_numpy(values))
    return np.asarray(view.columns(batch, [0] * len(view.grid(batch.shape)), [1] * len(view.grid(batch.shape))))


@pytest.mark.parametrize("name", PRODUCTS)
def test_each_matrix_meets_its_columns(make_network: MakeNetwork, run_onnx: RunOnnx, name: str) -> None:
    network, x, weight = product(make_network, name)
    view = reduction(network.proto.graph.node[0], "w", weight.shape)
    assert isinstance(view, StackReduction)
    (y,) = run_onnx(network.proto.SerializeToString(), {"x": x})
    expected = columns(view, y)  # the product's other axes are those of the input
    np.testing.assert_allclose(view.to_matrix(weight) @ columns(view, x), expected, rtol=1e-4, atol=1e-2)
    np.testing.assert_array_equal(view.from_matrix(view.to_matrix(weight), weight.shape), weight)


@pytest.mark.parametrize("name", PRODUCTS)
def test_statistics_do_not_depend_on_how_samples_are_batched(make_network: MakeNetwork, name: str) -> None:
    network, x, _ = product(make_network, name)
    site = network.sites[0]
    whole, parts = (input_statistics(network, site) for _ in range(2))
    assert isinstance(whole, InputStatistics)
    assert isinstance(parts, InputStatistics)
    whole.add(site.layers[0], x)
    samples = next(axis for axis, length in enumerate(x.shape) if length in (5, 7))
    for part in np.split(x, x.shape[samples], axis=samples):
        parts.add(site.layers[0], part)
    np.testing.assert_allclose(parts.hessian, whole.hessian, rtol=1e-5, atol=1e-5)


def test_few_positions_of_every_sample_count_for_the_rest(make_network: MakeNetwork) -> None:
    network, _, _ = product(make_network, "samples, experts")
    x = np.random.default_rng(2).normal(size=(40, 4, 30, 32)).astype(np.float32)
    some, every = (input_statistics(network, network.sites[0], positions) for positions in (3, 1000))
    assert isinstance(some, InputStatistics)
    assert isinstance(every, InputStatistics)
    some.add(network.sites[0].layers[0], x)
    every.add(network.sites[0].layers[0], x)
    diagonals = [np.einsum("gii->gi", own.hessian).mean() for own in (some, every)]
    assert diagonals[0] == pytest.approx(diagonals[1], rel=0.05)


@pytest.mark.parametrize("format_", FORMATS, ids=lambda format_: format_.name)
@pytest.mark.parametrize("name", ["samples, experts", "as the left factor"])
def test_every_format_is_stored_and_read_back(
    make_network: MakeNetwork, run_onnx: RunOnnx, name: str, format_: WeightFormat
) -> None:
    made, x, weight = product(make_network, name)
    network = from_proto(made.proto)
    (site,) = network.sites
    statistics = input_statistics(network, site)
    assert isinstance(statistics, InputStatistics)
    statistics.add(site.layers[0], x)
    (rounded,), method = round_to_formats(weight, [format_], site.channel_axis, statistics)
    assert method.startswith("gptq")
    file = export(network, {"w": rounded}, {})
    assert len(file) == file_bytes(network, {"w": format_})
    assert weight_bytes(format_, site.shape, site.channel_axis, "w") > 0
    (stored,) = audit(file).weights
    assert (stored.format, stored.shape) == (format_, weight.shape)
    (given,), (expected,) = run_onnx(file, {"x": x}), run_onnx(simulate(network, {"w": rounded}), {"x": x})
    np.testing.assert_array_equal(given, expected)


@pytest.mark.parametrize(("name", "scales"), [("samples, experts", (4, 1, 6)), ("as the left factor", (4, 6, 1))])
def test_small_experts_keep_their_precision_beside_large_ones(
    make_network: MakeNetwork, name: str, scales: tuple[int, ...]
) -> None:
    made, _, weight = product(make_network, name)
    (site,) = from_proto(made.proto).sites
    rounded = round_nearest(weight, IntegerFormat(8), site.channel_axis)
    assert rounded.lies_along(site.channel_axis)
    assert dict(rounded.arrays())["scale"].shape == scales
    errors = np.abs(rounded.dequantize() - weight).max(axis=(1, 2)) / np.abs(weight).max(axis=(1, 2))
    assert errors.max() < 0.01


def test_gptq_of_a_stack_is_that_of_each_matrix(make_network: MakeNetwork) -> None:
    made, x, weight = product(make_network, "samples, experts")
    network = from_proto(made.proto)
    (site,) = network.sites
    statistics = input_statistics(network, site)
    assert isinstance(statistics, InputStatistics)
    statistics.add(site.layers[0], x)
    (whole,) = gptq(prepare(weight, statistics), [IntegerFormat(3)], site.channel_axis)
    for expert in range(len(weight)):
        own = make_network([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": x[:, 0]}, {"w": weight[expert]})
        alone = input_statistics(own, own.sites[0])
        assert isinstance(alone, InputStatistics)
        alone.add(own.sites[0].layers[0], x[:, expert])
        (single,) = gptq(prepare(weight[expert], alone), [IntegerFormat(3)], 1)
        np.testing.assert_array_equal(whole.codes[expert], single.codes)
        np.testing.assert_allclose(whole.scale[expert], single.scale, rtol=1e-4)


def test_a_large_stack_shares_the_second_moments(make_network: MakeNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "MOST_BYTES", 8 * 4 * 32 * 32 - 1)
    network, x, weight = product(make_network, "samples, experts")
    view = reduction(network.proto.graph.node[0], "w", weight.shape)
    assert isinstance(view, MatrixReduction)
    assert view.to_matrix(weight).shape == (1, 4 * 6, 32)
    np.testing.assert_array_equal(view.from_matrix(view.to_matrix(weight), weight.shape), weight)
    statistics = input_statistics(network, network.sites[0], 1000)
    assert not isinstance(statistics, NotReducible)
    statistics.add(network.sites[0].layers[0], x)
    np.testing.assert_allclose(statistics.hessian[0], np.einsum("nesk,nesl->kl", x, x), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("shape", [(3, 1, 8), (1, 3, 8), (3, 8, 1), (2, 8, 8), (2, 1, 3, 8), (1, 2, 8, 3), (1, 1, 8)])
@pytest.mark.parametrize("place", [0, 1])
def test_axes_of_one_are_no_trouble(make_network: MakeNetwork, shape: tuple[int, ...], place: int) -> None:
    weight = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    x = np.ones((5, 1, 1, shape[-2]) if place else (5, *shape[:-2], shape[-1], 2), np.float32)
    made = make_network(
        [helper.make_node("MatMul", ["x", "w"] if place else ["w", "x"], ["y"])], {"x": x}, {"w": weight}
    )
    network = from_proto(made.proto)
    (site,) = network.sites
    for format_ in FORMATS:
        try:
            storage(format_, shape, site.channel_axis)
        except NotStorable:
            continue
        rounded = round_nearest(weight, format_, site.channel_axis)
        file = export(network, {"w": rounded}, {})
        assert len(file) == file_bytes(network, {"w": format_})
        assert audit(file).weights[0].format == format_


@pytest.mark.parametrize(("shape", "axes", "block"), [((3, 16, 5), (0, 2), 16), ((3, 5, 16), (0, 1), 16)])
def test_each_matrix_is_rotated_by_itself(shape: tuple[int, ...], axes: tuple[int, ...], block: int) -> None:
    weight = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    whole = round_nearest(weight, HadamardFormat(6), axes)
    assert rotation(shape, scale_shape(HadamardFormat(6), shape, axes)).block == block
    for values, matrix in zip(whole.dequantize(), weight, strict=True):
        alone = round_nearest(matrix, HadamardFormat(6), axes[-1] - 1)
        np.testing.assert_allclose(values, alone.dequantize(), rtol=1e-6)
