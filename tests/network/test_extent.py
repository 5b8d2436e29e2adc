"""Parts are counted before anything looks at them, and a large file may have more of them than a small one."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from network.admission import AdmissionLimits, admit
from network.einsum import check_ellipses
from network.errors import ModelInvalid, ModelTooLarge, NetworkError, TooMuchWork
from network.extent import GRAPHS, NODES, OUTPUTS, WEIGHTS, check_extent
from network.uploaded import admit_to_run

LIMITS = AdmissionLimits()
node, value = helper.make_node, helper.make_tensor_value_info


def made(nodes: list[NodeProto], constants: dict[str, Any] | None = None, outputs: tuple[str, ...] = ("y",)) -> bytes:
    arrays = {"W": np.ones((4, 4), np.float32), **(constants or {})}
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ["N", 4])],
        [value(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return bytes(model.SerializeToString())


def chain(count: int) -> list[str]:
    return ["x", *(f"n{index}" for index in range(count - 1)), "y"]


def check(data: bytes) -> None:
    check_extent(ModelProto.FromString(data), 100_000, 1 << 31)


def relus(count: int, **constants: Any) -> bytes:
    return made([node("Relu", [a], [b]) for a, b in itertools.pairwise(chain(count))], constants)


def layers(count: int, size: int = 2) -> bytes:
    weights = {f"V{index}": np.ones((size, size), np.float32) for index in range(count)}
    nodes = [node("MatMul", [a, f"V{index}"], [b]) for index, (a, b) in enumerate(itertools.pairwise(chain(count)))]
    return made(nodes, weights)


def outputs(count: int) -> bytes:
    names = tuple(f"y{index}" for index in range(count))
    return made([node("Relu", ["x"], [name]) for name in names], outputs=names)


def branches(count: int) -> bytes:
    def branch(read: str, name: str) -> onnx.GraphProto:
        return helper.make_graph([node("Relu", [read], [name])], name, [], [value(name, TensorProto.FLOAT, None)])

    nodes = [
        node("If", ["yes"], [b], then_branch=branch(a, f"t{b}"), else_branch=branch(a, f"e{b}"))
        for a, b in itertools.pairwise(chain(count))
    ]
    return made(nodes, {"yes": np.bool_(True)})


@pytest.mark.parametrize(
    ("build", "most", "says"),
    [
        (relus, int(NODES * 1.05), "nodes; .* Loop or Scan"),
        (layers, int(WEIGHTS * 1.05), "matrices of weights; .* one tensor"),
        (outputs, OUTPUTS, "outputs; .* that are used"),
        (branches, GRAPHS // 2, "graphs in its nodes; .* fewer branches"),
    ],
)
def test_more_parts_than_a_small_file_may_have(build: Any, most: int, says: str) -> None:
    with pytest.raises(TooMuchWork, match=says):
        check(build(int(1.1 * most)))
    check(build(int(0.9 * most)))


def test_a_large_file_may_have_more() -> None:
    check(relus(NODES + 8_000, heavy=np.ones((1 << 21, 1), np.float32)))
    check(layers(WEIGHTS + 300, size=64))


def test_all_admissions_count() -> None:
    for admission in (admit, admit_to_run):
        with pytest.raises(TooMuchWork, match="outputs"):
            admission(outputs(OUTPUTS + 1), LIMITS)
    with pytest.raises(ModelTooLarge, match="at most 10 nodes"):
        admit(relus(11), AdmissionLimits(max_nodes=10))


BODY = helper.make_graph(
    [node("Identity", ["go"], ["goes"]), node("Add", ["a", "a"], ["b"]), node("Neg", ["a"], ["c"])],
    "body",
    [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("a", TensorProto.FLOAT, None)],
    [value("goes", TensorProto.BOOL, []), value("b", TensorProto.FLOAT, None), value("c", TensorProto.FLOAT, None)],
)


@pytest.mark.parametrize("admission", [admit, admit_to_run])
@pytest.mark.parametrize(
    "last",
    [
        node("Split", ["h"], ["", "y"], axis=1, num_outputs=2),
        node("Loop", ["three", "yes", "h"], ["", "y"], body=BODY),
    ],
)
def test_outputs_that_are_left_out_before_others(last: NodeProto, admission: Any) -> None:
    """ONNX Runtime would end its process."""
    data = made([node("MatMul", ["x", "W"], ["h"]), last], {"three": np.int64(3), "yes": np.bool_(True)})
    with pytest.raises(ModelInvalid, match=rf"makes 'y' \({last.op_type}\) leaves out an output"):
        admission(data, LIMITS)


@pytest.mark.parametrize("admission", [admit, admit_to_run])
@pytest.mark.parametrize("equation", ["...ij,j...->i...", "...i,...j->...ij"])
def test_ellipses_of_different_lengths(equation: str, admission: Any) -> None:
    data = made([node("Einsum", ["x", "V"], ["y"], equation=equation)], {"V": np.ones((4, 4, 4), np.float32)})
    with pytest.raises(NetworkError, match="ellipses of its Einsum stand for"):
        admission(data, LIMITS)


def test_ellipses_of_one_length_and_of_unknown_ranks_are_taken() -> None:
    check_ellipses(ModelProto.FromString(made([node("Einsum", ["x", "W"], ["y"], equation="...i,...j->...ij")])))
    unknown = [node("Reshape", ["x", "s"], ["r"]), node("Einsum", ["r", "W"], ["y"], equation="...i,...j->...ij")]
    unknown.insert(0, node("Shape", ["x"], ["s"]))
    check_ellipses(ModelProto.FromString(made(unknown)))
