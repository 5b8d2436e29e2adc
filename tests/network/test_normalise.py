"""Normalisation: the same outputs, one dialect, weights found and named."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from network.errors import NothingToQuantize, ShapesNotFixed
from network.faithful import faithful
from network.normalise import TARGET_OPSET, dump, load, normalise


def model_of(nodes, initializers, shape, *, opset=18, listed=False, input_type=TensorProto.FLOAT) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in initializers.items()]
    inputs = [helper.make_tensor_value_info("x", input_type, shape)]
    if listed:  # as exporters did before IR version 4
        inputs += [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in tensors]
    graph = helper.make_graph(
        nodes, "g", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], tensors
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def run(data: bytes, x: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def floats(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def conv_batchnorm(rng, **arguments) -> onnx.ModelProto:
    initializers = {
        "w": floats(rng, 6, 3, 3, 3),
        "scale": floats(rng, 6),
        "bias": floats(rng, 6),
        "mean": floats(rng, 6),
        "var": np.abs(floats(rng, 6)) + 0.5,
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("BatchNormalization", ["c", "scale", "bias", "mean", "var"], ["y"]),
    ]
    return model_of(nodes, initializers, ["N", 3, 8, 8], **arguments)


@pytest.mark.parametrize("opset", [9, 11, 13, 18, 21, 25])
@pytest.mark.parametrize("listed", [True, False])
def test_batchnorm_is_folded_and_the_outputs_stay(rng, opset, listed):
    model = conv_batchnorm(rng, opset=opset, listed=listed)
    network = normalise(model)
    assert [node.op_type for node in network.proto.graph.node] == ["Conv"]
    assert network.opset == TARGET_OPSET
    assert [spec.name for spec in network.inputs] == ["x"]
    x = floats(rng, 2, 3, 8, 8)
    np.testing.assert_allclose(run(dump(network), x), run(model.SerializeToString(), x), rtol=1e-4, atol=1e-5)


def test_the_admitted_model_is_not_changed(rng):
    model = conv_batchnorm(rng)
    before = model.SerializeToString()
    normalise(model)
    assert model.SerializeToString() == before


def test_shape_arithmetic_of_a_free_axis_stays_and_costs_are_those_of_the_samples(rng):
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "two"], ["length"]),
        helper.make_node("Unsqueeze", ["length", "zero"], ["l"]),
        helper.make_node("Concat", ["minus", "l"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["r"]),
        helper.make_node("MatMul", ["r", "w"], ["y"]),
    ]
    initializers = {
        "w": floats(rng, 6, 4),
        "two": np.array(2),
        "zero": np.array([0]),
        "minus": np.array([-1]),
    }
    model = model_of(nodes, initializers, ["N", 5, "length"])
    with pytest.raises(ShapesNotFixed, match=r"axis 2 of input 'x' is dynamic \(length\).*add a dataset"):
        normalise(model)
    network = normalise(model, {"x": (5, 6)})
    assert [node.op_type for node in network.proto.graph.node][-2:] == ["Reshape", "MatMul"]
    assert network.inputs[0].shape == (None, 5, 6)
    assert network.outputs[0].shape == (None, 4)
    assert network.sites[0].macs == 5 * 6 * 4
    x = floats(rng, 2, 5, 6)
    np.testing.assert_array_equal(run(dump(network), x), run(model.SerializeToString(), x))
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 6  # now nothing but the batch is free
    assert [node.op_type for node in normalise(model).proto.graph.node] == ["Reshape", "MatMul"]


def test_a_weight_behind_a_transpose_is_a_site_of_its_own_name(rng):
    nodes = [helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0]), helper.make_node("MatMul", ["x", "t"], ["y"])]
    network = normalise(model_of(nodes, {"w": floats(rng, 300, 20)}, ["N", 20]))
    (site,) = network.sites
    assert (site.shape, site.channel_axis, [layer.op_type for layer in site.layers]) == ((20, 300), 1, ["MatMul"])


@pytest.mark.parametrize("free", [0, -1])
def test_a_free_batch_axis_in_any_spelling(rng, free):
    model = conv_batchnorm(rng)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = free
    assert normalise(model).inputs[0].shape == (None, 3, 8, 8)


@pytest.mark.parametrize("rows", [30, 500])
def test_an_embedding_tied_to_the_output_is_stored_once(rng, rows):
    """The transposed use must not become a copy: that would cost the size of the table again."""
    nodes = [
        helper.make_node("Gather", ["table", "x"], ["e"]),
        helper.make_node("Transpose", ["table"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["e", "t"], ["y"]),
    ]
    model = model_of(nodes, {"table": floats(rng, rows, 16)}, ["N", 4], input_type=TensorProto.INT64)
    network = normalise(model)
    assert [site.weight for site in network.sites] == ["table"]
    assert len(dump(network)) < 1.1 * rows * 16 * 4 + 500


def test_a_weight_used_twice_is_one_site_with_two_layers(rng):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MatMul", ["h", "w"], ["y"])]
    network = normalise(model_of(nodes, {"w": floats(rng, 4, 4)}, ["N", 4]))
    (site,) = network.sites
    assert len(site.layers) == 2
    assert site.macs == 2 * 16
    assert site.aliases >= {"w", *(layer.name for layer in site.layers)}


def test_sites_know_axes_and_multiply_accumulates(rng):
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight"], ["a"], group=2, pads=[1, 1, 1, 1], name="first"),
        helper.make_node("ConvTranspose", ["a", "up.weight"], ["b"], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["b"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "fc.weight"], ["y"], transB=1),
    ]
    initializers = {
        "conv.weight": floats(rng, 6, 2, 3, 3),
        "up.weight": floats(rng, 6, 5, 2, 2),
        "fc.weight": floats(rng, 3, 5),
    }
    network = normalise(model_of(nodes, initializers, ["N", 4, 7, 7]))
    assert [(site.name, site.channel_axis) for site in network.sites] == [("conv", 0), ("up", 1), ("fc", 0)]
    assert [site.macs for site in network.sites] == [6 * 49 * 2 * 9, 6 * 49 * 5 * 4, 3 * 5]
    assert network.sites[0].layers[0].group == 2


def test_a_network_without_weights_is_refused(rng):
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], {}, ["N", 4])
    with pytest.raises(NothingToQuantize, match=r"no weight can be quantized.*expected at least one Conv"):
        normalise(model)


def test_weights_that_are_codes_already_are_told(rng):
    nodes = [helper.make_node("DequantizeLinear", ["c", "s"], ["w"]), helper.make_node("MatMul", ["x", "w"], ["y"])]
    codes = {"c": rng.integers(-99, 99, (4, 4)).astype(np.int8), "s": np.float32(0.1)}
    with pytest.raises(NothingToQuantize, match="that DequantizeLinear reads are quantized already"):
        normalise(model_of(nodes, codes, ["N", 4]))


def test_weights_in_layouts_of_onnx_runtime_are_named_where_there_are_no_others():
    node = helper.make_node("Conv", ["x", "w"], ["y"], domain="com.microsoft.nchwc")
    model = model_of([node], {"w": np.ones((8, 8, 1, 1), np.float32)}, ["N", 8, 4, 4])
    model.opset_import.append(helper.make_opsetid("com.microsoft.nchwc", 1))
    with pytest.raises(NothingToQuantize, match=r"weights of com\.microsoft\.nchwc\.Conv have no format"):
        normalise(model)


def test_load_reads_what_dump_wrote_and_bytes_are_reproducible(rng):
    model = conv_batchnorm(rng)
    data = dump(normalise(model))
    assert dump(load(data)) == data == dump(normalise(model))
    assert load(data).sites == normalise(model).sites


def test_a_folded_constant_does_not_outgrow_the_file(rng):
    """Expand of a scalar to ten million elements stays computed at run time."""
    nodes = [
        helper.make_node("Expand", ["one", "shape"], ["big"]),
        helper.make_node("ReduceSum", ["big"], ["sum"], keepdims=0),
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Add", ["m", "sum"], ["y"]),
    ]
    initializers = {"one": np.float32(1), "shape": np.array([10_000_000]), "w": floats(rng, 4, 4)}
    assert len(dump(normalise(model_of(nodes, initializers, ["N", 4])))) < 10_000


@pytest.mark.parametrize("opset", [13, 18])
def test_native_code_sees_no_large_weight(rng, opset, monkeypatch):
    """It takes messages of less than two gigabytes; weights keep their order and their values."""
    sizes = []

    def watched(called):
        def call(model, *arguments, **options):
            sizes.append(len(model if isinstance(model, bytes) else model.SerializeToString()))
            return called(model, *arguments, **options)

        return call

    for module, name in ((onnx.version_converter, "convert_version"), (onnx.shape_inference, "infer_shapes")):
        monkeypatch.setattr(module, name, watched(getattr(module, name)))
    nodes = [helper.make_node("MatMul", ["x", "a"], ["h"]), helper.make_node("Gemm", ["h", "b", "c"], ["y"])]
    initializers = {"a": floats(rng, 64, 80), "b": floats(rng, 80, 96), "c": floats(rng, 96)}
    network = normalise(model_of(nodes, initializers, ["N", 64], opset=opset))
    assert sizes
    assert max(sizes) < 4000  # the weights have 50,000 bytes
    assert list(network.initializers) == ["a", "b", "c"]
    assert all(np.array_equal(network.weight(name), values) for name, values in initializers.items())
    assert [spec.name for spec in network.inputs] == ["x"]


def test_a_network_with_external_data(rng, tmp_path):
    model = conv_batchnorm(rng)
    whole = dump(normalise(model))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    assert dump(normalise(onnx.load(tmp_path / "m.onnx"))) == whole


@pytest.mark.parametrize("op_type", ["Neg", "CumProd"])
def test_a_network_of_the_newest_opset_stays_there_only_for_what_is_new_in_it(rng, op_type):
    inputs = ["x", "axis"] if op_type == "CumProd" else ["x"]
    nodes = [helper.make_node(op_type, inputs, ["h"]), helper.make_node("MatMul", ["h", "w"], ["y"])]
    model = model_of(nodes, {"w": floats(rng, 4, 4), "axis": np.array(1)}, ["N", 4], opset=26)
    x = floats(rng, 3, 4)
    network = faithful(model.SerializeToString(), model, {"x": x}, {"x": (4,)})
    assert network.opset == load(dump(network)).opset == (26 if op_type == "CumProd" else TARGET_OPSET)
    np.testing.assert_allclose(run(dump(network), x), run(model.SerializeToString(), x), rtol=1e-5, atol=1e-6)


def test_on_which_device_a_node_is_to_run_is_left_out(rng):
    """A configuration without a name is what a reader of files refuses to write again."""
    body = helper.make_graph(
        [helper.make_node("Relu", ["t"], ["y_body"])],
        "body",
        [],
        [helper.make_tensor_value_info("y_body", TensorProto.FLOAT, None)],
    )
    chosen = helper.make_node("If", ["yes"], ["y"], then_branch=body, else_branch=body)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["t"]), chosen]
    model = model_of(nodes, {"w": floats(rng, 4, 4), "yes": np.array(True)}, ["N", 4])
    plain = normalise(model, {"x": (4,)})
    model.configuration.add(name="two", num_devices=2)
    for node in (model.graph.node[0], model.graph.node[1].attribute[0].g.node[0]):
        node.device_configurations.add()
    assert dump(normalise(model, {"x": (4,)})) == dump(plain)
