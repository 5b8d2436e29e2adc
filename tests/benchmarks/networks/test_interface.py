"""An interface that is not the uploaded one is noticed, in names, order, types and axes."""

from __future__ import annotations

import onnx
import pytest

from benchmarks.networks.interface import differences
from benchmarks.networks.written import weights, written

TEXT = """(float[n, 6, length] x, int64[n] kind) => (float[n, 4, length] y, z) {
    y = MatMul(W, x)
    z = Cast<to = 1>(kind)
}"""


@pytest.fixture
def uploaded() -> bytes:
    return written(TEXT, weights(0, W=(4, 6)))


def changed(model: bytes, change) -> bytes:
    proto = onnx.load_model_from_string(model)
    change(proto.graph)
    return proto.SerializeToString()


def test_the_same_interface_has_no_differences(uploaded):
    assert differences(uploaded, uploaded) == []


def rename_input(graph):
    graph.input[0].name = "image"


def swap_inputs(graph):
    graph.input.reverse()


def other_type(graph):
    graph.input[1].type.tensor_type.elem_type = onnx.TensorProto.INT32


def fix_a_free_axis(graph):
    graph.input[0].type.tensor_type.shape.dim[2].dim_value = 9


def rename_a_free_axis(graph):
    graph.output[0].type.tensor_type.shape.dim[0].dim_param = "m"


def drop_an_output(graph):
    del graph.output[1]


@pytest.mark.parametrize(
    "change", [rename_input, swap_inputs, other_type, fix_a_free_axis, rename_a_free_axis, drop_an_output]
)
def test_what_changed_is_named(uploaded, change):
    assert differences(uploaded, changed(uploaded, change))


def test_a_shape_may_be_declared_where_there_was_none(uploaded):
    def declare(graph):
        graph.output[1].type.tensor_type.shape.dim.add().dim_param = "n"

    assert differences(uploaded, changed(uploaded, declare)) == []
    assert differences(changed(uploaded, declare), uploaded)


def test_weights_that_old_files_list_as_inputs_are_none():
    constants = weights(0, W=(4, 6))
    old, new = written(TEXT, constants, opset=9, ir=3), written(TEXT, constants, opset=9, ir=4)
    assert [value.name for value in onnx.load_model_from_string(old).graph.input] == ["x", "kind", "W"]
    assert differences(old, new) == []
