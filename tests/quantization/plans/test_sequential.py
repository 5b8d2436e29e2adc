from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from network.graph import Network
from network.taps import Taps
from quantization.activations.quantized import QuantizedActivation
from quantization.errors import QuantizationError
from quantization.export.export import simulate
from quantization.formats import (
    CodebookFormat,
    Granularity,
    HadamardFormat,
    HalfFormat,
    IntegerFormat,
    PowerFormat,
    UnsignedFormat,
    WeightFormat,
)
from quantization.plans.bias_correction import with_biases
from quantization.plans.sequential import Effort, round_plan
from quantization.rounding.formats import round_to_formats
from quantization.rounding.layers import read_by
from quantization.rounding.nearest import round_nearest
from quantization.rounding.statistics import InputStatistics, input_statistics
from quantization.storage.weights import QuantizedWeight

MakeNetwork = Callable[..., Network]
RunOnnx = Callable[..., list[NDArray[Any]]]
Arrays = dict[str, NDArray[Any]]
PLAIN = Effort(1, correct_biases=False, sweeps=0, damping=0.01)
SAMPLES = 48


def draw(seed: int) -> Callable[..., NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    return lambda *shape: rng.standard_normal(shape).astype(np.float32)


def convnet(make_network: MakeNetwork, seed: int) -> tuple[Network, Arrays]:
    """A residual block, a grouped convolution, and a classifier."""
    new = draw(seed)
    weights = {
        "w1": new(8, 3, 3, 3) / 5, "b1": new(8) / 5, "w2": new(8, 8, 3, 3) / 8, "b2": new(8) / 5,
        "w3": new(12, 4, 3, 3) / 6, "w4": new(12, 5), "b4": new(5),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c2", "r1"], ["a2"]),
        helper.make_node("Relu", ["a2"], ["r2"]),
        helper.make_node("Conv", ["r2", "w3"], ["c3"], group=2, strides=[2, 2]),
        helper.make_node("Relu", ["c3"], ["r3"]),
        helper.make_node("GlobalAveragePool", ["r3"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w4", "b4"], ["y"]),
    ]
    images = new(SAMPLES, 3, 10, 10)
    images = images + np.roll(images, 1, axis=2) + np.roll(images, 1, axis=3)
    return make_network(nodes, {"x": images}, weights), {"x": images}


def transformer(make_network: MakeNetwork, seed: int) -> tuple[Network, Arrays]:
    """One block with an embedding; query, key and value read the same tensor, and biases are Adds behind MatMuls."""
    new = draw(seed)
    weights = {
        "w_table": new(20, 16), "one": np.ones(16, np.float32), "zero": np.zeros(16, np.float32),
        **{name: new(16, 16) / 4 for name in ("w_q", "w_k", "w_v", "w_o")},
        "w_up": new(16, 32) / 4, "b_up": new(32) / 4, "w_down": new(32, 16) / 4, "b_down": new(16) / 4,
        "w_head": new(16, 6) / 2, "axes": np.array([1]),
    }  # fmt: skip
    nodes = [
        helper.make_node("Gather", ["w_table", "ids"], ["e"]),
        helper.make_node("LayerNormalization", ["e", "one", "zero"], ["n"]),
        *(helper.make_node("MatMul", ["n", f"w_{name}"], [name]) for name in "qkv"),
        helper.make_node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "kt"], ["s"]),
        helper.make_node("Softmax", ["s"], ["p"]),
        helper.make_node("MatMul", ["p", "v"], ["m"]),
        helper.make_node("MatMul", ["m", "w_o"], ["o"]),
        helper.make_node("Add", ["o", "e"], ["h"]),
        helper.make_node("LayerNormalization", ["h", "one", "zero"], ["n2"]),
        helper.make_node("MatMul", ["n2", "w_up"], ["u"]),
        helper.make_node("Add", ["u", "b_up"], ["ub"]),
        helper.make_node("Gelu", ["ub"], ["g"]),
        helper.make_node("MatMul", ["g", "w_down"], ["d"]),
        helper.make_node("Add", ["b_down", "d"], ["db"]),
        helper.make_node("Add", ["db", "h"], ["h2"]),
        helper.make_node("ReduceMean", ["h2", "axes"], ["r"], keepdims=0),
        helper.make_node("MatMul", ["r", "w_head"], ["y"]),
    ]
    ids = np.random.default_rng(seed).integers(0, 20, (2 * SAMPLES, 9))
    return make_network(nodes, {"ids": ids}, weights), {"ids": ids}


def independent(
    network: Network, inputs: Arrays, bits: int, format_: WeightFormat | None = None
) -> dict[str, QuantizedWeight]:
    """Every weight by GPTQ from the float network's inputs, or nearest; integers where `format_` is not given or does
    not fit."""
    found: dict[str, QuantizedWeight] = {}
    for site in network.sites:
        weight, statistics = network.weight(site.weight), input_statistics(network, site)
        own = format_ or IntegerFormat(bits)
        if isinstance(own, HadamardFormat) and weight.size // weight.shape[site.channel_axis] % 8:
            own = IntegerFormat(bits)
        if not isinstance(statistics, InputStatistics):
            ((found[site.weight],), _) = round_to_formats(weight, [own], site.channel_axis, statistics)
            continue
        for layer in site.layers:
            (tensor,) = read_by(network, layer)
            Taps(network, [tensor], 1).run(
                inputs, lambda _, values, layer=layer, statistics=statistics: statistics.add(layer, values)
            )
        ((found[site.weight],), _) = round_to_formats(weight, [own], site.channel_axis, statistics)
    return found


def kl(exact: NDArray[Any], other: NDArray[Any]) -> float:
    logs = [z.astype(np.float64) - np.logaddexp.reduce(z.astype(np.float64), axis=1)[:, None] for z in (exact, other)]
    return float((np.exp(logs[0]) * (logs[0] - logs[1])).sum(axis=1).mean())


@pytest.mark.parametrize("build", [convnet, transformer])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_damage_falls(make_network: MakeNetwork, run_onnx: RunOnnx, build: Any, bits: int) -> None:
    """Over five seeded networks at least 25 % on the samples that it rounded for, and never by more than 10 % up."""
    before, after = [], []
    for seed in range(5):
        network, inputs = build(make_network, seed)
        (exact,) = run_onnx(network.proto, inputs)
        weights = independent(network, inputs, bits)
        found = round_plan(network, weights, inputs, {}, Effort(1))
        before.append(kl(exact, run_onnx(simulate(network, weights), inputs)[0]))
        after.append(kl(exact, run_onnx(simulate(with_biases(network, found.biases), found.weights), inputs)[0]))
        assert {name: w.format for name, w in found.weights.items()} == {name: w.format for name, w in weights.items()}
        assert list(found.weights) == list(weights)
        assert after[-1] < 1.1 * before[-1]
    assert sum(after) < 0.75 * sum(before)


@pytest.mark.parametrize("build", [convnet, transformer])
@pytest.mark.parametrize(
    "format_",
    [CodebookFormat(2), CodebookFormat(3, 200), PowerFormat(2), PowerFormat(4), HadamardFormat(2), HadamardFormat(3)],
    ids=lambda format_: format_.name,
)
def test_damage_falls_in_every_format(
    make_network: MakeNetwork, run_onnx: RunOnnx, build: Any, format_: WeightFormat
) -> None:
    """Over three seeded networks at least 15 % on the samples that it rounded for, and never by more than 10 % up."""
    before, after = [], []
    for seed in range(3):
        network, inputs = build(make_network, seed)
        (exact,) = run_onnx(network.proto, inputs)
        weights = independent(network, inputs, format_.bits, format_)
        found = round_plan(network, weights, inputs, {}, Effort(1))
        before.append(kl(exact, run_onnx(simulate(network, weights), inputs)[0]))
        after.append(kl(exact, run_onnx(simulate(with_biases(network, found.biases), found.weights), inputs)[0]))
        assert {name: w.format for name, w in found.weights.items()} == {name: w.format for name, w in weights.items()}
        assert found.kept.keys() == {"w_table"} & weights.keys()
        assert after[-1] < 1.1 * before[-1]
    assert sum(after) < 0.85 * sum(before)


def test_what_gptq_has_no_rule_for_stays(make_network: MakeNetwork) -> None:
    """A half, and a ConvTranspose whose rotated blocks run across its kernel."""
    new = draw(11)
    weights = {"w1": new(1, 8, 3), "w2": new(1, 8, 8), "w3": new(8, 8, 1)}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"]),
        helper.make_node("ConvTranspose", ["a", "w2"], ["b"]),
        helper.make_node("Conv", ["b", "w3"], ["y"]),
    ]
    inputs = {"x": new(SAMPLES, 8, 9)}
    network = make_network(nodes, inputs, weights)
    turned = independent(network, inputs, 3, HadamardFormat(3))
    halves = {**turned, "w1": independent(network, inputs, 3, HalfFormat())["w1"]}
    found = round_plan(network, halves, inputs, {}, Effort(1))
    assert found.notes.keys() == {"w3"}
    assert found.kept == {
        "w1": "GPTQ does not round float16 anew",
        "w2": "blocks of hadamard3/channel do not run along its inputs",
    }
    assert all(found.weights[name] is halves[name] for name in found.kept)


def test_where_no_weight_is_rounded_anew_biases_stay_too(make_network: MakeNetwork) -> None:
    network, inputs = convnet(make_network, 0)
    halves = independent(network, inputs, 3, HalfFormat())
    seen: list[float] = []
    found = round_plan(network, halves, inputs, {}, Effort(1), seen.append)
    assert found.kept == dict.fromkeys(halves, "GPTQ does not round float16 anew")
    assert (found.notes, found.biases, seen) == ({}, {}, [1.0])
    assert all(found.weights[name] is halves[name] for name in halves)


def test_without_errors_before_it_is_plain_gptq(make_network: MakeNetwork) -> None:
    """The first layer has the float network's inputs; so have all where only the last weight is in the plan."""
    network, inputs = convnet(make_network, 0)
    alone = independent(network, inputs, 3)
    for name in ("w1", "w4"):
        found = round_plan(network, {name: alone[name]}, inputs, {}, PLAIN)
        one, other = found.weights[name].arrays(), alone[name].arrays()
        assert one["codes"].tobytes() == other["codes"].tobytes()
        np.testing.assert_allclose(one["scale"], other["scale"], rtol=1e-6)
        assert found.biases == {}
        assert found.notes == {name: "sequential gptq"}


def test_the_target_is_the_float_layer_exactly(make_network: MakeNetwork, run_onnx: RunOnnx) -> None:
    """Invertible layers without anything between them: the second undoes what rounding did to the first."""
    new = draw(1)
    weights = {"w1": new(12, 12), "w2": new(12, 12)}
    nodes = [helper.make_node("MatMul", ["x", "w1"], ["h"]), helper.make_node("MatMul", ["h", "w2"], ["y"])]
    network = make_network(nodes, {"x": new(200, 12)}, weights)
    inputs = {"x": new(200, 12)}
    first = round_nearest(weights["w1"], IntegerFormat(2), 1)
    wide = round_nearest(weights["w2"], IntegerFormat(8), 1)
    (exact,) = run_onnx(network.proto, inputs)
    start = {"w1": first, "w2": wide}
    errors = []
    for found in (start, round_plan(network, start, inputs, {}, Effort(1, damping=1e-6)).weights):
        errors.append(float(np.square(run_onnx(simulate(network, found), inputs)[0] - exact).mean()))
    assert errors[1] < 1e-3 * errors[0]


def test_quantized_activations_are_made_up_for(make_network: MakeNetwork, run_onnx: RunOnnx) -> None:
    """Over five seeded networks."""
    damage = {"before": 0.0, "blind": 0.0, "aware": 0.0}
    for seed in range(5):
        network, inputs = convnet(make_network, seed)
        (exact,) = run_onnx(network.proto, inputs)
        ranges: dict[str, QuantizedActivation] = {}

        def visit(name: str, values: NDArray[np.generic], ranges: Any = ranges) -> None:
            ranges[name] = QuantizedActivation.covering(UnsignedFormat(4), float(values.min()), float(values.max()))

        Taps(network, ["x", "r1", "r2", "r3"], 1).run(inputs, visit)
        weights = independent(network, inputs, 4)
        results = {"before": weights}
        for name, known in (("blind", {}), ("aware", ranges)):
            found = round_plan(network, weights, inputs, known, Effort(1, correct_biases=False))
            results[name] = dict(found.weights)
        for name, rounded in results.items():
            damage[name] += kl(exact, run_onnx(simulate(network, rounded, ranges), inputs)[0])
    assert damage["aware"] < 0.9 * damage["before"]
    assert damage["aware"] < damage["blind"]


@pytest.mark.parametrize("format_", [IntegerFormat(3), CodebookFormat(3), PowerFormat(3)], ids=lambda f: f.name)
def test_tied_weights_are_rounded_once_from_all_uses(make_network: MakeNetwork, format_: WeightFormat) -> None:
    """The second use counts with its float inputs: H is their sum, and the first use has no error yet."""
    new = draw(3)
    inputs = {"x": new(64, 10)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Tanh", ["h"], ["t"]),
        helper.make_node("MatMul", ["t", "w"], ["g"]),
        helper.make_node("MatMul", ["g", "w_end"], ["y"]),
    ]
    network = make_network(nodes, inputs, {"w": new(10, 10), "w_end": new(10, 4)})
    weights = independent(network, inputs, 3, format_)
    found = round_plan(network, weights, inputs, {}, PLAIN)
    one, other = found.weights["w"].arrays(), weights["w"].arrays()
    np.testing.assert_array_equal(one["codes"], other["codes"])
    shared = "table" if isinstance(format_, CodebookFormat) else "scale"
    np.testing.assert_allclose(one[shared], other[shared], rtol=1e-5)
    changed = found.weights["w_end"].dequantize() != weights["w_end"].dequantize()
    assert changed.any()


def test_what_cannot_be_rounded_anew_stays_and_says_why(make_network: MakeNetwork) -> None:
    network, inputs = transformer(make_network, 4)
    weights = independent(network, inputs, 3)
    found = round_plan(network, weights, inputs, {}, Effort(1))
    assert found.weights["w_table"] is weights["w_table"]
    assert found.kept["w_table"].startswith("layer node0: Gather copies rows")
    assert found.notes["w_q"] == "sequential gptq"
    assert found.biases.keys() == {"b_up", "b_down"}


def test_works_on_graphs_that_only_onnx_runtime_runs(make_network: MakeNetwork) -> None:
    """Nothing is differentiated: an If is run like any other node."""
    new = draw(5)
    inputs = {"x": new(40, 6), "flag": np.array([True] * 40)}
    branches = {
        branch: helper.make_graph(
            [helper.make_node(operator, ["h"], [f"{branch}_out"])],
            branch,
            [],
            [helper.make_tensor_value_info(f"{branch}_out", TensorProto.FLOAT, None)],
        )
        for branch, operator in (("then_branch", "Relu"), ("else_branch", "Neg"))
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0),
        helper.make_node("IsNaN", ["total"], ["bad"]),
        helper.make_node("If", ["bad"], ["i"], **branches),
        helper.make_node("MatMul", ["i", "w2"], ["y"]),
    ]
    network = make_network(nodes, inputs, {"w1": new(6, 8), "w2": new(8, 3)})
    weights = {
        site.weight: round_nearest(network.weight(site.weight), IntegerFormat(3, Granularity.TENSOR), 1)
        for site in network.sites
    }
    found = round_plan(network, weights, inputs, {}, Effort(1))
    assert set(found.notes.values()) == {"sequential gptq"}


def test_same_arguments_same_bytes(make_network: MakeNetwork) -> None:
    network, inputs = convnet(make_network, 6)
    weights = independent(network, inputs, 2)
    first, second = (round_plan(network, weights, inputs, {}, Effort(1)) for _ in range(2))
    for name in weights:
        assert first.weights[name].dequantize().tobytes() == second.weights[name].dequantize().tobytes()
    assert first.biases.keys() == second.biases.keys() == {"b1", "b2", "b4"}
    for name, values in first.biases.items():
        assert values.tobytes() == second.biases[name].tobytes()


def test_little_memory_means_fewer_samples(make_network: MakeNetwork) -> None:
    network, inputs = convnet(make_network, 7)
    weights = independent(network, inputs, 3)
    # at the widest cut, before the second convolution, a sample has 8 x 10 x 10 numbers alive, in both networks
    found = round_plan(network, weights, inputs, {}, Effort(1, memory_bytes=10 * 2 * 4 * 800))
    # of fewer samples more positions: all 48 would have had 64 each
    few = round_plan(network, weights, {"x": inputs["x"][:10]}, {}, Effort(1, positions_per_sample=5 * 64))
    for name in weights:
        assert found.weights[name].dequantize().tobytes() == few.weights[name].dequantize().tobytes()


def test_progress_rises_to_one_and_what_it_raises_ends_the_work(make_network: MakeNetwork) -> None:
    network, inputs = convnet(make_network, 8)
    weights = independent(network, inputs, 3)
    seen: list[float] = []
    round_plan(network, weights, inputs, {}, Effort(1, batch=16), seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert len(seen) > 12

    class Cancelled(Exception):
        pass

    def cancel(fraction: float) -> None:
        if fraction > 0.3:
            raise Cancelled

    with pytest.raises(Cancelled):
        round_plan(network, weights, inputs, {}, Effort(1), cancel)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"weights": "w9"}, QuantizationError, "weight w9 must be that of a site"),
        ({"inputs": 0}, ValueError, "at least one"),
        ({"activations": "nowhere"}, ValueError, "activations nowhere are no values"),
    ],
)
def test_refuses(make_network: MakeNetwork, change: dict[str, Any], error: type[Exception], message: str) -> None:
    network, inputs = convnet(make_network, 0)
    weights = independent(network, inputs, 3)
    activations: dict[str, QuantizedActivation] = {}
    if "weights" in change:
        weights = {change["weights"]: weights["w1"]}
    if "inputs" in change:
        inputs = {"x": inputs["x"][:0]}
    if "activations" in change:
        activations = {change["activations"]: QuantizedActivation(UnsignedFormat(8), 1.0, 0)}
    with pytest.raises(error, match=message):
        round_plan(network, weights, inputs, activations, Effort(1))


def test_biases_in_coarse_steps_are_left_alone(make_network: MakeNetwork) -> None:
    """With 2-bit weights the steps of an integer kernel are larger than the mean error, and the weight is as without
    any correction; with 8-bit weights they are smaller."""
    new = draw(8)
    tensors = {"w": new(6, 4, 3, 3), "b": new(6)}
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    inputs = {"x": new(SAMPLES, 4, 8, 8)}
    network = make_network(nodes, inputs, tensors)
    found = {}
    for bits in (2, 8):
        activations = {name: QuantizedActivation.covering(UnsignedFormat(4), -4.0, 4.0) for name in ("x", "y")}
        rounded = round_plan(network, independent(network, inputs, bits), inputs, activations, Effort(1))
        found[bits] = rounded.biases.keys()
        alone = round_plan(
            network, independent(network, inputs, bits), inputs, activations, Effort(1, correct_biases=False)
        )
        same = alone.weights["w"].dequantize().tobytes() == rounded.weights["w"].dequantize().tobytes()
        assert same == (bits == 2)
    assert found == {2: set(), 8: {"b"}}
