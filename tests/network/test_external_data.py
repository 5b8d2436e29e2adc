"""Tensors whose values lie outside of the file are refused, wherever they stand in it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from network.errors import ExternalData
from tests.network.models import linear, refusal, value


def outside(location: str | None = "../../etc/passwd", *, marked: bool = True) -> TensorProto:
    tensor = TensorProto(name="outside", data_type=TensorProto.FLOAT, dims=[4, 3])
    if marked:
        tensor.data_location = TensorProto.EXTERNAL
    else:
        tensor.raw_data = bytes(48)
    if location is not None:
        tensor.external_data.add(key="location", value=location)
    return tensor


def in_initializer(tensor: TensorProto) -> ModelProto:
    model = linear()
    tensor.name = "W"
    model.graph.initializer[0].CopyFrom(tensor)
    return model


def in_sparse_initializer(tensor: TensorProto) -> ModelProto:
    model = linear()
    indices = numpy_helper.from_array(np.arange(1, dtype=np.int64), "i")
    model.graph.sparse_initializer.append(onnx.SparseTensorProto(values=tensor, indices=indices, dims=[4, 3]))
    return model


def in_attribute(tensor: TensorProto) -> ModelProto:
    model = linear()
    model.graph.node.add(op_type="Constant", output=["k"]).attribute.append(helper.make_attribute("value", tensor))
    return model


def in_tensor_list_attribute(tensor: TensorProto) -> ModelProto:
    model = linear()
    attribute = model.graph.node[0].attribute.add(name="list", type=onnx.AttributeProto.TENSORS)
    attribute.tensors.append(tensor)
    return model


def in_subgraph(tensor: TensorProto) -> ModelProto:
    model = linear()
    graph = helper.make_graph([], "inner", [], [value("outside", [4, 3])], [tensor])
    inner = helper.make_graph(
        [helper.make_node("If", ["c"], ["z"], then_branch=graph)], "outer", [], [value("z", [4, 3])]
    )
    model.graph.node.append(helper.make_node("If", ["c"], ["z2"], then_branch=inner))
    return model


def in_function(tensor: TensorProto) -> ModelProto:
    model = linear()
    node = helper.make_node("Constant", [], ["k"], value=tensor)
    model.functions.append(helper.make_function("f", "F", [], ["k"], [node], [helper.make_opsetid("", 18)]))
    return model


def in_training_info(tensor: TensorProto) -> ModelProto:
    model = linear()
    model.training_info.add().initialization.initializer.append(tensor)
    return model


@pytest.mark.parametrize(
    "place",
    [
        in_initializer,
        in_sparse_initializer,
        in_attribute,
        in_tensor_list_attribute,
        in_subgraph,
        in_function,
        in_training_info,
    ],
)
@pytest.mark.parametrize(
    "tensor",
    [
        pytest.param(lambda: outside("weights.bin"), id="file"),
        pytest.param(lambda: outside(), id="path-traversal"),
        pytest.param(lambda: outside("*/_ORT_MEM_ADDR_/*"), id="memory-address"),
        pytest.param(lambda: outside(None), id="no-location"),
        pytest.param(lambda: outside(marked=False), id="entries-without-the-mark"),
    ],
)
def test_external_data_is_refused_wherever_it_is(
    place: Callable[[TensorProto], ModelProto], tensor: Callable[[], TensorProto]
) -> None:
    text = refusal(place(tensor()), ExternalData)
    assert "self-contained" in text
