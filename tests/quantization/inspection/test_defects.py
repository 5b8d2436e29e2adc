"""What is planted in a file is found where it was planted, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnxruntime.quantization import QuantFormat, QuantType

from quantization.errors import FileNotInspected
from quantization.inspection.inspection import inspect
from tests.quantization.inspection.conftest import build, defects, draw

pytestmark = pytest.mark.filterwarnings("ignore")  # of ONNX Runtime's tools


def changed(model: onnx.ModelProto, ending: str, change: Callable[[np.ndarray], np.ndarray]) -> onnx.ModelProto:
    """With other values in the one tensor whose name ends so."""
    result = onnx.ModelProto.FromString(model.SerializeToString())
    (tensor,) = (t for t in result.graph.initializer if t.name.endswith(ending))
    before = np.array(numpy_helper.to_array(tensor))
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(change(before)).astype(before.dtype), tensor.name))
    return result


@pytest.fixture(scope="module")
def per_channel(convolutions, static):
    return static(convolutions, per_channel=True)


def zeroed(codes: np.ndarray) -> np.ndarray:
    codes[3] = 0
    return codes


@pytest.mark.parametrize(
    ("ending", "change", "code", "word"),
    [
        ("c2.weight_scale", lambda scale: 1.3 * scale, "scale_wrong", "1.300 times"),
        ("c2.weight_scale", lambda scale: scale[::-1], "scale_wrong", "channels"),
        ("c2.weight_quantized", zeroed, "scale_wrong", "1 of 16 channels are wrong|first 3;"),
        ("c2.weight_quantized", lambda codes: np.clip(codes, -60, 60), "scale_wrong", "times|rounding at"),
        ("c2.weight_quantized", lambda codes: codes[::-1], "near_chance_layer", "cosine"),
        ("c2.weight_quantized", lambda codes: np.where(codes > 126, 1, 0), "near_chance_layer", "next to nothing"),
        ("c2.bias_quantized", lambda codes: 0 * codes, "bias_missing", "adds a bias"),
        ("c2.bias_quantized", lambda codes: codes // 3, "bias_differs", "times"),
        ("c2.bias_quantized", lambda codes: np.roll(codes, 1), "bias_differs", "differs"),
        ("r1_scale", lambda scale: 0 * scale, "zero_range", "positive"),
        ("r1_scale", lambda scale: np.float32(np.nan) * scale, "zero_range", "positive"),
    ],
)  # fmt: skip
def test_values(convolutions, per_channel, ending, change, code, word):
    inspection = inspect(convolutions, changed(per_channel, ending, change))
    assert [found[0] for found in defects(inspection)] == [code]
    (finding,) = (f for f in inspection.findings if f.severity == "defect")
    assert finding.where in ("c2.weight", "c2", "r1")
    assert any(part in finding.text for part in word.split("|"))


def test_zero_point(convolutions, static):
    file = static(convolutions, weight_type=QuantType.QUInt8)
    inspection = inspect(convolutions, changed(file, "c2.weight_zero_point", lambda point: point + 3))
    assert defects(inspection) == [("scale_wrong", "c2.weight")]
    assert "-3.0 steps" in inspection.findings[0].text


def test_normalization_left_out(convolutions, static):
    file = static(convolutions, folds=False)
    (node,) = (n for n in file.graph.node if n.op_type == "BatchNormalization")
    for reader in file.graph.node:
        for place, name in enumerate(reader.input):
            reader.input[place] = node.input[0] if name == node.output[0] else name
    file.graph.node.remove(node)
    assert ("scale_wrong", "c1.weight") in defects(inspect(convolutions, file))


def test_outputs_of_each_other(convolutions, per_channel):
    file = onnx.ModelProto.FromString(per_channel.SerializeToString())
    for node in file.graph.node:
        for place, name in enumerate(node.output):
            node.output[place] = {"a": "b", "b": "a"}.get(name, name)
    assert defects(inspect(convolutions, file)) == [("interface_differs", "a"), ("interface_differs", "b")]


def test_outputs_in_another_order(convolutions, per_channel):
    file = onnx.ModelProto.FromString(per_channel.SerializeToString())
    outputs = list(reversed(file.graph.output))
    del file.graph.output[:]
    file.graph.output.extend(outputs)
    assert defects(inspect(convolutions, file)) == [("interface_differs", "b, a")]


def test_float_weight_left_in_the_file(products, dynamic):
    file = dynamic(products)
    file.graph.initializer.add().CopyFrom(products.graph.initializer[0])
    assert defects(inspect(products, file)) == [("float_copy", "m1.weight")]


def test_codes_stored_twice(products, dynamic):
    file = dynamic(products)
    (codes,) = (t for t in file.graph.initializer if t.name == "m1.weight_quantized")
    file.graph.initializer.add().CopyFrom(codes)
    file.graph.initializer[-1].name = "again"
    file.graph.output.add().name = "again"
    assert ("float_copy", "again") in defects(inspect(products, file))


def test_most_bytes_stay_float(products, dynamic):
    file = dynamic(products, nodes_to_exclude=["m1"])
    assert defects(inspect(products, file)) == [("stays_float", "m1.weight")]
    assert inspect(products, file).float_share == pytest.approx(0.8, abs=0.05)


def test_one_of_two_uses_of_a_tied_weight():
    """The table that is looked up is right, its transpose that makes the logits is not."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["h"], "gather"),
        helper.make_node("Transpose", ["table"], ["turned"], "turn", perm=[1, 0]),
        helper.make_node("MatMul", ["h", "turned"], ["y"], "logits"),
    ]
    model = build(nodes, {"ids": []}, {"table": draw(64, 32)}, ["y"])
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    file = onnx.ModelProto.FromString(model.SerializeToString())
    codes = np.clip(np.rint(draw(64, 32) / 0.03), -127, 127).astype(np.int8)
    for name, values in {
        "codes": codes,
        "turned_codes": codes.T,
        "scale": np.float32(0.03),
        "wide": np.float32(0.06),
    }.items():
        file.graph.initializer.append(
            numpy_helper.from_array(np.ascontiguousarray(values).reshape(np.shape(values)), name)
        )
    del file.graph.initializer[0], file.graph.node[1]
    dequantized = [
        helper.make_node("DequantizeLinear", ["codes", "scale"], ["table"], "dq"),
        helper.make_node("DequantizeLinear", ["turned_codes", "wide"], ["turned"], "dq_turned"),
    ]
    rest = list(file.graph.node)
    del file.graph.node[:]
    file.graph.node.extend([*dequantized, *rest])
    inspection = inspect(model, file)
    assert [w.closeness.multiple for w in inspection.weights] == [
        pytest.approx(1, abs=0.02),
        pytest.approx(2, abs=0.04),
    ]
    assert defects(inspection) == [("scale_wrong", "table")]


@pytest.mark.parametrize("taken_back", [True, False])
def test_channels_rescaled_between_layers(products, dynamic, taken_back):
    """Cross-layer equalization leaves the network what it was; a layer rescaled by itself does not."""
    scale = np.exp(draw(64, seed=9))
    changes = {"m1.weight": scale, "m1.bias": scale, "m2.weight": 1 / scale[:, None] if taken_back else np.float32(1)}
    file = onnx.ModelProto.FromString(products.SerializeToString())
    for tensor in file.graph.initializer:
        values = numpy_helper.to_array(tensor) * changes.get(tensor.name, np.float32(1))
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    inspection = inspect(products, dynamic(file, per_channel=True))
    assert [weight.is_equalized for weight in inspection.weights] == [taken_back, taken_back]
    assert (defects(inspection) == []) == taken_back


def test_nothing_is_quantized(products):
    assert defects(inspect(products, products)) == [("stays_float", "")]


def test_few_codes_in_wide_storage_are_a_warning(products, dynamic):
    file = changed(dynamic(products), "m1.weight_quantized", lambda codes: np.rint(codes / 18))
    file = changed(file, "m1.weight_scale", lambda scale: scale * 18)
    inspection = inspect(products, file)
    assert defects(inspection) == []
    assert [(f.code, f.severity) for f in inspection.findings] == [("unused_codes", "warning")]
    stored = inspection.weights[0].stored
    assert (stored.stored_bits, stored.used_bits) == (8, pytest.approx(np.log2(15), abs=0.01))
    assert 2 < stored.carried_bits < stored.used_bits


def test_a_file_that_does_not_load_is_refused(products, dynamic):
    file = dynamic(products)
    file.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(FileNotInspected, match="does not load"):
        inspect(products, file)


def test_values_outside_of_the_file_are_not_read(products, dynamic):
    file = dynamic(products)
    onnx.external_data_helper.set_external_data(file.graph.initializer[0], "/etc/passwd")
    with pytest.raises(FileNotInspected, match="outside of the quantized file"):
        inspect(products, file)


def test_operators_without_integer_kernels(products, static):
    slow = inspect(products, static(products, activation_type=QuantType.QUInt16)).kernels.slow
    assert {entry.reason for entry in slow} >= {"16-bit activations have no integer kernel"}
    assert inspect(products, static(products, quant_format=QuantFormat.QOperator)).kernels.slow == ()
