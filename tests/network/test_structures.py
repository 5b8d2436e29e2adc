"""Odd but valid graphs on their way to the newest opset and back: sequences, bodies, names and constants.

The oracle is ONNX Runtime on the uploaded file, in `network.faithful` and again on what it is lowered to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from network.faithful import faithful, undone
from network.opset import lower
from network.proof import Feed, Reference

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
RNG = np.random.default_rng(0)
X = RNG.standard_normal((3, 4)).astype(np.float32)
WEIGHT = RNG.standard_normal((4, 4)).astype(np.float32)
node = helper.make_node


def described(name: str, kind: int = FLOAT, shape: Any = None) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def body(nodes: list[NodeProto], output: str, **constants: Any) -> GraphProto:
    made = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    return helper.make_graph(nodes, "body", [], [helper.make_empty_tensor_value_info(output)], made)


def choice(opset: int, then: GraphProto, other: GraphProto, *behind: NodeProto) -> ModelProto:
    """Either body, as the largest element is below 9 or not; `behind` are nodes that read its value c."""
    return made(
        opset,
        [
            node("ReduceMax", ["x"], ["m"], keepdims=0),
            node("Less", ["m", "nine"], ["below"]),
            node("If", ["below"], ["c"], then_branch=then, else_branch=other),
            *(behind or [node("Identity", ["c"], ["y"])]),
        ],
        nine=np.float32(9),
    )


def made(opset: int, nodes: list[NodeProto], outputs: dict[str, int] | None = None, **constants: Any) -> ModelProto:
    """`x [N, 4]` to the values of `outputs`, y of floats where nothing else is said, beside a layer."""
    graph = helper.make_graph(
        [*nodes, node("MatMul", ["x", "layer.weight"], ["layer.y"])],
        "graph",
        [described("x", FLOAT, ["batch", 4])],
        [
            *(described(name, kind) for name, kind in (outputs or {"y": FLOAT}).items()),
            described("layer.y", FLOAT, ["batch", 4]),
        ],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in {**constants, "layer.weight": WEIGHT}.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=6)


def sequence() -> ModelProto:
    return made(
        13,
        [
            node("SequenceConstruct", ["x", "x"], ["s"]),
            node("SequenceInsert", ["s", "x"], ["t"]),
            node("ConcatFromSequence", ["t"], ["y"], axis=0),
            node("SequenceLength", ["t"], ["n"]),
        ],
        {"y": FLOAT, "n": INT64},
    )


def sequence_of_parts() -> ModelProto:
    nodes = [node("SplitToSequence", ["x"], ["s"], axis=1), node("SequenceAt", ["s", "one"], ["y"])]
    return made(11, nodes, one=np.array(1))


def optional() -> ModelProto:
    nodes = [
        node("Optional", ["x"], ["o"]),
        node("OptionalHasElement", ["o"], ["has"]),
        node("OptionalGetElement", ["o"], ["y"]),
    ]
    return made(15, nodes, {"y": FLOAT, "has": BOOL})


def strings() -> ModelProto:
    nodes = [node("Cast", ["x"], ["s"], to=TensorProto.STRING), node("Cast", ["s"], ["y"], to=FLOAT)]
    return made(13, nodes)


def bodies_with_names_alike() -> ModelProto:
    then = body([node("Add", ["x", "k"], ["t"]), node("Softmax", ["t"], ["o"], axis=0)], "o", k=np.float32(3))
    other = body([node("Mul", ["x", "k"], ["t"]), node("Relu", ["t"], ["o"])], "o", k=np.float32(5))
    return choice(11, then, other)


def names_of_a_body_made_again_behind_it() -> ModelProto:
    then, other = (body([node(op_type, ["x"], ["t"])], "t") for op_type in ("Abs", "Neg"))
    return choice(11, then, other, node("Exp", ["c"], ["t"]), node("Softmax", ["t"], ["y"], axis=0))


def bodies_of_other_ranks() -> ModelProto:
    then = body([node("Reshape", ["x", "k"], ["o"])], "o", k=np.array([-1]))
    return choice(13, then, body([node("Identity", ["x"], ["o"])], "o"))


def a_constant_condition() -> ModelProto:
    then = body([node("Add", ["x", "x"], ["t"]), node("Softmax", ["t"], ["o"])], "o")
    other = body([node("Mul", ["x", "x"], ["t"]), node("Relu", ["t"], ["o"])], "o")
    nodes = [
        node("If", [condition], [output], then_branch=then, else_branch=other)
        for condition, output in (("yes", "y"), ("no", "z"))
    ]
    return made(9, nodes, {"y": FLOAT, "z": FLOAT}, yes=np.array(True), no=np.array(False))


def a_loop_in_a_body() -> ModelProto:
    turn = helper.make_graph(
        [node("Softmax", ["v"], ["w"], axis=0), node("Identity", ["go"], ["on"])],
        "turn",
        [described("i", INT64, []), described("go", BOOL, []), described("v")],
        [described("on", BOOL, []), described("w")],
    )
    then = body([node("Loop", ["turns", "", "x"], ["o"], body=turn)], "o", turns=np.array(2))
    other = body([node("Split", ["x"], ["p", "q"], axis=1), node("Concat", ["q", "p"], ["o"], axis=1)], "o")
    return choice(11, then, other)


def a_scan() -> ModelProto:
    step = helper.make_graph(
        [node("Add", ["s", "row"], ["t"]), node("Softmax", ["t"], ["p"], axis=0)],
        "step",
        [described("s", FLOAT, [4]), described("row", FLOAT, [4])],
        [described("t", FLOAT, [4]), described("p", FLOAT, [4])],
    )
    nodes = [node("Scan", ["start", "x"], ["z", "y"], body=step, num_scan_inputs=1)]
    return made(9, nodes, {"y": FLOAT, "z": FLOAT}, start=np.zeros(4, np.float32))


def names_like_those_that_are_made() -> ModelProto:
    nodes = [
        node("Relu", ["x"], ["y/upgraded_1"], "MatMul_2"),
        node("Softmax", ["y/upgraded_1"], ["y"], axis=0),
    ]
    return made(11, nodes)


def inputs_left_out() -> ModelProto:
    nodes = [node("Clip", ["x", "", ""], ["y"]), node("Dropout", ["x", "", ""], ["z", ""])]
    return made(13, nodes, {"y": FLOAT, "z": FLOAT})


def constants_of_all_forms() -> ModelProto:
    nodes = [
        node("Constant", [], ["a"], value_int=3),
        node("Constant", [], ["b"], value_ints=[3, 4]),
        node("Constant", [], ["c"], value_float=1.5),
        node("Cast", ["a"], ["af"], to=FLOAT),
        node("Add", ["x", "af"], ["t"]),
        node("Mul", ["t", "c"], ["y"]),
        node("Expand", ["c", "b"], ["z"]),
    ]
    return made(12, nodes, {"y": FLOAT, "z": FLOAT})


def constant_outputs() -> ModelProto:
    nodes = [node("Add", ["a", "a"], ["s"]), node("Constant", [], ["k"], value_floats=[1.0, 2.0])]
    return made(13, nodes, {"s": FLOAT, "k": FLOAT, "a": FLOAT}, a=np.ones(2, np.float32))


def outputs_of_no_declared_type() -> ModelProto:
    model = made(13, [node("Shape", ["x"], ["s"]), node("ReduceMean", ["x"], ["y"], axes=[0, 1], keepdims=0)])
    model.graph.output.insert(0, helper.make_empty_tensor_value_info("s"))
    return model


def types_that_lie() -> ModelProto:
    model = made(13, [node("Relu", ["x"], ["a"]), node("Softmax", ["a"], ["y"])])
    model.graph.value_info.append(described("a", FLOAT, [7, 7, 7]))
    return model


def an_initializer_of_no_elements() -> ModelProto:
    return made(11, [node("Concat", ["x", "empty"], ["y"], axis=1)], empty=np.zeros((3, 0), np.float32))


STRUCTURES: list[Callable[[], ModelProto]] = [
    sequence,
    sequence_of_parts,
    optional,
    strings,
    bodies_with_names_alike,
    names_of_a_body_made_again_behind_it,
    bodies_of_other_ranks,
    a_constant_condition,
    a_loop_in_a_body,
    a_scan,
    names_like_those_that_are_made,
    inputs_left_out,
    constants_of_all_forms,
    constant_outputs,
    outputs_of_no_declared_type,
    types_that_lie,
    an_initializer_of_no_elements,
]


@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda structure: structure.__name__)
def test_a_structure_comes_out_as_it_was(structure: Callable[[], ModelProto]) -> None:
    model = structure()
    data = model.SerializeToString()
    network = faithful(data, model, {"x": X}, {"x": (4,)})
    assert undone(network) is None
    reference = Reference(data, [Feed("all samples", {"x": X})], 1)
    for opset in (18, 21):
        lowered = ModelProto.FromString(network.proto.SerializeToString())
        lower(lowered, opset)
        assert reference.difference(lowered.SerializeToString()) is None
        for before, after in ((model.graph.input, lowered.graph.input), (model.graph.output, lowered.graph.output)):
            assert [value.name for value in before] == [value.name for value in after]
            for declared, value in zip(before, after, strict=True):
                if declared.type.tensor_type.HasField("shape"):
                    assert value.type == declared.type
