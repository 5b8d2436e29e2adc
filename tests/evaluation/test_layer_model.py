"""Layers as files of their own: that they compute in the format that is said, and equal layers are equal files."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from evaluation.latency import Timed
from evaluation.layer_model import digest, inputs_of, layer_model
from network.batching import Batching
from network.graph import Network
from network.normalise import normalise
from network.taps import Taps
from quantization.export.audit import audit
from quantization.export.products import Products
from quantization.formats import FloatFormat, Granularity, IntegerFormat, UnsignedFormat

UINT8 = UnsignedFormat(8)


@pytest.fixture(scope="module")
def network() -> Network:
    """Two convolutions of equal shape (one with an activation behind it), another, an embedding, two products."""
    generator = np.random.default_rng(0)

    def weight(*shape: int) -> np.ndarray:
        return generator.standard_normal(shape).astype(np.float32)

    weights = {"w1": weight(4, 4, 3, 3), "b1": weight(4), "w2": weight(4, 4, 3, 3), "b2": weight(4)}
    weights |= {"w3": weight(6, 4, 1, 1), "table": weight(9, 5), "w4": weight(150, 32), "w5": weight(32, 150)}
    weights |= {"w6": weight(1, 32, 5), "w7": weight(1, 32, 8)}
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], pads=[1] * 4, name="one"),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Conv", ["r", "w2", "b2"], ["b"], pads=[1] * 4, name="two"),
        helper.make_node("Conv", ["b", "w3"], ["c"], name="three"),
        helper.make_node("Flatten", ["c"], ["f"]),
        helper.make_node("MatMul", ["f", "w4"], ["m"], name="product"),
        helper.make_node("Gemm", ["m", "w5"], ["y"], name="linear"),
        helper.make_node("Gather", ["table", "i"], ["e"], name="embedding"),
        helper.make_node("Transpose", ["e"], ["et"], perm=[1, 0, 2]),
        helper.make_node("LSTM", ["et", "w6", "w7"], ["", "h"], name="recurrent", hidden_size=8),
    ]
    graph = helper.make_graph(
        nodes,
        "layers",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 5, 5]),
            helper.make_tensor_value_info("i", TensorProto.INT64, ["N", 2]),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 150]),
            helper.make_tensor_value_info("e", TensorProto.FLOAT, ["N", 2, 5]),
            helper.make_tensor_value_info("h", TensorProto.FLOAT, [1, "N", 8]),
        ],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return normalise(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8))


@pytest.fixture(scope="module")
def make(network: Network):
    generator = np.random.default_rng(1)
    fed = {
        "x": generator.standard_normal((1, 4, 5, 5)).astype(np.float32),
        "i": np.array([[3, 8]], dtype=np.int64),
    }

    def make(name: str, format_, activation=None, weight=None, products=Products.FLOAT) -> Timed:
        layer = next(layer for layer in network.layers() if layer.name == name and weight in (None, layer.weight))
        values = {}
        Taps(network, inputs_of(network, layer), 1).run(fed, lambda tensor, array: values.update({tensor: array}))
        return layer_model(network, layer, values, format_, activation, products)

    return make


def kernels(timed: Timed, path) -> set[str]:
    """The operators that ONNX Runtime runs."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(timed.model, options, providers=["CPUExecutionProvider"])
    assert np.isfinite(session.run(None, dict(timed.inputs))[0].astype(np.float64)).all()
    return {node.op_type for node in onnx.load(path).graph.node}


LAYERS = ["one", "two", "three", "product", "linear", "embedding"]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("format_", [FloatFormat(), IntegerFormat(3), IntegerFormat(8, Granularity.TENSOR)])
def test_every_layer_runs_in_every_format_as_the_float_kernel(make, tmp_path, name, format_):
    """Weights are unpacked when the file is loaded: what runs is the float graph."""
    timed = make(name, format_)
    assert [weight.bits for weight in audit(timed.model).weights] == [format_.bits]
    float_kernels = kernels(make(name, FloatFormat()), tmp_path / "float.onnx")
    assert kernels(timed, tmp_path / "model.onnx") == float_kernels
    assert len(float_kernels) <= 2  # a convolution may come with a change of layout


@pytest.mark.parametrize(
    ("name", "kernel"),
    [("one", "QLinearConv"), ("three", "QLinearConv"), ("product", "QLinearMatMul"), ("linear", "QGemm")],
)
@pytest.mark.parametrize("bits", [2, 8])
def test_between_8_bit_activations_the_integer_kernel_runs_alone(make, tmp_path, name, kernel, bits):
    found = kernels(make(name, IntegerFormat(bits), UINT8), tmp_path / "model.onnx")
    assert found == {kernel} or found == {kernel, "Transpose"}


@pytest.mark.parametrize("weight", ["w6", "w7"])
def test_each_weight_of_a_recurrent_layer_by_itself(network, make, tmp_path, weight):
    timed = make("recurrent", IntegerFormat(3), weight=weight)
    assert sorted(stored.bits for stored in audit(timed.model).weights) == [3, 32]
    shape = network.initializers[weight].dims
    assert next(list(w.shape) for w in audit(timed.model).weights if w.bits == 3) == list(shape)
    assert kernels(timed, tmp_path / "model.onnx") == {"LSTM"}


def test_a_float_weight_between_8_bit_activations_stays_float(make, tmp_path):
    found = kernels(make("one", FloatFormat(), UINT8), tmp_path / "model.onnx")
    assert {"DequantizeLinear", "QuantizeLinear"} <= found


@pytest.mark.parametrize("symmetric", [True, False])
def test_weights_in_blocks_are_timed_as_they_are_multiplied(make, tmp_path, symmetric):
    in_blocks = IntegerFormat(4, Granularity.BLOCK, symmetric, 16)
    packed = make("linear", in_blocks, products=Products.PACKED)
    assert kernels(packed, tmp_path / "model.onnx") == {"MatMulNBits"}
    assert [weight.format for weight in audit(packed.model).weights] == [in_blocks]
    folded = make("linear", in_blocks)
    assert digest(folded) == digest(make("linear", FloatFormat()))  # unpacked at load


def test_products_that_round_their_input_are_timed_where_the_network_fixes_its_calls(network, tmp_path):
    fixed = replace(network, batching=Batching(size=1))
    layer = next(layer for layer in network.layers() if layer.name == "linear")
    fed = {"m": np.ones((1, 32), dtype=np.float32)}
    eight = IntegerFormat(8)
    dynamic, between = (layer_model(fixed, layer, fed, eight, read, Products.DYNAMIC) for read in (None, UINT8))
    assert kernels(dynamic, tmp_path / "dynamic.onnx") == {"DynamicQuantizeMatMul"}
    assert kernels(between, tmp_path / "between.onnx") == {"QGemm"}
    free = layer_model(network, layer, fed, eight, None, Products.DYNAMIC)
    assert digest(free) == digest(layer_model(network, layer, fed, eight))


def test_equal_layers_are_equal_files_and_others_are_not(make):
    four = IntegerFormat(4)
    assert digest(make("one", four)) == digest(make("two", four))
    assert digest(make("one", four, UINT8)) == digest(make("two", four, UINT8))
    different = [make(name, four) for name in LAYERS if name != "two"]
    different += [make("one", IntegerFormat(5)), make("one", FloatFormat()), make("one", four, UINT8)]
    different += [make("one", IntegerFormat(4, Granularity.TENSOR))]
    assert len({digest(timed) for timed in different}) == len(different)
