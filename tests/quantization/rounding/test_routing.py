"""Which rows of a table samples reach: by indices, by bounds of a Slice, or all."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from network.graph import Network, Site
from network.normalise import normalise
from quantization.rounding.routing import routing_of

ROWS = 50
node = helper.make_node


def table(*nodes: onnx.NodeProto) -> tuple[Network, Site]:
    rng = np.random.default_rng(0)
    graph = helper.make_graph(
        list(nodes),
        "g",
        [
            helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", 4]),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 32]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(rng.normal(size=(ROWS, 32)).astype(np.float32), "P"),
            *(numpy_helper.from_array(np.array([value]), f"i{value}") for value in (0, 1, 3, -1)),
            numpy_helper.from_array(np.array([-(1 << 63)]), "least"),
        ],
    )
    network = normalise(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8))
    return network, next(site for site in network.sites if site.weight == "P")


END = node("ReduceMax", ["ids"], ["m"], keepdims=0)
AS_LIST = node("Reshape", ["m", "i1"], ["end"])
SUM = node("ReduceSum", ["p", "i1"], ["y"])


def test_words() -> None:
    routing = routing_of(*table(node("Gather", ["P", "ids"], ["p"]), SUM))
    assert routing is not None
    assert routing.operands == ("ids",)
    routing.add("ids", np.array([[0, 1, -1, 0]]))
    assert routing.note() == f"{ROWS - 3} of {ROWS} rows were reached by no calibration sample"


@pytest.mark.parametrize(
    ("bounds", "end", "missed"),
    [
        (["i0", "end", "i0"], 12, ROWS - 12),
        (["i1", "end", "i0"], 1 << 40, 1),
        (["i0", "end", "i0", "i3"], ROWS, ROWS - 17),
        (["end", "least", "i0", "i-1"], 9, ROWS - 10),
    ],
)
def test_positions(bounds: list[str], end: int, missed: int) -> None:
    of = table(END, AS_LIST, node("Slice", ["P", *bounds], ["p"]), SUM)
    routing = routing_of(*of)
    assert routing is not None
    assert routing.operands == ("end",)
    routing.add("end", np.array([min(end, 3)]))
    routing.add("end", np.array([end]))
    assert routing.note() == f"{missed} of {ROWS} rows were reached by no calibration sample"


def test_a_table_that_something_reads_whole_is_reached() -> None:
    whole = node("Add", ["p", "P"], ["q"])
    nodes = [END, AS_LIST, node("Slice", ["P", "i0", "end", "i0"], ["s"]), node("ReduceSum", ["s", "i0"], ["p"])]
    assert routing_of(*table(*nodes, whole, node("ReduceSum", ["q", "i1"], ["y"]))) is None
