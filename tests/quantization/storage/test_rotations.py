"""Rotated weights: the matrix, where it fits, what it does to a weight, and the file against numpy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import helper
from scipy.linalg import hadamard as sylvester
from scipy.stats import norm

from network.graph import Network
from quantization.activations.quantized import QuantizedActivation
from quantization.export.audit import audit
from quantization.export.cost import file_bytes
from quantization.export.export import export, simulate
from quantization.formats import HadamardFormat, IntegerFormat, PowerFormat, UnsignedFormat, WeightFormat
from quantization.granularity import Fold, fold
from quantization.rounding.nearest import round_nearest, round_rotated
from quantization.storage.parts import NotStorable, storage
from quantization.storage.rotations import LARGEST_BLOCK, HadamardWeight, Rotation, hadamard, rotation

ALL_BITS = range(2, 9)
BLOCKS = (8, 16, 32, 64, 128)


def _relative_error(weight: NDArray[np.float32], values: NDArray[np.float32]) -> float:
    return float(np.mean(np.square(values - weight, dtype=np.float64)) / np.mean(np.square(weight, dtype=np.float64)))


def _gaussian_optimum(bits: int) -> float:
    """The least squared error of integers for a standard Gaussian, over their scale, by the moments between edges."""
    codes = np.arange(-(1 << (bits - 1)), 1 << (bits - 1))
    errors = []
    for scale in np.geomspace(0.5, 8, 600) / 2 ** (bits - 1):
        edges = np.concatenate([[-40.0], scale * (codes[1:] - 0.5), [40.0]])
        mass, first = np.diff(norm.cdf(edges)), -np.diff(norm.pdf(edges))
        second = mass - np.diff(edges * norm.pdf(edges))
        errors.append((second - 2 * scale * codes * first + (scale * codes) ** 2 * mass).sum())
    return float(min(errors))


@pytest.mark.parametrize("block", BLOCKS)
def test_the_matrix_is_symmetric_and_turns_back_what_it_turned(block: int) -> None:
    matrix = hadamard(block)
    assert matrix.dtype == np.float32
    assert set(np.unique(matrix)) == {-1, 1}
    np.testing.assert_array_equal(matrix, matrix.T)
    np.testing.assert_array_equal(matrix @ matrix, block * np.eye(block))


@pytest.mark.parametrize("block", BLOCKS)
def test_regular_patterns_do_not_become_a_spike(block: int) -> None:
    """Constant blocks, alternating ones and all of Sylvester's other rows."""
    peaks = np.abs(hadamard(block) @ sylvester(block)).max(axis=0) / np.sqrt(block)
    assert peaks.max() == pytest.approx(1 if block in (16, 64) else np.sqrt(2))


@pytest.mark.parametrize(
    ("shape", "axis", "expected"),
    [
        ((10, 48), 0, Rotation(16, 1)),
        ((48, 10), 1, Rotation(16, 10)),
        ((2, 96, 10), 2, Rotation(32, 10)),
        ((16, 32, 3, 3), 0, Rotation(32, 1)),
        ((7, 1000), 0, Rotation(8, 1)),
        ((7, 1024), 0, Rotation(LARGEST_BLOCK, 1)),
        ((1, 48), 0, Rotation(16, 1)),
        ((48, 1), 1, Rotation(16, 1)),
        ((2, 12, 64), 1, Rotation(64, 1)),
    ],
)
def test_a_weight_is_turned_along_what_an_output_sums_over(
    shape: tuple[int, ...], axis: int, expected: Rotation
) -> None:
    scales = tuple(n if place == axis else 1 for place, n in enumerate(shape))
    found = rotation(shape, scales)
    assert found == expected
    weight = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    folded = fold(shape, axis)
    assert isinstance(folded, Fold)
    blocks = weight.astype(np.float64).reshape(folded.outer, -1, found.block, folded.inner)
    dense = np.einsum("ij,objn->obin", hadamard(found.block), blocks)
    np.testing.assert_allclose(found.turn(weight), dense.reshape(shape), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "axis", "message"),
    [
        ((16, 3, 3, 3), 0, "sums over 27 weights, and a rotation takes a multiple of 8"),
        ((7, 12), 0, "sums over 12 weights"),
        ((16, 8, 3, 3), 1, "channels on axis 1"),
        ((64,), 0, "no axis that is summed over"),
    ],
)
def test_a_weight_that_no_rotation_fits_is_refused(shape: tuple[int, ...], axis: int, message: str) -> None:
    with pytest.raises(NotStorable, match=message):
        storage(HadamardFormat(4), shape, axis)
    with pytest.raises(ValueError, match=message):
        round_rotated(np.ones(shape, dtype=np.float32), HadamardFormat(4), axis)


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("name", ["normal", "uniform", "laplace", "bimodal"])
def test_the_error_of_a_rotated_weight_is_that_of_a_gaussian(bits: int, name: str) -> None:
    generator = np.random.default_rng(bits)
    shape = (2, 1 << 17)
    weight = {
        "normal": lambda: generator.standard_normal(shape),
        "uniform": lambda: generator.uniform(-1, 1, shape),
        "laplace": lambda: generator.laplace(size=shape),
        "bimodal": lambda: generator.choice([-1, 1], shape) + 0.1 * generator.standard_normal(shape),
    }[name]().astype(np.float32)
    found = round_rotated(weight, HadamardFormat(bits), 0)
    expected = _gaussian_optimum(bits)
    # a block of 64 keeps a 64th of a distribution's excess kurtosis, and at 8 bits a dozen weights make a tenth of it
    tolerance = 0.02 if name in ("normal", "uniform") and bits <= 6 else 0.1
    assert _relative_error(weight, found.dequantize()) == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_outliers_are_shared_out(bits: int) -> None:
    """Every 32nd input of a MatMul has weights 20 times as large: in each channel a few are far out."""
    weight = np.random.default_rng(0).standard_normal((512, 24)).astype(np.float32)
    weight[::32] *= 20
    plain = round_nearest(weight, IntegerFormat(bits), 1).dequantize()
    turned = round_rotated(weight, HadamardFormat(bits), 1).dequantize()
    assert _relative_error(weight, turned) < 0.6 * _relative_error(weight, plain)


def test_scales_are_those_of_least_squared_error() -> None:
    weight = np.random.default_rng(1).standard_normal((3, 640)).astype(np.float32)
    found = round_rotated(weight, HadamardFormat(3), 0)
    matrix = hadamard(64).astype(np.float64)
    for row, scale, values in zip(weight, found.scale[:, 0], found.dequantize(), strict=True):
        turned = row.reshape(-1, 64) @ matrix / 64
        scales = np.abs(scale) * np.linspace(0.7, 1.4, 400)
        errors = [
            64 * np.square(np.clip(np.rint(turned / s), -4, 3) * s - turned).sum()
            for s in np.concatenate([scales, -scales])
        ]
        assert np.square(values - row, dtype=np.float64).sum() < min(errors) * 1.01


def test_zeros_stay_zeros() -> None:
    found = round_rotated(np.zeros((2, 16), dtype=np.float32), HadamardFormat(4), 0)
    assert not found.dequantize().any()
    assert (found.scale == 1).all()


@pytest.mark.parametrize("bits", [4, 5, 8])
@pytest.mark.parametrize("shape", [(8, 3), (16, 1), (32, 5), (64, 7), (192, 3), (3, 8), (3, 16), (1, 32), (5, 384)])
def test_the_file_computes_what_numpy_does_to_the_bit(
    make_network: Callable[..., Network],
    run_onnx: Callable[..., list[NDArray[Any]]],
    bits: int,
    shape: tuple[int, int],
) -> None:
    generator = np.random.default_rng(0)
    weight = generator.standard_normal(shape).astype(np.float32)
    transposed = shape[0] < shape[1]
    node = helper.make_node("Gemm", ["x", "w"], ["y"], transB=int(transposed))
    inputs = {"x": generator.standard_normal((2, max(shape))).astype(np.float32)}
    network = make_network([node], inputs, {"w": weight})
    found = round_rotated(weight, HadamardFormat(bits), 0 if transposed else 1)
    file = export(network, {"w": found}, {})
    np.testing.assert_array_equal(run_onnx(file, inputs)[0], run_onnx(simulate(network, {"w": found}), inputs)[0])
    assert len(file) == file_bytes(network, {"w": found.format})
    assert [stored.format for stored in audit(file).weights] == [found.format]
    assert len(file) < 1700 + weight.nbytes // 4


@pytest.mark.parametrize("format_", [HadamardFormat(3), PowerFormat(3)], ids=lambda format_: format_.name)
@pytest.mark.parametrize("shape", [(64, 5), (5, 64)])
def test_the_runtime_folds_the_unpacking_on_either_side(
    make_network: Callable[..., Network], tmp_path: Path, format_: WeightFormat, shape: tuple[int, int]
) -> None:
    weight = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    transposed = shape[0] < shape[1]
    node = helper.make_node("Gemm", ["x", "w"], ["y"], transB=int(transposed))
    network = make_network([node], {"x": np.ones((2, 64), dtype=np.float32)}, {"w": weight})
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    file = export(network, {"w": round_nearest(weight, format_, 0 if transposed else 1)}, {})
    onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    optimised = onnx.load(tmp_path / "optimised.onnx")
    assert [node.op_type for node in optimised.graph.node] == ["Gemm"]
    assert not optimised.functions


@pytest.mark.parametrize("format_", [HadamardFormat(4), PowerFormat(4)], ids=lambda format_: format_.name)
def test_a_layer_between_quantized_tensors_runs_in_floats_with_the_same_weights(
    make_network: Callable[..., Network], run_onnx: Callable[..., list[NDArray[Any]]], format_: WeightFormat
) -> None:
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((6, 8, 3, 3)).astype(np.float32)
    inputs = {"x": generator.standard_normal((2, 8, 5, 5)).astype(np.float32)}
    bias = generator.standard_normal(6).astype(np.float32)
    network = make_network([helper.make_node("Conv", ["x", "w", "b"], ["y"])], inputs, {"w": weight, "b": bias})
    weights = {"w": round_nearest(weight, format_, 0)}
    activations = {name: QuantizedActivation.covering(UnsignedFormat(8), -9.0, 9.0) for name in ("x", "y")}
    file = export(network, weights, {}, activations)
    np.testing.assert_array_equal(
        run_onnx(file, inputs)[0], run_onnx(simulate(network, weights, activations), inputs)[0]
    )


@pytest.mark.parametrize(
    ("weight", "message"),
    [(np.ones((2, 16)), "finite float32, got float64"), (np.full((2, 16), np.inf, dtype=np.float32), "finite")],
)
def test_refuses_what_has_no_scale(weight: NDArray[np.floating], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        round_rotated(weight, HadamardFormat(4), 0)


def test_refuses_codes_that_no_rotation_fits() -> None:
    with pytest.raises(ValueError, match="multiple of 8"):
        HadamardWeight(HadamardFormat(4), np.zeros((2, 12), dtype=np.int8), np.ones((2, 1), dtype=np.float32))
