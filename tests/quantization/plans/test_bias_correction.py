from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from network.graph import Network
from network.taps import Taps
from quantization.activations.quantized import QuantizedActivation
from quantization.errors import QuantizationError
from quantization.export.cost import file_bytes
from quantization.export.export import export, simulate
from quantization.formats import IntegerFormat, UnsignedFormat
from quantization.plans.bias_correction import Biases, BiasSteps, with_biases
from quantization.plans.lockstep import Lockstep
from quantization.plans.order import stages
from quantization.rounding.nearest import round_nearest
from quantization.storage.weights import QuantizedWeight

MakeNetwork = Callable[..., Network]
RunOnnx = Callable[..., list[NDArray[Any]]]
RNG = np.random.default_rng(0)


def draw(*shape: int) -> NDArray[np.float32]:
    return RNG.standard_normal(shape).astype(np.float32)


IMAGES = draw(30, 4, 9, 9) + 1
ROWS = draw(30, 12) + 1
TOKENS = draw(30, 7, 12) + 1

# operator, input, weight, bias, attributes, axis of the outputs' channels
LAYERS: dict[str, tuple[str, NDArray[np.float32], tuple[int, ...], tuple[int, ...], dict[str, Any], int]] = {
    "conv": ("Conv", IMAGES, (6, 4, 3, 3), (6,), {"pads": [1, 0, 1, 0], "strides": [2, 1]}, 1),
    "conv groups": ("Conv", IMAGES, (6, 2, 3, 3), (6,), {"group": 2, "auto_pad": "SAME_UPPER"}, 1),
    "transposed": ("ConvTranspose", IMAGES, (4, 3, 3, 3), (6,), {"group": 2, "strides": [2, 2]}, 1),
    "gemm": ("Gemm", ROWS, (5, 12), (5,), {"transB": 1, "alpha": 0.5, "beta": 2.0}, 1),
    "gemm of a row": ("Gemm", ROWS, (12, 5), (1, 5), {}, 1),
    "gemm transposed input": ("Gemm", ROWS.T.copy(), (12, 5), (5,), {"transA": 1}, 1),
    "matmul": ("MatMul", TOKENS, (12, 5), (5,), {}, 2),
}


def nearest(network: Network, bits: int) -> dict[str, QuantizedWeight]:
    return {
        site.weight: round_nearest(network.weight(site.weight), IntegerFormat(bits), site.channel_axis)
        for site in network.sites
    }


def corrections(
    network: Network,
    weights: dict[str, QuantizedWeight],
    inputs: NDArray[np.float32],
    activations: dict[str, QuantizedActivation] | None = None,
    batch: int = 64,
) -> dict[str, NDArray[np.float32]]:
    """New biases behind `weights`, layer after layer: later layers see those of earlier ones."""
    lockstep = Lockstep(network, {"x": inputs}, activations or {}, batch=batch, threads=1)
    biases = Biases(network)
    found: dict[str, NDArray[np.float32]] = {}
    dequantized = {name: weight.dequantize() for name, weight in weights.items()}
    for stage in stages(network, weights):
        for _ in lockstep.advance(stage.cut, {**dequantized, **found}):
            pass
        for use in stage.uses:
            error = biases.mean_error(use, lockstep, dequantized[use.site.weight])
            if error is not None:
                found.update(biases.corrected(use.layer, error))
    return found


@pytest.mark.parametrize("layer", LAYERS)
def test_the_mean_output_of_every_channel_is_that_of_float(
    make_network: MakeNetwork, run_onnx: RunOnnx, layer: str
) -> None:
    op_type, inputs, shape, bias_shape, attributes, axis = LAYERS[layer]
    tensors = {"w": draw(*shape), "b": draw(*bias_shape)}
    if op_type == "MatMul":
        nodes = [helper.make_node(op_type, ["x", "w"], ["m"]), helper.make_node("Add", ["b", "m"], ["y"])]
    else:
        nodes = [helper.make_node(op_type, ["x", "w", "b"], ["y"], **attributes)]
    network = make_network(nodes, {"x": inputs}, tensors)
    weights = nearest(network, 2)
    (exact,) = run_onnx(network.proto, {"x": inputs})
    biases = corrections(network, weights, inputs, batch=len(inputs))
    others = tuple(a for a in range(exact.ndim) if a != axis)
    off = [
        (run_onnx(simulate(each, weights), {"x": inputs})[0] - exact).mean(axis=others, dtype=np.float64)
        for each in (network, with_biases(network, biases))
    ]
    assert np.abs(off[0]).max() > 0.01
    np.testing.assert_allclose(off[1], 0, atol=1e-5)


def chain(make_network: MakeNetwork) -> Network:
    tensors = {"w1": draw(5, 4, 3, 3), "b1": draw(5), "w2": draw(6, 5, 3, 3), "b2": draw(6)}
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "w2", "b2"], ["y"], pads=[1, 1, 1, 1]),
    ]
    return make_network(nodes, {"x": IMAGES}, tensors)


def test_later_layers_see_what_is_before_them(make_network: MakeNetwork, run_onnx: RunOnnx) -> None:
    """Behind a Relu the mean is off again, and the next bias takes that; batches do not matter."""
    network = chain(make_network)
    weights = nearest(network, 3)
    (exact,) = run_onnx(network.proto, {"x": IMAGES})
    biases = corrections(network, weights, IMAGES, batch=7)
    (outputs,) = run_onnx(simulate(with_biases(network, biases), weights), {"x": IMAGES})
    np.testing.assert_allclose((outputs - exact).mean(axis=(0, 2, 3)), 0, atol=1e-4)
    assert biases.keys() == {"b1", "b2"}


def test_the_file_takes_them_on_integers_too(make_network: MakeNetwork, run_onnx: RunOnnx) -> None:
    """Quantized activations make both layers integer kernels, with biases of int32 codes; the size stays."""
    network = chain(make_network)
    weights = nearest(network, 3)
    ranges: dict[str, QuantizedActivation] = {}

    def visit(name: str, values: NDArray[np.generic]) -> None:
        ranges[name] = QuantizedActivation.covering(UnsignedFormat(8), float(values.min()), float(values.max()))

    Taps(network, ["x", "r", "y"], 1).run({"x": IMAGES}, visit)
    (exact,) = run_onnx(network.proto, {"x": IMAGES})
    biases = corrections(network, weights, IMAGES, ranges)
    corrected = with_biases(network, biases)
    for build in (lambda n: export(n, weights, {}, ranges), lambda n: simulate(n, weights, ranges)):
        off = [
            np.abs((run_onnx(build(each), {"x": IMAGES})[0] - exact).mean(axis=(0, 2, 3), dtype=np.float64)).max()
            for each in (network, corrected)
        ]
        assert off[1] < 0.05 * off[0] + 0.01
    plan = {name: weight.format for name, weight in weights.items()}
    formats = {name: activation.format for name, activation in ranges.items()}
    assert file_bytes(network, plan, activations=formats) == len(export(corrected, weights, {}, ranges))


def test_steps_are_those_of_the_file(make_network: MakeNetwork, run_onnx: RunOnnx) -> None:
    """A bias at what the file makes of it gives the outputs of the bias as it was; errors above a step are worth it."""
    network = chain(make_network)
    weights = nearest(network, 4)
    ranges = {name: QuantizedActivation.covering(UnsignedFormat(4), -9.0, 9.0) for name in ("x", "r", "y")}
    steps = BiasSteps(network, {name: weight.format for name, weight in weights.items()}, ranges)
    biases = {}
    for site in network.sites:
        (layer,) = site.layers
        assert steps.has(layer)
        weight = weights[site.weight]
        name = {"w1": "b1", "w2": "b2"}[site.weight]
        biases[name] = steps.kept(layer, weight, network.weight(name))
        assert (biases[name] != network.weight(name)).any()
        step = weight.tensors()[-1]
        sizes = onnx.numpy_helper.to_array(step).ravel().astype(np.float64) * ranges["x"].scale
        assert steps.are_coarse(layer, weight, 0.9 * sizes)
        assert not steps.are_coarse(layer, weight, 1.1 * sizes)
    outputs = [
        run_onnx(simulate(each, weights, ranges), {"x": IMAGES})[0] for each in (network, with_biases(network, biases))
    ]
    np.testing.assert_array_equal(*outputs)
    floats = BiasSteps(network, {name: weight.format for name, weight in weights.items()}, {})
    (layer,) = network.sites[0].layers
    assert not floats.has(layer)
    assert not floats.are_coarse(layer, weights["w1"], np.zeros(5))
    assert floats.kept(layer, weights["w1"], biases["b1"]) is biases["b1"]


def test_leaves_alone_what_is_not_the_layers_own(make_network: MakeNetwork) -> None:
    """A bias that two layers read, one that is computed, one of another shape, and a layer without any."""
    tensors = {"w1": draw(12, 5), "w2": draw(12, 5), "w3": draw(5, 5), "w4": draw(5, 5), "b": draw(5), "s": draw(1)}
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b"], ["g1"]),
        helper.make_node("Gemm", ["x", "w2", "b"], ["g2"]),
        helper.make_node("Add", ["g1", "g2"], ["h"]),
        helper.make_node("Gemm", ["h", "w3", "s"], ["g3"]),
        helper.make_node("MatMul", ["g3", "w4"], ["m"]),
        helper.make_node("Add", ["m", "g3"], ["y"]),
    ]
    network = make_network(nodes, {"x": ROWS}, tensors)
    assert corrections(network, nearest(network, 2), ROWS) == {}


def test_new_biases_must_fit(make_network: MakeNetwork) -> None:
    network = chain(make_network)
    before = network.proto.SerializeToString()
    for biases in ({"b9": draw(5)}, {"b1": draw(6)}):
        with pytest.raises(QuantizationError, match="must replace float32 initializers"):
            with_biases(network, biases)
    changed = with_biases(network, {"b1": np.zeros(5, np.float32)})
    assert network.proto.SerializeToString() == before
    assert not changed.weight("b1").any()
    onnx.checker.check_model(changed.proto)
