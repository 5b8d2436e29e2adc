"""Sessions whose weights lie in a folder give the same bits, and hold no second copy of them."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from network.message_size import size_bytes
from network.normalise import dump, from_proto, load
from network.runtime import session_of
from network.segments import SegmentedNetwork
from network.weight_folder import LARGE, WeightFolder, in_folder

WIDTH = 256


def model() -> onnx.ModelProto:
    """Two matrices, of which only the first is large."""
    rng = np.random.default_rng(0)
    large = rng.normal(size=(WIDTH, WIDTH)).astype(np.float32)
    small = rng.normal(size=(WIDTH, 3)).astype(np.float32)
    assert small.nbytes < LARGE < large.nbytes
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "large"], ["h"], "one"),
            helper.make_node("MatMul", ["h", "small"], ["y"], "two"),
        ],
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(large, "large"), numpy_helper.from_array(small, "small")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def samples() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).normal(size=(5, WIDTH)).astype(np.float32)}


def test_a_message_without_its_large_values_runs_to_the_same_bits() -> None:
    whole, folder = model(), WeightFolder()
    lean = in_folder(whole, folder)
    assert len(lean.SerializeToString()) < LARGE < len(whole.SerializeToString())
    plain = onnxruntime.InferenceSession(whole.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = plain.run(None, samples())
    for session in (session_of(whole, 1), session_of(lean, 1, weights=folder)):
        np.testing.assert_array_equal(session.run(None, samples())[0], expected)


def test_the_folder_goes_with_its_object_and_sessions_stay() -> None:
    folder = WeightFolder()
    path, session = folder.path, session_of(in_folder(model(), folder), 1, weights=folder)
    before = session.run(None, samples())[0]
    del folder
    assert not path.exists()
    np.testing.assert_array_equal(session.run(None, samples())[0], before)


def test_replaced_values_are_those_of_one_segment_alone() -> None:
    network = from_proto(model())
    segments = SegmentedNetwork(network, 1)
    zeros = {"large": np.zeros((WIDTH, WIDTH), np.float32)}
    replaced, own = segments.after(0, replaced=zeros), segments.after(0)
    assert not replaced.run(samples())["y"].any()
    assert own.run(samples())["y"].any()
    assert sorted(file.name for file in network.weight_folder.path.iterdir()) == ["own"]


def test_sizes_are_those_that_protobuf_counts() -> None:
    whole = model()
    assert size_bytes(whole) == (whole.ByteSize(), whole.graph.ByteSize())
    assert size_bytes(onnx.ModelProto()) == (0, 0)


def test_a_dump_in_parts_is_one_network() -> None:
    network = from_proto(model())
    assert load(dump(network)).proto == network.proto
