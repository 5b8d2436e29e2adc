"""A model read part by part is the one that protobuf reads whole."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from network.message_size import GRAPH, field_header
from network.model_file import ModelFile

UNKNOWN = 1000


@pytest.fixture
def model():
    rng = np.random.default_rng(0)
    tensors = [
        numpy_helper.from_array(rng.normal(size=(40, 30)).astype(np.float32), "large"),
        helper.make_tensor("listed", TensorProto.FLOAT, [3], [1.0, 2.0, 3.0]),
        numpy_helper.from_array(np.zeros((0, 4), np.float32), "empty"),
    ]
    shown = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 40 if name == "x" else 30]) for name in "xy"]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "large"], ["y"])], "graph", shown[:1], shown[1:], tensors
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def varint(number):
    return bytes([number & 127 | 128]) + varint(number >> 7) if number > 127 else bytes([number])


def read(path, data):
    path.write_bytes(data)
    return ModelFile(path)


def check(file, data):
    whole = onnx.ModelProto.FromString(data).graph
    for tensor in whole.initializer:
        assert tensor.name in file
        assert file.initializer(tensor.name) == tensor
    del whole.initializer[:]
    assert file.graph == whole
    assert "other" not in file
    with pytest.raises(KeyError):
        file.initializer("other")


def test_all_parts_are_those_of_the_whole(tmp_path, model):
    data = model.SerializeToString()
    check(read(tmp_path / "model.onnx", data), data)


def test_a_graph_in_two_pieces_is_one(tmp_path, model):
    second = onnx.GraphProto(doc_string="more")
    second.initializer.add(name="late", data_type=TensorProto.FLOAT, dims=[1], float_data=[5.0])
    piece = second.SerializeToString()
    data = model.SerializeToString() + field_header(GRAPH, len(piece)) + piece
    check(read(tmp_path / "model.onnx", data), data)


def test_fields_of_every_kind_that_onnx_does_not_know_are_skipped(tmp_path, model):
    def tag(kind, number=UNKNOWN):
        return varint(number << 3 | kind)

    inner = tag(3, UNKNOWN + 1) + tag(0) + varint(300) + tag(4, UNKNOWN + 1)
    group = tag(3) + tag(2) + b"\x03abc" + inner + tag(4)
    unknown = tag(0) + varint(1 << 40) + tag(1) + bytes(8) + tag(5) + bytes(4) + group
    data = unknown + model.SerializeToString() + unknown
    check(read(tmp_path / "model.onnx", data), data)


def test_a_file_that_is_cut_off_is_refused(tmp_path, model):
    with pytest.raises(EOFError, match="ends within"):
        read(tmp_path / "model.onnx", model.SerializeToString()[:-100])
