"""ONNX Runtime's optimised graph: integer kernels where both ends are quantized, floats untouched everywhere else."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from quantization.activations.quantized import QuantizedActivation
from quantization.export.audit import audit
from quantization.export.cost import file_bytes
from quantization.export.export import export, simulate
from quantization.formats import FloatFormat, Granularity, IntegerFormat, UnsignedFormat
from quantization.rounding.nearest import round_nearest
from quantization.storage.weights import IntegerWeight
from tests.quantization.kernels import BEFORE, Arrays, Optimised, RunOnnx, build, draw, ranged, rounded

ROWS = {"x": draw(3, 16)}
LAYERS: dict[str, tuple[list[onnx.NodeProto], Arrays, Arrays, list[str]]] = {
    "Conv": (
        [helper.make_node("Conv", ["x", "w", "b"], ["y"], pads=[1, 1, 1, 1])],
        BEFORE,
        {"w": draw(5, 4, 3, 3), "b": draw(5)},
        ["QLinearConv"],
    ),
    "Conv without bias": (
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        BEFORE,
        {"w": draw(5, 4, 3, 3)},
        ["QLinearConv"],
    ),
    "Conv and Relu": (
        [helper.make_node("Conv", ["x", "w", "b"], ["c"]), helper.make_node("Relu", ["c"], ["y"])],
        BEFORE,
        {"w": draw(5, 4, 3, 3), "b": draw(5)},
        ["QLinearConv"],
    ),
    "depthwise Conv and Clip": (
        [
            helper.make_node("Conv", ["x", "w", "b"], ["c"], group=4),
            helper.make_node("Clip", ["c", "zero", "six"], ["y"]),
        ],
        BEFORE,
        {"w": draw(4, 1, 3, 3), "b": draw(4), "zero": np.float32(0), "six": np.float32(6)},
        ["QLinearConv"],
    ),
    "Conv 1-D": (
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        {"x": draw(2, 3, 9)},
        {"w": draw(5, 3, 3)},  # 45 weights: planes end within an element
        ["QLinearConv"],
    ),
    "Gemm": ([helper.make_node("Gemm", ["x", "w", "b"], ["y"])], ROWS, {"w": draw(16, 5), "b": draw(5)}, ["QGemm"]),
    "Gemm transposed, without bias": (
        [helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)],
        ROWS,
        {"w": draw(5, 16)},
        ["QGemm"],
    ),
    "MatMul": (
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"x": draw(2, 3, 16)},
        {"w": draw(16, 5)},
        ["MatMulIntegerToFloat"],
    ),
    "MatMul and Add": (
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Add", ["b", "h"], ["y"])],
        ROWS,
        {"w": draw(16, 5), "b": draw(5)},
        ["QGemm"],
    ),
    "MatMul into Sigmoid": (
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Sigmoid", ["h"], ["y"])],
        ROWS,
        {"w": draw(16, 5)},
        ["QLinearMatMul", "QLinearSigmoid"],
    ),
}


@pytest.mark.parametrize("granularity", [Granularity.TENSOR, Granularity.CHANNEL])
@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("opset", [18, 25])
def test_every_width_of_weight_reaches_an_integer_kernel(
    optimised: Optimised, run_onnx: RunOnnx, opset: int, layer: str, bits: int, granularity: Granularity
) -> None:
    """The codes are folded (else the unpacking nodes would be there), and the file still stores `bits` a weight."""
    nodes, inputs, tensors, kernels = LAYERS[layer]
    network = build(nodes, inputs, tensors, opset)
    weights, activations = rounded(network, bits, granularity), ranged(network, 8)
    file = export(network, weights, {}, activations)
    onnx.checker.check_model(onnx.load_from_string(file), full_check=True)
    assert optimised(file) == kernels
    (stored,) = audit(file).weights
    assert (stored.name, stored.bits) == ("w", bits)
    assert stored.size_bytes < tensors["w"].size * bits / 8 + 3
    # simulated in floats, where nothing is left to integer kernels: at most one step of the output apart, at few places
    expected = run_onnx(simulate(network, weights, activations), inputs)[0]
    found = run_onnx(file, inputs)[0]
    step = max((a.scale for name, a in activations.items() if name == "y"), default=1e-4)
    assert np.abs(found - expected).max() <= step * 1.01
    assert (np.abs(found - expected) > step / 2).mean() < 0.03
    formats = {name: weight.format for name, weight in weights.items()}
    assert file_bytes(network, formats, {}, {n: a.format for n, a in activations.items()}) == len(file)


@pytest.mark.parametrize("layer", ["Conv and Relu", "Gemm", "MatMul and Add"])
def test_scales_of_either_sign_run_on_integers(optimised: Optimised, run_onnx: RunOnnx, layer: str) -> None:
    nodes, inputs, tensors, kernels = LAYERS[layer]
    network = build(nodes, inputs, tensors)
    weights = rounded(network, 8)
    signs = np.where(np.arange(weights["w"].scale.size) % 2, 1, -1).astype(np.float32)
    mixed = weights["w"].scale * signs.reshape(weights["w"].scale.shape)
    weights = {"w": IntegerWeight(weights["w"].format, weights["w"].codes, mixed)}
    activations = ranged(network, 8)
    file = export(network, weights, {}, activations)
    assert optimised(file) == kernels
    expected = run_onnx(simulate(network, weights, activations), inputs)[0]
    np.testing.assert_allclose(run_onnx(file, inputs)[0], expected, atol=10.01 / 255 if "y" in activations else 1e-4)


FLOAT_ENDS: dict[str, tuple[list[onnx.NodeProto], Arrays, Arrays]] = {
    name: LAYERS[name][:3]
    for name in ("Conv", "Conv without bias", "Conv and Relu", "depthwise Conv and Clip", "Conv 1-D")
} | {
    "Gemm between": (
        [helper.make_node("Gemm", ["x", "w", "b"], ["h"]), helper.make_node("Add", ["h", "h"], ["y"])],
        ROWS,
        {"w": draw(16, 5), "b": draw(5)},
    ),
    "Gemm without bias between": (
        [helper.make_node("Gemm", ["x", "w"], ["h"], transB=1), helper.make_node("Add", ["h", "h"], ["y"])],
        ROWS,
        {"w": draw(5, 16)},
    ),
    "MatMul and Add between": (
        [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("Add", ["h", "b"], ["i"]),
            helper.make_node("Sigmoid", ["i"], ["y"]),
        ],
        ROWS,
        {"w": draw(16, 5), "b": draw(5)},
    ),
    "ConvTranspose between": (
        [
            helper.make_node("ConvTranspose", ["x", "w"], ["c"], group=2),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("Add", ["r", "r"], ["y"]),
        ],
        BEFORE,
        {"w": draw(4, 3, 2, 2)},
    ),
}


@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("layer", FLOAT_ENDS)
def test_a_float_weight_between_quantized_tensors_stays_float(
    optimised: Optimised, run_onnx: RunOnnx, layer: str, bits: int
) -> None:
    """Left alone, ONNX Runtime rounds it to 8 bits at one scale for the tensor: no error, no warning, other values."""
    nodes, inputs, tensors = FLOAT_ENDS[layer]
    network = build(nodes, inputs, tensors)
    activations = ranged(network, bits)
    file = export(network, {}, {}, activations)
    assert not {"QLinearConv", "QGemm", "QLinearMatMul"} & set(optimised(file))
    unoptimised = run_onnx(file, inputs, optimise=False)[0]
    np.testing.assert_allclose(run_onnx(file, inputs)[0], unoptimised, atol=1e-5)
    assert run_onnx(simulate(network, {}, activations), inputs)[0].tobytes() == run_onnx(file, inputs)[0].tobytes()
    assert [weight.bits for weight in audit(file).weights] == [32]
    formats = {name: activation.format for name, activation in activations.items()}
    assert file_bytes(network, {"w": FloatFormat()}, {}, formats) == len(file)


@pytest.mark.parametrize(
    ("nodes", "tensors", "shape"),
    [
        ([helper.make_node("ConvTranspose", ["x", "w"], ["y"])], {"w": draw(4, 5, 3, 3)}, (2, 4, 6, 6)),
        ([helper.make_node("MatMul", ["w", "x"], ["y"])], {"w": draw(5, 4)}, (4, 6)),  # the weight on the left
        ([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": draw(2, 4, 5)}, (2, 6, 4)),  # stacked
        ([helper.make_node("Gemm", ["x", "w"], ["y"], transA=1)], {"w": draw(6, 5)}, (6, 4)),
        ([helper.make_node("Gemm", ["x", "w", "b"], ["y"], beta=0.5)], {"w": draw(4, 5), "b": draw(5)}, (6, 4)),
        ([helper.make_node("Gemm", ["x", "w", "b"], ["y"])], {"w": draw(4, 5), "b": draw(1, 5)}, (6, 4)),
        (
            [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Add", ["h", "b"], ["y"])],
            {"w": draw(4, 5), "b": draw(6, 5)},
            (6, 4),
        ),
        (  # a Relu whose output stays float
            [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Relu", ["c"], ["r"]),
             helper.make_node("Exp", ["r"], ["y"])],
            {"w": draw(5, 4, 3, 3)},
            (2, 4, 6, 6),
        ),
        (  # a Clip whose lower bound no zero point meets
            [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Clip", ["c", "low", "high"], ["y"])],
            {"w": draw(5, 4, 3, 3), "low": np.float32(-1), "high": np.float32(1)},
            (2, 4, 6, 6),
        ),
    ],
)  # fmt: skip
def test_what_has_no_integer_kernel_runs_in_floats(
    optimised: Optimised,
    run_onnx: RunOnnx,
    nodes: list[onnx.NodeProto],
    tensors: Arrays,
    shape: tuple[int, ...],
) -> None:
    """ONNX Runtime fails at run time on some of these, or dequantizes the weight at every inference."""
    inputs = {"x": draw(*shape)}
    network = build(nodes, inputs, tensors)
    weights = rounded(network, 5)
    made = ["y"] if nodes[-1].op_type == "Clip" else []
    activations = dict.fromkeys(["x", *made], QuantizedActivation.covering(UnsignedFormat(8), -4.0, 4.0))
    file = export(network, weights, {}, activations)
    assert not [name for name in optimised(file) if name.startswith(("Q", "MatMulInteger", "Cast", "Mul"))]
    expected = run_onnx(simulate(network, weights, activations), inputs)[0]
    np.testing.assert_allclose(run_onnx(file, inputs)[0], expected, atol=1e-5)
    formats = {name: weight.format for name, weight in weights.items()}
    assert file_bytes(network, formats, {}, dict.fromkeys(activations, UnsignedFormat(8))) == len(file)


@pytest.mark.parametrize("granularity", [Granularity.TENSOR, Granularity.CHANNEL])
@pytest.mark.parametrize("op_type", ["Conv", "Gemm", "MatMul"])
def test_a_square_weight_rounded_along_another_axis_runs_in_floats(
    optimised: Optimised, run_onnx: RunOnnx, op_type: str, granularity: Granularity
) -> None:
    """One scale for all is on integers; kernels would take scales of the inputs' channels for those of the outputs'."""
    inputs = {"x": draw(3, 16, 1) if op_type == "Conv" else draw(3, 16)}
    values = draw(16, 16, 1) if op_type == "Conv" else draw(16, 16)
    axis = 1 if op_type == "Conv" else 0
    values *= np.exp(np.arange(16, dtype=np.float32) / 8).reshape([-1 if i == axis else 1 for i in range(values.ndim)])
    network = build([helper.make_node(op_type, ["x", "w"], ["y"])], inputs, {"w": values})
    weights = {"w": round_nearest(values, IntegerFormat(8, granularity), axis)}
    activations = ranged(network, 8)
    file = export(network, weights, {}, activations)
    on_integers = any(name.startswith(("Q", "MatMulInteger")) for name in optimised(file))
    assert on_integers is (granularity is Granularity.TENSOR)
    expected = run_onnx(simulate(network, weights, activations), inputs)[0]
    step = max((a.scale for name, a in activations.items() if name == "y"), default=1e-3)
    np.testing.assert_allclose(run_onnx(file, inputs)[0], expected, atol=step * 1.01)
