"""Activation candidates of the cross-layer matrix against whole graphs with the value replaced; graphs that are not
for torch; order, sharing and refusals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from network.graph import Network
from network.normalise import from_proto
from network.segments import Segment, SegmentedNetwork
from sensitivity.cross_layer import CrossLayer, cross_layer
from sensitivity.estimate import ActivationChange, Change, WeightChange
from sensitivity.loss import Kind, Term
from tests.sensitivity.dense import loss_of

Arrays = Mapping[str, np.ndarray]


def rounding(step: float) -> Callable[[np.ndarray], np.ndarray]:
    """To multiples of `step`; of each tensor anew, so that what is rounded later sees what was rounded before."""
    return lambda a: (step * np.round(a / step)).astype(np.float32)


def activation(site: str, *names: str, step: float = 0.25) -> ActivationChange:
    return ActivationChange(site, f"step{step}", {name: rounding(step) for name in names})


def perturbed(network: Network, name: str, rng: np.random.Generator, size: float = 0.1) -> WeightChange:
    value = network.weight(name)
    value = (value + size * rng.normal(size=value.shape)).astype(np.float32)
    return WeightChange(f"weight {name}", f"size{size}", name, lambda: value)


def run(proto: onnx.ModelProto, fed: Arrays, wanted: str) -> np.ndarray:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run([wanted], dict(fed))[0]


def changed_outputs(network: Network, inputs: Arrays, change: Change) -> np.ndarray:
    """The first output by the whole graph, one value after the other taken from its node and fed from outside."""
    proto = onnx.ModelProto()
    proto.CopyFrom(network.proto)
    fed = dict(inputs)
    if isinstance(change, WeightChange):
        tensor = next(t for t in proto.graph.initializer if t.name == change.initializer)
        tensor.CopyFrom(numpy_helper.from_array(change.values(), tensor.name))
        return run(proto, fed, network.outputs[0].name)
    made = [spec.name for spec in network.inputs] + [name for node in proto.graph.node for name in node.output]
    for name in sorted(change.tensors, key=made.index):
        if name in fed:
            fed[name] = change.tensors[name](fed[name])
            continue
        maker = next(node for node in proto.graph.node if name in node.output)
        maker.output[list(maker.output).index(name)] = f"{name}/float"
        proto.graph.output.append(onnx.ValueInfoProto(name=f"{name}/float"))
        proto.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
        # before it is known, it is fed with anything that has its shape
        plain = run(network.proto if name == network.outputs[0].name else exposed(network.proto, name), inputs, name)
        fed[name] = plain
        fed[name] = change.tensors[name](run(proto, fed, f"{name}/float"))
    return run(proto, fed, network.outputs[0].name)


def exposed(proto: onnx.ModelProto, name: str) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    copy.graph.output.append(onnx.ValueInfoProto(name=name))
    return copy


def found_by(network: Network, changes: Sequence[Change], inputs: Arrays, kind: Kind, **arguments) -> CrossLayer:
    arguments = {"threads": 1, "generator": np.random.default_rng(0), **arguments}
    return cross_layer(network, changes, inputs, loss_of(network, kind), **arguments)


def agrees_with_whole_graphs(network: Network, changes: Sequence[Change], inputs: Arrays, kind: Kind) -> None:
    found = found_by(network, changes, inputs, kind, batch=7, group=20)
    reference = run(network.proto, inputs, network.outputs[0].name)
    outputs = [changed_outputs(network, inputs, change) for change in changes]
    term = Term("y", kind)
    Z = np.array([term.root_times(z, reference).ravel() for z in outputs])
    expected = Z @ Z.T / (2 * len(reference))
    assert np.all(np.diag(expected) > 0)
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    assert np.all(np.abs(found.matrix - expected) <= 1e-3 * scale)
    losses = np.array([term.sample_loss(z, reference) for z in outputs])
    np.testing.assert_allclose(found.measured, losses.mean(1), rtol=1e-3)
    np.testing.assert_allclose(found.measured_stderr, losses.std(1, ddof=1) / np.sqrt(losses.shape[1]), rtol=1e-3)


def node_outputs(network: Network) -> list[str]:
    return [name for node in network.proto.graph.node for name in node.output if name]


@pytest.mark.parametrize("name", ["mlp", "convolutions", "tied", "attention"])
def test_every_value_and_every_weight_of_a_network(name, request, rng):
    """Each value as a site of its own, the graph input and the output among them, the weights strewn between."""
    network = request.getfixturevalue(name)
    values = [activation(value, value, step=0.1) for value in ["x", *node_outputs(network)]]
    weights = [perturbed(network, site.weight, rng) for site in network.sites]
    changes = [c for site in range(max(len(values), len(weights))) for c in (*values[site:][:1], *weights[site:][:1])]
    inputs = {"x": rng.normal(size=(33, *network.inputs[0].shape[1:])).astype(np.float32)}
    agrees_with_whole_graphs(network, changes, inputs, Kind.KL)


def test_a_site_of_several_values_rounds_each_from_what_reaches_it(attention, rng):
    made = node_outputs(attention)
    together = activation("all", *made[::-1], "x", step=0.3)
    finer = activation("all", *made[::-1], "x", step=0.1)
    two = activation("two", made[0], made[2])
    inputs = {"x": rng.normal(size=(12, 3, 4)).astype(np.float32)}
    agrees_with_whole_graphs(attention, [together, two, finer], inputs, Kind.SQUARED_ERROR)


@pytest.fixture
def untorched(rng) -> tuple[Network, Arrays]:
    """Integer tokens, an LSTM, an If whose branches read the outer `state` and `inner` by name, a copied-out input."""
    then_branch = helper.make_graph(
        [helper.make_node("MatMul", ["state", "inner"], ["p"])],
        "then",
        [],
        [helper.make_tensor_value_info("p", TensorProto.FLOAT, None)],
    )
    else_branch = helper.make_graph(
        [helper.make_node("Identity", ["state"], ["q"])],
        "else",
        [],
        [helper.make_tensor_value_info("q", TensorProto.FLOAT, None)],
    )
    shapes = {"table": (7, 4), "W": (1, 12, 4), "R": (1, 12, 3), "B": (1, 24), "inner": (3, 3), "out": (3, 5)}
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "tokens"], ["embedded"], name="embedding"),
            helper.make_node("Transpose", ["embedded"], ["by_time"], perm=[1, 0, 2]),
            helper.make_node("LSTM", ["by_time", "W", "R", "B"], ["", "last"], hidden_size=3),
            helper.make_node("Squeeze", ["last", "zero"], ["state"]),
            helper.make_node("If", ["yes"], ["chosen"], then_branch=then_branch, else_branch=else_branch),
            helper.make_node("Tanh", ["chosen"], ["t"]),
            helper.make_node("Mul", ["t", "gate"], ["gated"]),
            helper.make_node("MatMul", ["gated", "out"], ["y"], name="classes"),
        ],
        "untorched",
        [
            helper.make_tensor_value_info("tokens", TensorProto.INT64, ["N", 5]),
            helper.make_tensor_value_info("gate", TensorProto.FLOAT, ["N", 3]),
            helper.make_tensor_value_info("yes", TensorProto.BOOL, []),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("gate", TensorProto.FLOAT, None),
        ],
        [
            *(numpy_helper.from_array(rng.normal(size=s).astype(np.float32), name) for name, s in shapes.items()),
            numpy_helper.from_array(np.array([0]), "zero"),
        ],
    )
    # the condition is no input of samples, so it is fixed; as an initializer of its own, so that nothing folds it here
    graph.input.pop()
    graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    inputs = {"tokens": rng.integers(7, size=(30, 5)), "gate": rng.normal(size=(30, 3)).astype(np.float32)}
    return from_proto(model), inputs


def test_graphs_that_torch_does_not_run(untorched, rng):
    network, inputs = untorched
    changes = [
        *(activation(value, value, step=0.1) for value in ("state", "gate", "chosen", "embedded", "last")),
        *(perturbed(network, name, rng) for name in ("W", "inner", "out", "R", "table")),
        activation("both", "gate", "by_time", "t"),
    ]
    agrees_with_whole_graphs(network, changes, inputs, Kind.KL)


def test_rows_are_in_the_order_of_the_changes(attention, rng):
    made = node_outputs(attention)
    changes = [
        *(perturbed(attention, site.weight, rng, size) for site in attention.sites for size in (0.1, 0.3)),
        *(activation(name, name, step=step) for name in made for step in (0.1, 0.4)),
    ]
    inputs = {"x": rng.normal(size=(12, 3, 4)).astype(np.float32)}
    order = rng.permutation(len(changes))
    straight = found_by(attention, changes, inputs, Kind.KL)
    shuffled = found_by(attention, [changes[i] for i in order], inputs, Kind.KL)
    np.testing.assert_allclose(shuffled.matrix, straight.matrix[np.ix_(order, order)], rtol=1e-12)
    assert np.array_equal(shuffled.measured, straight.measured[order])
    assert np.array_equal(shuffled.measured_stderr, straight.measured_stderr[order])


def test_what_lies_before_a_site_runs_once(convolutions, rng, monkeypatch):
    """Every node runs once as part of the shared prefix, however many sites and candidates there are."""
    runs: list[tuple[int, int]] = []
    between = SegmentedNetwork.between

    class Counted:
        def __init__(self, segment: Segment, span: tuple[int, int]) -> None:
            self._segment, self._span = segment, span

        def run(self, values):
            runs.append(self._span)
            return self._segment.run(values)

    def spy(self, start, stop):
        return Counted(between(self, start, stop), (start, stop))

    monkeypatch.setattr(SegmentedNetwork, "between", spy)
    values = [activation(name, name, step=step) for step in (0.1, 0.2, 0.3) for name in node_outputs(convolutions)]
    weights = [perturbed(convolutions, s.weight, rng, size) for s in convolutions.sites for size in (0.1, 0.2)]
    found_by(convolutions, values + weights, {"x": rng.normal(size=(8, 2, 5, 5)).astype(np.float32)}, Kind.KL)
    spans = sorted(runs)
    assert [start for start, _ in spans] == [0, *(stop for _, stop in spans[:-1])]


def test_progress_rises_to_one_and_small_networks_have_a_chunk_for_each_group_and_site(convolutions, rng):
    made = node_outputs(convolutions)
    changes = [activation(name, name, step=step) for name in made[:3] for step in (0.1, 0.2)]
    inputs = {"x": rng.normal(size=(9, 2, 5, 5)).astype(np.float32)}
    fractions: list[float] = []
    names: list[str] = []

    def spread(given, compute, ahead=None):
        names.extend(given)
        return map(compute, range(len(given)))

    found_by(convolutions, changes, inputs, Kind.KL, group=5, check=fractions.append, spread=spread)
    sites = [f"{name}/0+2" for name in made[:3]]
    assert names == [f"{name}/{part}/64/1" for part in ("0-5", "5-9") for name in sites]
    np.testing.assert_allclose(list(dict.fromkeys(fractions)), np.arange(1, 13) / 12)


def test_stored_chunks_need_no_run(convolutions, rng, monkeypatch):
    changes = [activation(name, name) for name in node_outputs(convolutions)[:3]]
    inputs = {"x": rng.normal(size=(9, 2, 5, 5)).astype(np.float32)}
    stored: dict[str, np.ndarray] = {}

    def spread(names, compute, ahead=None):
        for place, name in enumerate(names):
            yield stored[name] if name in stored else stored.setdefault(name, compute(place))

    first = found_by(convolutions, changes, inputs, Kind.KL, spread=spread)
    monkeypatch.setattr(Segment, "run", None)
    second = found_by(convolutions, changes, inputs, Kind.KL, spread=spread)
    assert np.array_equal(first.matrix, second.matrix)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([], "there is no candidate"),
        ([ActivationChange("s", "int8", {})], "changes no value"),
        ([activation("s", "x"), activation("s", "h")], r"candidates of site 's' change \[\['h'\], \['x'\]\]"),
        ([activation("s", "nowhere")], "no node makes a value 'nowhere'"),
        ([WeightChange("s", "int8", "h", lambda: np.zeros(1))], "no node reads an initializer 'h'"),
        ([ActivationChange("s", "int8", {"x": lambda a: a[:1]})], r"gave the shape \(1, 4\)"),
    ],
)
def test_changes_that_cannot_be_made_are_refused(changes, message, mlp, rng):
    with pytest.raises(ValueError, match=message):
        found_by(mlp, changes, {"x": rng.normal(size=(8, 4)).astype(np.float32)}, Kind.KL)


def test_integers_are_not_rounded(untorched):
    network, inputs = untorched
    with pytest.raises(ValueError, match="'tokens' of site 's' is int64; expected float32"):
        found_by(network, [activation("s", "tokens")], inputs, Kind.KL)
