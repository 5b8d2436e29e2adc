"""What a run shows of every value, against the arrays that ONNX Runtime returns, and against hand counts in bodies."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, ValueInfoProto, helper
from onnxruntime.capi import onnxruntime_pybind11_state as native

from network import observed as observed_module
from network.errors import ModelInvalid
from network.normalise import normalise
from network.observed import observe
from network.onnx_graph import graphs
from network.shapes import Observation
from tests.network.bodies import (
    BOOL,
    COUNTED,
    FLOAT,
    GROWS,
    INT64,
    POSITIVE,
    POSITIVE_WEIGHTS,
    X,
    body,
    branches,
    loop,
    model_of,
    node,
    value,
)


def returned(model: ModelProto, feed: Mapping[str, NDArray[Any]]) -> dict[str, Observation]:
    """What ONNX Runtime returns with every value of the main graph as an output."""
    probe = ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(ValueInfoProto(name=name) for n in probe.graph.node for name in n.output if name)
    session = onnxruntime.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    values = zip([output.name for output in session.get_outputs()], session.run(None, dict(feed)), strict=True)
    return {
        name: Observation.once(helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in (*values, *feed.items())
        if isinstance(array, np.ndarray)
    }


def test_all_values_have_the_types_and_shapes_that_a_run_returns() -> None:
    model = model_of(POSITIVE, ["y"], weights=POSITIVE_WEIGHTS)
    shown = observe(model, {"x": X})
    assert shown == returned(model, {"x": X})
    assert shown["places"] == Observation(INT64, (3, int((X > 0).sum())), 1, 3 * int((X > 0).sum()))
    assert shown["yes"].elem_type == BOOL


def test_sequences_are_not_shown_but_what_is_taken_from_them() -> None:
    nodes = [
        node("SplitToSequence", ["x"], ["parts"], axis=1, keepdims=0),
        node("SequenceAt", ["parts", "first"], ["part"]),
        node("MatMul", ["part", "w"], ["y"]),
    ]
    shown = observe(model_of(nodes, ["y"], weights={"first": np.array(0)}), {"x": X})
    assert {name: own.shape for name, own in shown.items()} == {"x": (1, 3, 4), "part": (1, 4), "y": (1, 4)}


def test_an_output_that_a_node_leaves_out_is_not_shown() -> None:
    cells = {"W": np.ones((1, 2, 4), np.float32), "R": np.ones((1, 2, 2), np.float32)}
    model = model_of([node("RNN", ["x", "W", "R"], ["", "y"], hidden_size=2)], ["y"], weights=cells)
    assert observe(model, {"x": X}) == {
        "x": Observation.once(FLOAT, (1, 3, 4)),
        "y": Observation.once(FLOAT, (1, 3, 2)),
    }


def test_what_no_output_depends_on_is_shown_too() -> None:
    nodes = [node("MatMul", ["x", "w"], ["y"]), node("Concat", ["x", "x"], ["unused"], axis=1)]
    assert observe(model_of(nodes, ["y"]), {"x": X})["unused"].shape == (1, 6, 4)


def test_a_network_that_does_not_run_is_refused() -> None:
    nodes = [node("Reshape", ["x", "shape"], ["y"])]
    with pytest.raises(ModelInvalid, match="does not run the network"):
        observe(model_of(nodes, ["y"], weights={"shape": np.array([5, 5])}), {"x": X})


@pytest.mark.parametrize("times", [0, 1])
def test_a_loop_shows_how_often_its_values_are_made(times: int) -> None:
    model = model_of([loop()], ["all"], weights=COUNTED | {"times": np.array(times)})
    shown = observe(model, {"x": X})
    assert shown["all"].shape == (1, 3 * (1 + times), 4)
    for name in ("longer", "product"):
        expected = Observation(FLOAT, (1, 6, 4), 1, 24) if times else Observation(FLOAT, (), 0, 0)
        assert shown[name] == expected


def test_values_of_a_loop_have_their_largest_lengths_and_all_their_elements() -> None:
    grows = GraphProto()
    grows.CopyFrom(GROWS)
    del grows.output[-1]
    nodes = [node("Loop", ["times", "go_at_first", "x"], ["y"], body=grows)]
    shown = observe(model_of(nodes, ["y"], weights=COUNTED | {"times": np.array(3)}), {"x": X})
    assert shown["product"] == Observation(FLOAT, (1, 12, 4), 3, (6 + 9 + 12) * 4)
    assert shown["rows"] == Observation(FLOAT, (1, 9, 4), 3, (3 + 6 + 9) * 4)
    assert shown["i"] == Observation(INT64, (), 3, 3)


@pytest.mark.parametrize("yes", [True, False])
def test_the_branch_that_does_not_run_makes_nothing(yes: bool) -> None:
    shown = observe(model_of([branches()], ["either"], [value("yes", [], BOOL)]), {"x": X, "yes": np.array(yes)})
    ran, idle = (("twice",), ("minus", "abs")) if yes else (("minus", "abs"), ("twice",))
    assert all(shown[name] == Observation(FLOAT, shown["either"].shape, 1, 24 if yes else 12) for name in ran)
    assert all(shown[name] == Observation(FLOAT, (), 0, 0) for name in idle)


def test_bodies_within_bodies_add_up() -> None:
    inner = body(
        [node("MatMul", ["state", "w"], ["next"]), branches("next"), node("Identity", ["go2"], ["go2_on"])],
        [value("j", [], INT64), value("go2", [], BOOL), value("state", None)],
        [value("go2_on", [], BOOL), value("next", None), value("either", None)],
        "inner",
    )
    outer = body(
        [
            node("Add", ["i", "one"], ["more"]),
            node("Loop", ["more", "go", "rows"], ["last", "stacked"], body=inner),
            node("Identity", ["go"], ["go_on"]),
        ],
        [value("i", [], INT64), value("go", [], BOOL), value("rows", None)],
        [value("go_on", [], BOOL), value("last", None)],
        "outer",
    )
    nodes = [node("Loop", ["times", "go_at_first", "x"], ["y"], body=outer)]
    weights = COUNTED | {"times": np.array(3), "one": np.array(1)}
    shown = observe(model_of(nodes, ["y"], [value("yes", [], BOOL)], weights), {"x": X, "yes": np.array(True)})
    runs = 1 + 2 + 3
    assert shown["next"] == Observation(FLOAT, (1, 3, 4), runs, runs * 12)
    assert shown["twice"] == Observation(FLOAT, (1, 6, 4), runs, runs * 24)
    assert shown["minus"].times == 0
    assert shown["stacked"] == Observation(FLOAT, (3, 1, 6, 4), 3, runs * 24)


@pytest.mark.parametrize("given", [{}, {"scan_output_axes": [1], "scan_output_directions": [1]}])
def test_a_scan_shows_its_steps(given: dict[str, list[int]]) -> None:
    step = body(
        [node("Add", ["before", "row"], ["sum"]), node("Neg", ["sum"], ["out"])],
        [value("before", None), value("row", None)],
        [value("sum", None), value("out", None)],
    )
    nodes = [
        node("Squeeze", ["x", "first"], ["steps"]),
        node("Scan", ["start", "steps"], ["end", "y"], body=step, num_scan_inputs=1, **given),
    ]
    weights = {"first": np.array([0]), "start": np.zeros(4, np.float32)}
    shown = observe(model_of(nodes, ["y"], weights=weights), {"x": X})
    assert shown["y"].shape == ((4, 3) if given else (3, 4))
    assert [shown[name] for name in ("before", "row", "sum", "out")] == [Observation(FLOAT, (4,), 3, 12)] * 4


def test_a_node_may_leave_out_its_last_outputs() -> None:
    model = model_of([loop(outputs=["all"])], ["all"], weights=COUNTED | {"times": np.array(1)})
    assert observe(model, {"x": X})["product"].times == 1


def test_values_of_one_name_in_two_bodies_are_left_out_until_each_has_its_own() -> None:
    then = body([node("Concat", ["z", "z"], ["same"], axis=1)], [], [value("same", None)], "then")
    other = body([node("Neg", ["z"], ["same"])], [], [value("same", None)], "else")
    nodes = [
        node("MatMul", ["x", "w"], ["z"]),
        node("If", ["yes"], ["y"], then_branch=then, else_branch=other),
    ]
    model = model_of(nodes, ["y"], [value("yes", [1], BOOL)])
    feed = {"x": X, "yes": np.array([True])}
    assert set(observe(model, feed)) == {"x", "yes", "z", "y"}
    network = normalise(model, {"x": (3, 4), "yes": ()})
    shown = observe(network.proto, feed)
    made = [name for graph in graphs(network.proto.graph) for n in graph.node for name in n.output]
    assert len(set(made)) == len(made)
    assert "same" in made  # what is the only one keeps its name
    assert sorted(own.times for name, own in shown.items() if name.startswith("same")) == [0, 1]


def test_values_in_a_body_of_more_axes_than_a_row_has_are_left_out() -> None:
    many = body([node("Unsqueeze", ["x", "six"], ["nine"])], [], [value("nine", None)], "then")
    other = body([node("Unsqueeze", ["x", "six"], ["none"])], [], [value("none", None)], "else")
    nodes = [node("If", ["yes"], ["y"], then_branch=many, else_branch=other)]
    model = model_of(nodes, ["y"], weights={"yes": np.array(True), "six": np.arange(6)})
    shown = observe(model, {"x": X})
    assert "nine" not in shown
    assert len(shown["y"].shape) == 9


def test_what_lies_outside_of_bodies_is_shown_where_bodies_take_no_further_output(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sessions = observed_module.session_of

    def refuses(model: ModelProto, threads: int, **options: bool) -> onnxruntime.InferenceSession:
        if any(len(n.output) > 1 for n in model.graph.node if n.op_type == "If"):
            raise native.Fail("no further output")
        return sessions(model, threads, **options)

    monkeypatch.setattr(observed_module, "session_of", refuses)
    model = model_of([branches()], ["either"], weights={"yes": np.array(True)})
    assert observe(model, {"x": X}) == {
        "x": Observation.once(FLOAT, (1, 3, 4)),
        "either": Observation.once(FLOAT, (1, 6, 4)),
    }


MEMORY = """
import resource, sys
import numpy as np
from onnx import TensorProto, helper
from network.observed import observe

names = ["x", *(f"v{i}" for i in range(40))]
nodes = [helper.make_node("Relu" if i % 2 else "Neg", [a], [b]) for i, (a, b) in enumerate(zip(names, names[1:]))]
graph = helper.make_graph(
    nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2_500_000])],
    [helper.make_tensor_value_info(names[-1], TensorProto.FLOAT, None)])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
x = np.zeros((1, 2_500_000), np.float32)
observe(model, {"x": x[:, :0].reshape(0, 0).reshape(0, 2_500_000)})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
observe(model, {"x": x})
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_no_value_stays_in_memory_to_be_looked_at() -> None:
    run = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 100  # MB; all 40 values together have 400
