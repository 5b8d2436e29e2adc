"""What a file leaves free stays free, and what it declares stays declared."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import ModelProto, StringStringEntryProto, TensorProto, ValueInfoProto, helper, numpy_helper

from network.activations import find_activations, ranges_at_other_lengths
from network.errors import ShapesNotFixed
from network.execution import TorchNetwork
from network.memory import normalised_memory
from network.normalise import SAMPLE_SHAPES_KEY, dump, load, normalise

F, I64 = TensorProto.FLOAT, TensorProto.INT64
node, value = helper.make_node, helper.make_tensor_value_info


def model_of(nodes, inputs, outputs, weights, opset=18) -> ModelProto:
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def floats(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def dense(inputs, outputs, **options) -> ModelProto:
    """y = x w, with [.., 4] to [.., 3]."""
    return model_of([node("MatMul", ["x", "w"], ["y"])], inputs, outputs, {"w": floats(4, 3)}, **options)


def heads(outputs=("batch", "time", 6), opset=18) -> ModelProto:
    """[batch, time, 6] as two heads, which look at each other, by shapes that the graph computes."""
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "zero"], ["batch"]),
        node("Gather", ["shape", "one"], ["time"]),
        node("Unsqueeze", ["batch", "first"], ["b"]),
        node("Unsqueeze", ["time", "first"], ["t"]),
        node("Concat", ["b", "t", "split"], ["apart"], axis=0),
        node("Concat", ["b", "t", "whole"], ["together"], axis=0),
        node("MatMul", ["x", "w"], ["h"], name="in"),
        node("Reshape", ["h", "apart"], ["h4"]),
        node("Transpose", ["h4"], ["q"], perm=[0, 2, 1, 3]),
        node("Transpose", ["h4"], ["k"], perm=[0, 2, 3, 1]),
        node("MatMul", ["q", "k"], ["scores"], name="scores"),
        node("Softmax", ["scores"], ["p"]),
        node("MatMul", ["p", "q"], ["mixed"], name="mix"),
        node("Transpose", ["mixed"], ["m4"], perm=[0, 2, 1, 3]),
        node("Reshape", ["m4", "together"], ["m"]),
        node("MatMul", ["m", "v"], ["y"], name="out"),
    ]
    weights = {"w": floats(6, 8), "v": floats(8, 6), "zero": 0, "one": 1, "first": np.array([0])}
    weights |= {"split": np.array([2, 4]), "whole": np.array([8])}
    return model_of(nodes, [value("x", F, ["batch", "time", 6])], [value("y", F, outputs)], weights, opset)


def axes(described: ValueInfoProto) -> list[int | str] | None:
    tensor = described.type.tensor_type
    return [d.dim_param or d.dim_value for d in tensor.shape.dim] if tensor.HasField("shape") else None


def run(model: ModelProto | bytes, **inputs: np.ndarray) -> list[np.ndarray]:
    data = model if isinstance(model, bytes) else model.SerializeToString()
    return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, inputs)


@pytest.mark.parametrize(
    ("declared", "kept"),
    [
        (["batch", "time", 4], ["batch", "time", 4]),
        ([2, "time", 4], [2, "time", 4]),
        ([None, "N", 4], [0, "N", 4]),
        ([None, None, 4], [0, 0, 4]),
        (["time", "time", 4], ["time", "time", 4]),
        ([-1, 0, 4], [0, 0, 4]),
        (["b", 5, 4], ["b", 5, 4]),
    ],
)
def test_axes_of_inputs_stay(declared, kept):
    network = normalise(dense([value("x", F, declared)], [value("y", F, None)]), {"x": (5, 4)})
    assert [axes(i) for i in network.proto.graph.input] == [kept]
    assert network.inputs[0].shape == (2 if declared[0] == 2 else None, 5, 4)
    assert network.sites[0].macs == 5 * 4 * 3  # of one sample


@pytest.mark.parametrize(
    "declared", [["batch", "time", 3], ["batch", "other", 3], ["batch", None, 3], ["batch", 5, 3], None]
)
def test_axes_of_outputs_stay_as_declared(declared):
    """Also those that an exporter wrote down from its example, as 5 here: they are no reason to fold anything."""
    model = dense([value("x", F, ["batch", "time", 4])], [value("y", F, declared)])
    (output,) = normalise(model, {"x": (5, 4)}).proto.graph.output
    assert axes(output) == (declared and [name or 0 for name in declared])


def test_two_axes_of_one_name_may_have_different_lengths():
    """ONNX Runtime does not mind, so equal names must not make one axis stand for the other."""
    nodes = [
        node("Shape", ["b"], ["shape"]),
        node("MatMul", ["a", "w"], ["h"]),
        node("Expand", ["h", "shape"], ["y"]),
    ]
    inputs = [value("a", F, ["batch", "length", 4]), value("b", F, ["batch", "length", 3])]
    model = model_of(nodes, inputs, [value("y", F, None)], {"w": floats(4, 3)})
    network = normalise(model, {"a": (1, 4), "b": (2, 3)})
    assert [axes(i) for i in network.proto.graph.input] == [["batch", "length", 4], ["batch", "length", 3]]
    for lengths in ((1, 2), (1, 7), (5, 5)):
        arrays = {"a": floats(2, lengths[0], 4), "b": floats(2, lengths[1], 3)}
        np.testing.assert_array_equal(run(dump(network), **arrays)[0], run(model, **arrays)[0])


@pytest.mark.parametrize("opset", [13, 18, 21])
def test_computed_shapes_follow_the_lengths_that_are_fed(opset):
    model = heads(opset=opset)
    network = normalise(model, {"x": (5, 6)})
    for batch, time in ((2, 5), (3, 1), (1, 9)):
        x = floats(batch, time, 6)
        expected = run(model, x=x)[0]
        np.testing.assert_allclose(run(dump(network), x=x)[0], expected, rtol=1e-5, atol=1e-6)
        (y,) = TorchNetwork(network).run({"x": torch.from_numpy(x)})
        np.testing.assert_allclose(y.detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_what_the_analysis_knows_of_computed_shapes_is_what_fixed_axes_would_say():
    """The oracle is the same network with its axis fixed in the file."""
    free, fixed = heads(), heads()
    fixed.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 5
    of_free, of_fixed = (normalise(model, {"x": (5, 6)}) for model in (free, fixed))
    assert [(site.name, site.macs) for site in of_free.sites] == [("w", 5 * 6 * 8), ("v", 5 * 8 * 6)]
    assert of_free.sites == of_fixed.sites
    assert of_free.inputs == of_fixed.inputs
    assert of_free.outputs == of_fixed.outputs
    assert find_activations(of_free) == find_activations(of_fixed)
    assert of_free.float_shapes[0] == of_fixed.float_shapes[0]
    of_both = [normalised_memory(network, 3) for network in (of_free, of_fixed)]
    assert of_both[0].activation_bytes == pytest.approx(of_both[1].activation_bytes, rel=0.05)  # lengths are values too
    assert of_both[0].unknown == 0


def test_shapes_that_inference_does_not_follow_are_folded():
    """Half of the length, by a division, and ones of that shape."""
    nodes = [
        node("Shape", ["x"], ["time"], start=1, end=2),
        node("Div", ["time", "two"], ["half"]),
        node("Where", ["yes", "half", "two"], ["chosen"]),
        node("Concat", ["minus", "chosen", "eight"], ["target"], axis=0),
        node("Reshape", ["x", "target"], ["r"]),
        node("MatMul", ["r", "w"], ["y"]),
    ]
    weights = {"w": floats(8, 3), "two": np.array([2]), "yes": np.array([True]), "minus": np.array([-1])}
    inputs = [value("x", F, ["batch", "time", 4])]
    network = normalise(
        model_of(nodes, inputs, [value("y", F, None)], weights | {"eight": np.array([8])}), {"x": (6, 4)}
    )
    assert network.outputs[0].shape == (None, 3, 3)
    assert network.sites[0].macs == 3 * 8 * 3
    assert normalised_memory(network, 5).unknown == 0


def test_lengths_of_samples_travel_beside_the_network_and_only_where_an_axis_is_free():
    network = normalise(heads(), {"x": (5, 6)})
    assert load(dump(network)) == network
    assert dump(load(dump(network))) == dump(network)
    assert [entry.key for entry in ModelProto.FromString(dump(network)).metadata_props] == [SAMPLE_SHAPES_KEY]
    assert not network.proto.metadata_props
    fixed = normalise(dense([value("x", F, ["batch", 4])], [value("y", F, ["batch", 3])]), {"x": (4,)})
    assert not fixed.sample_shapes
    assert not ModelProto.FromString(dump(fixed)).metadata_props


@pytest.mark.parametrize("written", ["not json", json.dumps({"x": [700, 4]})])
def test_an_uploaded_file_cannot_say_what_the_samples_are(written):
    model = dense([value("x", F, ["batch", 5, 4])], [value("y", F, None)])
    model.metadata_props.extend(
        [StringStringEntryProto(key=SAMPLE_SHAPES_KEY, value=written), StringStringEntryProto(key="a", value="b")]
    )
    network = normalise(model)
    assert load(dump(network)).sites[0].macs == 5 * 4 * 3
    assert [entry.key for entry in network.proto.metadata_props] == ["a"]


def test_an_axis_that_no_data_fixes_is_an_error():
    model = dense([value("x", F, ["batch", "time", 4])], [value("y", F, None)])
    for shapes in (None, {}, {"x": (4,)}):
        with pytest.raises(ShapesNotFixed, match=r"axis 1 of input 'x' is dynamic \(time\) and no data fixes it"):
            normalise(model, shapes)


def test_what_is_made_for_a_length_is_no_activation():
    """A mask of infinities, and positions, both from the lengths alone; as constants they were none either."""
    nodes = [
        node("Shape", ["x"], ["shape"], start=1, end=2),
        node("Concat", ["shape", "shape"], ["square"], axis=0),
        node("ConstantOfShape", ["square"], ["full"], value=numpy_helper.from_array(np.array([-np.inf], np.float32))),
        node("Trilu", ["full", "above"], ["mask"]),
        node("MatMul", ["x", "w"], ["h"]),
        node("Transpose", ["h"], ["t"], perm=[0, 2, 1]),
        node("MatMul", ["h", "t"], ["scores"]),
        node("Add", ["scores", "mask"], ["masked"]),
        node("Softmax", ["masked"], ["p"]),
        node("MatMul", ["p", "h"], ["y"]),
    ]
    weights = {"w": floats(4, 4), "above": np.array(1)}
    model = model_of(nodes, [value("x", F, ["batch", "time", 4])], [value("y", F, None)], weights)
    network = normalise(model, {"x": (6, 4)})
    assert "mask" in network.makers
    assert [site.name for site in find_activations(network)] == ["x", "h", "p"]
    assert ranges_at_other_lengths(network) == {"p": (0.0, 1.0)}
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 6
    assert not ranges_at_other_lengths(normalise(model))


@pytest.mark.parametrize("opset", [18, 21, 23])
def test_an_older_opset_takes_every_length_too(opset):
    """Operators that it does not have are written without the lengths of the samples in them."""
    nodes = [
        *(node("MatMul", ["x", f"w{letter}"], [letter]) for letter in "qkv"),
        node(
            "Attention",
            ["q", "k", "v", "", "past_k", "past_v"],
            ["a", "present_k", "present_v"],
            q_num_heads=2,
            kv_num_heads=1,
            is_causal=1,
        ),
        node("RMSNormalization", ["a", "scale"], ["n"], axis=2),
        node("MatMul", ["n", "wo"], ["o"]),
        node("Transpose", ["o"], ["c"], perm=[0, 2, 1]),
        node("GroupNormalization", ["c", "ones", "zeros"], ["g"], num_groups=2),
        node("Gelu", ["g"], ["y"]),
    ]
    cache = [value(name, F, ["batch", 1, "past", 4]) for name in ("past_k", "past_v")]
    outputs = [value("y", F, ["batch", 8, "time"])]
    outputs += [value(name, F, ["batch", 1, "all", 4]) for name in ("present_k", "present_v")]
    weights = {"wq": floats(8, 8), "wk": floats(8, 4), "wv": floats(8, 4), "wo": floats(8, 8)}
    weights |= {"scale": np.abs(floats(8)), "ones": floats(8), "zeros": floats(8)}
    model = model_of(nodes, [value("x", F, ["batch", "time", 8]), *cache], outputs, weights, opset=23)
    network = load(dump(normalise(model, {"x": (5, 8), "past_k": (1, 3, 4), "past_v": (1, 3, 4)})), opset)
    assert [axes(v) for v in network.proto.graph.output] == [axes(v) for v in outputs]
    for time, past in ((5, 3), (1, 0), (1, 9), (12, 2)):
        arrays = {"x": floats(2, time, 8), "past_k": floats(2, 1, past, 4), "past_v": floats(2, 1, past, 4)}
        for found, expected in zip(run(dump(network), **arrays), run(model, **arrays), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
