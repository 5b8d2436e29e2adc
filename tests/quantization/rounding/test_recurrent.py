"""LSTM, GRU and RNN: their weights meet inputs and states as the reductions say, and are stored like any other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from network.graph import Network, Site
from network.normalise import from_proto
from network.taps import Taps
from quantization.activations.quantized import QuantizedActivation
from quantization.activations.ranges import Histogram, calibrated
from quantization.export.audit import audit
from quantization.export.cost import file_bytes
from quantization.export.export import export, simulate
from quantization.formats import Granularity, IntegerFormat, UnsignedFormat
from quantization.rounding.gptq import gptq, prepare
from quantization.rounding.layers import read_by, reduction
from quantization.rounding.nearest import round_nearest
from quantization.rounding.reduction import NotReducible, RecurrentReduction
from quantization.rounding.statistics import InputStatistics, input_statistics

RunOnnx = Callable[..., list[NDArray[Any]]]
Floats = NDArray[np.float32]
INPUTS, HIDDEN, STEPS, SAMPLES = 5, 6, 7, 3
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}


@dataclass(frozen=True)
class Case:
    """A network `x [N, steps, inputs] -> Transpose -> recurrent node -> Transpose -> y`, and an input for it."""

    network: Network
    inputs: dict[str, Floats]

    @property
    def node(self) -> onnx.NodeProto:
        return next(node for node in self.network.proto.graph.node if node.op_type in GATES)

    def weight(self, name: str) -> Floats:
        return self.network.weight(name)

    def site(self, name: str) -> Site:
        return next(site for site in self.network.sites if site.weight == name)

    def reads(self, name: str) -> tuple[str, ...]:
        return read_by(self.network, next(layer for layer in self.site(name).layers if layer.weight == name))

    def values(self, names: tuple[str, ...]) -> dict[str, Floats]:
        found: dict[str, Floats] = {}
        Taps(self.network, names, 1).run(self.inputs, lambda name, a: found.update({name: np.asarray(a, np.float32)}))
        return found


def case(op_type: str, direction: str = "forward", *, initial: bool = False, last: bool = False, **attributes: Any):
    """With `initial` states as an input `h [N, directions, hidden]`; with `last` the node makes Y_h alone."""
    rng = np.random.default_rng(0)
    directions, rows = len(DIRECTIONS[direction]), GATES[op_type] * HIDDEN
    weights = {
        "w": rng.standard_normal((directions, rows, INPUTS)),
        "r": rng.standard_normal((directions, rows, HIDDEN)) / 2,
        "b": rng.standard_normal((directions, 2 * rows)) / 2,
    }
    inputs = {"x": rng.standard_normal((SAMPLES, STEPS, INPUTS)).astype(np.float32)}
    nodes = [helper.make_node("Transpose", ["x"], ["xt"], perm=[1, 0, 2])]
    states = []
    if initial:
        inputs["h"] = rng.standard_normal((SAMPLES, directions, HIDDEN)).astype(np.float32)
        nodes.append(helper.make_node("Transpose", ["h"], ["ht"], perm=[1, 0, 2]))
        states = ["", "ht"]
    made = ["", "s"] if last else ["s"]
    nodes += [
        helper.make_node(
            op_type, ["xt", "w", "r", "b", *states], made, "cell", hidden_size=HIDDEN, direction=direction, **attributes
        ),
        helper.make_node("Transpose", ["s"], ["y"], perm=[1, 0, 2] if last else [2, 0, 1, 3]),
    ]
    return Case(network_of(nodes, inputs, weights), inputs)


def network_of(
    nodes: list[onnx.NodeProto], inputs: Mapping[str, Floats], initializers: Mapping[str, NDArray[Any]]
) -> Network:
    for number, node in enumerate(nodes):
        node.name = node.name or f"node{number}"
    graph = helper.make_graph(
        nodes,
        "recurrent",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", *a.shape[1:]]) for n, a in inputs.items()],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(a.astype(np.float32) if a.dtype == np.float64 else a, n)
            for n, a in initializers.items()
        ],
    )
    return from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=13))


def sigmoid(x: NDArray[Any]) -> NDArray[Any]:
    return 1 / (1 + np.exp(-x))


def products(of: Case, name: str) -> NDArray[Any]:
    """A weight times all its columns, `[directions, gates * hidden, samples, steps]`, in the order of the steps."""
    view = reduction(of.node, name, of.weight(name).shape)
    assert isinstance(view, RecurrentReduction)
    found = []
    for values in of.values(of.reads(name)).values():
        inputs = view.by_sample(torch.from_numpy(values))
        (positions,) = view.grid(inputs.shape)
        columns = view.columns(inputs, [0], [1]).numpy()
        product = view.to_matrix(of.weight(name)) @ columns
        found.append(product.reshape(*product.shape[:2], SAMPLES, positions))
    if name == "w":
        return found[0]
    if len(found) == 1:  # no initial states: they are zeros
        found.append(np.zeros((*found[0].shape[:3], 1)))
    states, first = found
    pairs = zip(states, first, view.backwards, strict=True)
    return np.stack([np.concatenate([s, f] if backwards else [f, s], axis=2) for s, f, backwards in pairs])


def unrolled(of: Case) -> NDArray[Any]:
    """All states `[directions, hidden, samples, steps]` from these products, by the equations of ONNX."""
    op_type = of.node.op_type
    attributes = {a.name: helper.get_attribute_value(a) for a in of.node.attribute}
    directions = DIRECTIONS[attributes["direction"].decode()]
    of_inputs, of_states = products(of, "w"), products(of, "r")
    biases = of.weight("b").reshape(len(directions), 2, -1, 1)
    initial = np.swapaxes(of.inputs["h"], 0, 1) if "h" in of.inputs else np.zeros((len(directions), SAMPLES, HIDDEN))
    states = np.zeros((len(directions), HIDDEN, SAMPLES, STEPS))
    for d, backwards in enumerate(directions):
        state, cell = initial[d].T, np.zeros((HIDDEN, SAMPLES))
        recurrent = of.weight("r")[d]
        for step in range(STEPS)[:: -1 if backwards else 1]:
            wx = np.split(of_inputs[d, :, :, step] + biases[d, 0], GATES[op_type])
            rh = np.split(of_states[d, :, :, step] + biases[d, 1], GATES[op_type])
            if op_type == "RNN":
                state = np.tanh(wx[0] + rh[0])
            elif op_type == "LSTM":
                i, o, f = (sigmoid(wx[gate] + rh[gate]) for gate in range(3))
                cell = f * cell + i * np.tanh(wx[3] + rh[3])
                state = o * np.tanh(cell)
            else:
                z, r = (sigmoid(wx[gate] + rh[gate]) for gate in range(2))
                reset = r * rh[2]
                if not attributes.get("linear_before_reset", 0):
                    reset = recurrent[2 * HIDDEN :] @ (r * state) + biases[d, 1][2 * HIDDEN :]
                state = (1 - z) * np.tanh(wx[2] + reset) + z * state
            states[d, :, :, step] = state
    return states


CELLS = [("LSTM", {}), ("GRU", {"linear_before_reset": 0}), ("GRU", {"linear_before_reset": 1}), ("RNN", {})]


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("op_type", "attributes"), CELLS)
@pytest.mark.parametrize("initial", [False, True])
def test_both_products_of_every_step_are_the_layer(
    run_onnx: RunOnnx, op_type: str, attributes: dict[str, int], direction: str, initial: bool
) -> None:
    of = case(op_type, direction, initial=initial, **attributes)
    (expected,) = run_onnx(of.network.proto, of.inputs)  # [samples, steps, directions, hidden]
    np.testing.assert_allclose(unrolled(of).transpose(2, 3, 0, 1), expected, rtol=1e-4, atol=1e-5)
    for name in ("w", "r"):
        view = reduction(of.node, name, of.weight(name).shape)
        assert isinstance(view, RecurrentReduction)
        assert np.array_equal(view.from_matrix(view.to_matrix(of.weight(name)), of.weight(name).shape), of.weight(name))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_samples_may_come_first(direction: str) -> None:
    """ONNX Runtime runs no layout 1; there the columns are those of layout 0, transposed."""
    backwards = DIRECTIONS[direction]
    rng = np.random.default_rng(1)
    shapes = {
        "x": ((STEPS, SAMPLES, INPUTS), (1, 0, 2)),
        "y": ((STEPS, len(backwards), SAMPLES, HIDDEN), (2, 0, 1, 3)),
        "h": ((len(backwards), SAMPLES, HIDDEN), (1, 0, 2)),
    }
    for name, (shape, order) in shapes.items():
        values = torch.from_numpy(rng.standard_normal(shape))
        found = []
        for batch_first, array in ((False, values), (True, values.permute(order))):
            node = helper.make_node("LSTM", ["x", "w", "r"], ["y"], direction=direction, layout=int(batch_first))
            view = reduction(node, "w" if name == "x" else "r", (len(backwards), 4 * HIDDEN, INPUTS))
            assert isinstance(view, RecurrentReduction)
            found.append(view.columns(view.by_sample(array), [1], [2]))
        assert torch.equal(*found)


def moments(of: Case, name: str) -> NDArray[np.float64]:
    """`sum x x'` of a weight by a loop over every sample, direction and step."""
    attributes = {a.name: helper.get_attribute_value(a) for a in of.node.attribute}
    directions = DIRECTIONS[attributes["direction"].decode()]
    x = of.inputs["x"].astype(np.float64)
    (y,) = of.values((of.reads("r")[0],)).values()  # [steps, directions, samples, hidden]
    found = np.zeros((len(directions), *2 * (INPUTS if name == "w" else HIDDEN,)))
    for d, backwards in enumerate(directions):
        for sample in range(SAMPLES):
            state = of.inputs["h"][sample, d] if "h" in of.inputs else np.zeros(HIDDEN)
            for step in range(STEPS)[:: -1 if backwards else 1]:
                column = x[sample, step] if name == "w" else np.asarray(state, np.float64)
                found[d] += np.outer(column, column)
                state = y[step, d, sample]
    return found


def statistics_of(of: Case, name: str, positions: int = 1 << 30) -> InputStatistics:
    site = of.site(name)
    statistics = input_statistics(of.network, site, positions)
    assert isinstance(statistics, InputStatistics)
    for values in of.values(of.reads(name)).values():
        statistics.add(site.layers[0], values)
    return statistics


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("name", ["w", "r"])
def test_statistics_are_those_of_every_step(direction: str, initial: bool, last: bool, name: str) -> None:
    """The states are there too where nothing of the network reads them."""
    of = case("LSTM", direction, initial=initial, last=last)
    np.testing.assert_allclose(statistics_of(of, name).hessian, moments(of, name), rtol=1e-5, atol=1e-4)


def test_states_and_initial_states_take_their_turns_apart() -> None:
    """Two equal samples in batches of one, thinned by two: between them every step counted as often as without."""
    of = case("LSTM", initial=True)
    first = Case(of.network, {name: array[:1] for name, array in of.inputs.items()})
    site = of.site("r")
    thin, full = (input_statistics(of.network, site, positions) for positions in (3, 1 << 30))
    assert isinstance(thin, InputStatistics)
    assert isinstance(full, InputStatistics)
    for _ in range(2):
        for values in first.values(of.reads("r")).values():
            thin.add(site.layers[0], values)
            full.add(site.layers[0], values)
    np.testing.assert_allclose(thin.hessian, full.hessian, rtol=1e-5, atol=1e-4)


def test_a_single_step_has_its_initial_states_alone() -> None:
    of = case("GRU", "bidirectional", initial=True)
    one = Case(of.network, {"x": of.inputs["x"][:, :1], "h": of.inputs["h"]})
    site = of.site("r")
    statistics = input_statistics(of.network, site)
    assert isinstance(statistics, InputStatistics)
    statistics.add(site.layers[0], np.zeros((1, 2, SAMPLES, HIDDEN), np.float32))  # Y: after the only step
    assert not statistics.hessian.any()
    statistics.add(site.layers[0], np.swapaxes(one.inputs["h"], 0, 1))
    h = one.inputs["h"].astype(np.float64)
    np.testing.assert_allclose(statistics.hessian, np.einsum("ndi,ndj->dij", h, h), rtol=1e-5)


def test_one_weight_for_inputs_and_states_is_rounded_by_itself() -> None:
    node = helper.make_node("RNN", ["x", "w", "w"], ["y"], hidden_size=4)
    found = reduction(node, "w", (1, 4, 4))
    assert isinstance(found, NotReducible)
    assert "both its inputs and its states" in found.reason


@pytest.mark.parametrize("op_type", GATES)
@pytest.mark.parametrize("name", ["w", "r"])
@pytest.mark.parametrize("granularity", [Granularity.CHANNEL, Granularity.TENSOR])
def test_gptq_gives_smaller_errors_of_the_products_than_nearest(
    op_type: str, name: str, granularity: Granularity
) -> None:
    of = case(op_type, "bidirectional", initial=True)
    site, statistics = of.site(name), statistics_of(of, name)
    format_ = IntegerFormat(3, granularity)
    (found,) = gptq(prepare(of.weight(name), statistics), [format_], site.channel_axis)
    nearest = round_nearest(of.weight(name), format_, site.channel_axis)
    rows = of.weight(name).shape[1]
    assert found.scale.shape == nearest.scale.shape == ((1, rows, 1) if granularity is Granularity.CHANNEL else ())

    def error(weight: Floats) -> float:
        off = weight.astype(np.float64) - of.weight(name)
        return float(np.einsum("dri,dij,drj->", off, statistics.hessian, off))

    assert error(found.dequantize()) < error(nearest.dequantize())


def stacked(rng: np.random.Generator) -> tuple[Network, dict[str, Floats]]:
    """A linear layer, a bidirectional LSTM and a GRU on it, and a linear layer on its last state."""

    def draw(*shape: int) -> Floats:
        return rng.standard_normal(shape).astype(np.float32) / 2

    inputs = {"x": draw(4, STEPS, INPUTS)}
    nodes = [
        helper.make_node("MatMul", ["x", "w_in"], ["a"]),
        helper.make_node("Add", ["a", "b_in"], ["e"]),
        helper.make_node("Transpose", ["e"], ["et"], perm=[1, 0, 2]),
        helper.make_node(
            "LSTM", ["et", "lstm.W", "lstm.R", "lstm.B"], ["l"], "lstm", hidden_size=HIDDEN, direction="bidirectional"
        ),
        helper.make_node("Transpose", ["l"], ["lt"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["lt", "shape"], ["g0"]),
        helper.make_node("GRU", ["g0", "gru.W", "gru.R"], ["", "g"], "gru", hidden_size=9, linear_before_reset=1),
        helper.make_node("Squeeze", ["g", "first"], ["s"]),
        helper.make_node("Gemm", ["s", "w_out", "b_out"], ["y"]),
    ]
    initializers: dict[str, NDArray[Any]] = {
        "w_in": draw(INPUTS, 8),
        "b_in": draw(8),
        "lstm.W": draw(2, 4 * HIDDEN, 8),
        "lstm.R": draw(2, 4 * HIDDEN, HIDDEN),
        "lstm.B": draw(2, 8 * HIDDEN),
        "gru.W": draw(1, 27, 2 * HIDDEN),
        "gru.R": draw(1, 27, 9),
        "w_out": draw(9, 5),
        "b_out": draw(5),
        "shape": np.array([STEPS, -1, 2 * HIDDEN]),
        "first": np.array([0]),
    }
    return network_of(nodes, inputs, initializers), inputs


def rounded(network: Network, bits: Mapping[str, int], granularity: Granularity = Granularity.CHANNEL):
    return {
        site.weight: round_nearest(
            network.weight(site.weight), IntegerFormat(bits[site.weight], granularity), site.channel_axis
        )
        for site in network.sites
        if site.weight in bits
    }


@pytest.mark.parametrize("granularity", [Granularity.CHANNEL, Granularity.TENSOR])
@pytest.mark.parametrize("bits", range(2, 9))
def test_the_file_is_what_numpy_dequantizes_and_as_large_as_planned(
    run_onnx: RunOnnx, bits: int, granularity: Granularity
) -> None:
    network, inputs = stacked(np.random.default_rng(2))
    assert [site.weight for site in network.sites] == ["w_in", "lstm.W", "lstm.R", "gru.W", "gru.R", "w_out"]
    widths = {site.weight: 2 + (bits + place) % 7 for place, site in enumerate(network.sites)}
    del widths["w_in"]
    weights = rounded(network, widths, granularity)
    file = export(network, weights, {"made": "here"})
    assert np.array_equal(run_onnx(file, inputs)[0], run_onnx(simulate(network, weights), inputs)[0])
    assert file_bytes(network, {n: w.format for n, w in weights.items()}, {"made": "here"}) == len(file)
    assert {w.name: w.bits for w in audit(file).weights} == {**widths, "w_in": 32}
    assert {w.name: w.bits for w in audit(network.proto.SerializeToString()).weights} == dict.fromkeys(
        (site.weight for site in network.sites), 32
    )


@pytest.mark.parametrize("format_", [IntegerFormat(3, Granularity.BLOCK, block=16), IntegerFormat(4, symmetric=False)])
def test_blocks_and_zero_points_are_stored_too(run_onnx: RunOnnx, format_: IntegerFormat) -> None:
    rng = np.random.default_rng(5)
    inputs = {"x": rng.standard_normal((SAMPLES, STEPS, 32)).astype(np.float32)}
    nodes = [
        helper.make_node("Transpose", ["x"], ["xt"], perm=[1, 0, 2]),
        helper.make_node("LSTM", ["xt", "w", "r"], ["y"], hidden_size=16, direction="bidirectional"),
    ]
    network = network_of(nodes, inputs, {"w": rng.standard_normal((2, 64, 32)), "r": rng.standard_normal((2, 64, 16))})
    weights = {s.weight: round_nearest(network.weight(s.weight), format_, s.channel_axis) for s in network.sites}
    file = export(network, weights, {})
    assert np.array_equal(run_onnx(file, inputs)[0], run_onnx(simulate(network, weights), inputs)[0])
    assert file_bytes(network, dict.fromkeys(weights, format_)) == len(file)
    assert {weight.name: weight.bits for weight in audit(file).weights} == dict.fromkeys(weights, format_.bits)


def optimised(file: bytes, path: Path) -> onnx.GraphProto:
    """What ONNX Runtime makes of the file before it runs."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return onnx.load(path).graph


def assert_runs_on_constants(graph: onnx.GraphProto, weights: Mapping[str, NDArray[Any]]) -> None:
    """LSTM and GRU read float weights that were folded at load, with these very values."""
    initializers = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    cells = {node.name: node for node in graph.node if node.op_type in GATES}
    assert cells.keys() == {"lstm", "gru"}
    for name, node in cells.items():
        for place, letter in ((1, "W"), (2, "R")):
            assert np.array_equal(initializers[node.input[place]], weights[f"{name}.{letter}"])


def test_the_weights_are_folded_at_load(tmp_path: Path) -> None:
    network, _ = stacked(np.random.default_rng(3))
    weights = rounded(network, {site.weight: 2 + place for place, site in enumerate(network.sites)})
    graph = optimised(export(network, weights, {}), tmp_path / "optimised.onnx")
    assert_runs_on_constants(graph, {name: weight.dequantize() for name, weight in weights.items()})
    assert not {"Mul", "Cast", "DequantizeLinear"} & {node.op_type for node in graph.node}


def calibrations(
    network: Network, inputs: Mapping[str, Floats], names: tuple[str, ...], bits: int
) -> dict[str, QuantizedActivation]:
    found: dict[str, QuantizedActivation] = {}

    def visit(name: str, values: NDArray[Any]) -> None:
        histogram = Histogram(name)
        histogram.add(np.asarray(values, np.float32))
        found[name] = calibrated(histogram, UnsignedFormat(bits))

    Taps(network, names, 1).run(inputs, visit)
    return found


@pytest.mark.parametrize("bits", [8, 16])
def test_between_quantized_activations_it_computes_in_floats(run_onnx: RunOnnx, tmp_path: Path, bits: int) -> None:
    """Every value around the nodes is rounded; they themselves run on the float weights."""
    network, inputs = stacked(np.random.default_rng(4))
    weights = rounded(network, {site.weight: 4 for site in network.sites})
    activations = calibrations(network, inputs, ("x", "e", "l", "g"), bits)
    moved = {"et": "e", "lt": "l", "g0": "l", "s": "g"}
    activations |= {name: activations[source] for name, source in moved.items()}
    file = export(network, weights, {}, activations)
    assert file_bytes(
        network, {n: w.format for n, w in weights.items()}, {}, {n: a.format for n, a in activations.items()}
    ) == len(file)
    found, expected = (run_onnx(model, inputs)[0] for model in (file, simulate(network, weights, activations)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=(0.02 if bits == 8 else 1e-3) * np.abs(expected).max())
    graph = optimised(file, tmp_path / "optimised.onnx")
    assert_runs_on_constants(graph, {name: weight.dequantize() for name, weight in weights.items()})
