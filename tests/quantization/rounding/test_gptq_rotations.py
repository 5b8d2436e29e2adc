"""GPTQ in a rotated basis, against GPTQ of the rotated problem written out, and against rounding alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import helper

from network.graph import Network
from quantization.formats import HadamardFormat, IntegerFormat
from quantization.rounding.gptq import gptq, prepare
from quantization.rounding.gptq_rotations import hadamard_gptq
from quantization.rounding.nearest import round_rotated
from quantization.rounding.statistics import InputStatistics, input_statistics
from quantization.storage.rotations import hadamard
from quantization.storage.weights import QuantizedWeight

Layer = tuple[NDArray[np.float32], InputStatistics, int]

LAYERS: dict[str, tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "conv": ("Conv", (24, 16, 6, 6), (6, 16, 3, 3), {"pads": [1, 1, 1, 1]}),
    "conv groups": ("Conv", (24, 16, 6, 6), (6, 8, 3, 3), {"group": 2}),
    "gemm": ("Gemm", (300, 96), (96, 12), {}),
    "gemm transposed": ("Gemm", (300, 64), (12, 64), {"transB": 1}),
    "matmul": ("MatMul", (20, 10, 40), (40, 7), {}),
}


def _layer(make_network: Callable[..., Network], op_type: str, given: Any, shape: Any, attributes: Any) -> Layer:
    """A weight, the statistics of correlated inputs, and the channel axis."""
    generator = np.random.default_rng(7)
    inputs = generator.standard_normal(given).astype(np.float32)
    for axis in range(1, inputs.ndim):
        inputs = inputs + 0.7 * np.roll(inputs, 1, axis=axis)
    inputs = np.maximum(inputs, 0)
    weight = generator.standard_normal(shape).astype(np.float32)
    network = make_network([helper.make_node(op_type, ["x", "w"], ["y"], **attributes)], {"x": inputs}, {"w": weight})
    (site,) = network.sites
    statistics = input_statistics(network, site)
    assert isinstance(statistics, InputStatistics)
    statistics.add(site.layers[0], inputs)
    return weight, statistics, site.channel_axis


@pytest.fixture(params=LAYERS)
def layer(request: pytest.FixtureRequest, make_network: Callable[..., Network]) -> Layer:
    return _layer(make_network, *LAYERS[request.param])


def _error(weight: NDArray[np.float32], rounded: QuantizedWeight, statistics: InputStatistics) -> float:
    """`sum d H d'` over all rows."""
    to_matrix = statistics.reduction.to_matrix
    deltas = to_matrix(rounded.dequantize()).astype(np.float64) - to_matrix(weight)
    return float(np.einsum("grk,gkl,grl->", deltas, statistics.hessian, deltas))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_is_gptq_of_the_rotated_problem(layer: Layer, bits: int) -> None:
    weight, statistics, axis = layer
    reduction = statistics.reduction
    matrix = reduction.to_matrix(weight)
    reduced = matrix.shape[2]
    block = min(reduced & -reduced, 64)
    dense = np.kron(np.eye(reduced // block), hadamard(block) / np.sqrt(block))
    turned = copy.copy(statistics)
    turned.hessian = dense.T @ statistics.hessian @ dense
    target = reduction.from_matrix((matrix @ dense).astype(np.float32), weight.shape)
    (expected,) = gptq(prepare(target, turned), [IntegerFormat(bits)], axis)
    found, other = hadamard_gptq(weight, [HadamardFormat(bits), HadamardFormat(5)], axis, statistics)
    assert (found.format.bits, other.format.bits) == (bits, 5)
    values = reduction.from_matrix(reduction.to_matrix(expected.dequantize()) @ dense.T, weight.shape)
    # float32 updates may send a value that lies between two codes the other way, and the rest of its row after it
    assert np.mean(found.codes == expected.codes) > 0.9
    same = np.all(reduction.to_matrix(found.codes == expected.codes), axis=2)
    np.testing.assert_allclose(
        reduction.to_matrix(found.dequantize())[same], reduction.to_matrix(values)[same], rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_outputs_are_nearer_than_by_rounding_alone(layer: Layer, bits: int) -> None:
    weight, statistics, axis = layer
    alone = round_rotated(weight, HadamardFormat(bits), axis)
    (found,) = hadamard_gptq(weight, [HadamardFormat(bits)], axis, statistics)
    assert _error(weight, found, statistics) < 0.7 * _error(weight, alone, statistics)


def test_a_transposed_convolution_is_rounded_value_by_value(make_network: Callable[..., Network]) -> None:
    layer = ("ConvTranspose", (8, 1, 6, 6), (1, 5, 4, 4), {"strides": [2, 2]})
    weight, statistics, axis = _layer(make_network, *layer)
    (found,) = hadamard_gptq(weight, [HadamardFormat(4)], axis, statistics)
    np.testing.assert_array_equal(found.codes, round_rotated(weight, HadamardFormat(4), axis).codes)


def test_refuses_what_no_rotation_fits(make_network: Callable[..., Network]) -> None:
    weight, statistics, axis = _layer(make_network, "Gemm", (40, 12), (12, 3), {})
    with pytest.raises(ValueError, match="multiple of 8"):
        hadamard_gptq(weight, [HadamardFormat(4)], axis, statistics)
