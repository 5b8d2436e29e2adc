"""What all methods promise, and the methods that know nothing of curvature."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from network.execution import TorchNetwork
from network.graph import Network
from network.normalise import from_proto, normalise
from sensitivity import parts
from sensitivity.estimate import ActivationChange, Estimate, Subject, Unit, WeightChange
from sensitivity.estimators import METHODS
from sensitivity.estimators.noise import noise
from sensitivity.estimators.quantization_error import quantization_error
from sensitivity.loss import Kind, Loss
from tests.sensitivity.dense import dense_hessian

ONLY_WEIGHTS = {"hawq", "q_bert"}
ONLY_ORDER = {"hawq", "q_bert", "quantization_error"}


def rounded(a: np.ndarray) -> np.ndarray:
    return (np.round(a / 0.25) * 0.25).astype(np.float32)


def weight_change(network: Network, name: str, size: float = 0.1) -> WeightChange:
    weight = network.weight(name)
    error = size * np.random.default_rng(len(name)).normal(size=weight.shape)
    return WeightChange(name, "f", name, lambda: weight + error.astype(np.float32))


def subject_of(network: Network, samples: int = 24, **changed) -> Subject:
    changes = (weight_change(network, "a"), ActivationChange("t", "f", {"t": rounded}), weight_change(network, "b"))
    inputs = {"x": np.random.default_rng(0).normal(size=(samples, 4)).astype(np.float32)}
    return Subject(
        TorchNetwork(network), **{"changes": changes, "inputs": inputs, "loss": Loss.of(Kind.KL, "y"), **changed}
    )


@pytest.fixture(params=list(METHODS))
def method(request) -> str:
    return request.param


def test_the_answer_says_what_it_covers_and_counts(method, mlp):
    subject = subject_of(mlp)
    estimate = METHODS[method](subject)
    assert estimate.method == method
    assert estimate.unit is (Unit.RELATIVE if method in ONLY_ORDER else Unit.DAMAGE)
    covered = [0, 2] if method in ONLY_WEIGHTS else [0, 1, 2]
    assert np.flatnonzero(np.isfinite(estimate.scores)).tolist() == covered
    assert np.flatnonzero(np.isfinite(estimate.stderr)).tolist() == covered
    assert np.all(estimate.scores[covered] > 0)
    assert 2 <= estimate.samples <= 24


def test_the_same_seed_gives_the_same_answer(method, mlp):
    first, second = (METHODS[method](subject_of(mlp, seed=5)) for _ in range(2))
    np.testing.assert_array_equal(first.scores, second.scores)
    np.testing.assert_array_equal(first.stderr, second.stderr)


@pytest.mark.parametrize("free", [False, True])
def test_parts_are_the_same_in_any_order(method, mlp, monkeypatch, free):
    """As several processes take them; where outputs of samples may have different sizes all are one part."""
    monkeypatch.setattr(parts, "LEAST_MACS", 1.0)
    whole = METHODS[method](subject_of(mlp, batch=4))
    counts: list[int] = []

    def spread(names, compute, ahead=None):
        assert len(set(names)) == len(names)
        counts.append(len(names))
        computed = {place: compute(place) for place in reversed(range(len(names)))}
        return [computed[place] for place in range(len(names))]

    if free:
        mlp = replace(mlp, outputs=(replace(mlp.outputs[0], shape=(None, None)),))
    estimate = METHODS[method](subject_of(mlp, batch=4, spread=spread))
    np.testing.assert_array_equal(estimate.scores, whole.scores)
    np.testing.assert_array_equal(estimate.stderr, whole.stderr)
    spreads = {"hawq_v2": [64, 6], "fisher_weights": [8], "fisher_outputs": [6], "m_fac": [6]}.get(method, [])
    assert counts == ([1] * len(spreads) if free else spreads)


def test_what_takes_no_time_is_one_part(method, mlp):
    counts: list[int] = []

    def spread(names, compute, ahead=None):
        counts.append(len(names))
        return map(compute, range(len(names)))

    METHODS[method](subject_of(mlp, batch=4, spread=spread))
    assert set(counts) <= {1}


def test_progress_rises_to_one(method, mlp):
    for changes in (subject_of(mlp).changes, (weight_change(mlp, "a"),)):
        seen: list[float] = []
        METHODS[method](subject_of(mlp, changes=changes, batch=8, check=seen.append))
        assert seen == sorted(seen)
        assert seen[0] > 0
        assert seen[-1] == pytest.approx(1.0)


def test_no_more_samples_at_once_than_a_batch(method, mlp, monkeypatch):
    sizes: list[int] = []
    run = TorchNetwork.run

    def counted(self, inputs, *arguments, **named):
        sizes.append(len(inputs["x"]))
        return run(self, inputs, *arguments, **named)

    monkeypatch.setattr(TorchNetwork, "run", counted)
    for batch in (1, 5) if method != "q_bert" else (5,):
        sizes.clear()
        METHODS[method](subject_of(mlp, batch=batch))
        assert max(sizes, default=0) <= batch


def test_twice_the_error_is_four_times_the_damage(method, mlp):
    """To second order; the error's own size is what `quantization_error` gives, and noise saturates."""
    small, large = (
        METHODS[method](subject_of(mlp, changes=(weight_change(mlp, "a", size), weight_change(mlp, "b", size))))
        for size in (0.01, 0.02)
    )
    factor = 2 if method == "quantization_error" else 4
    np.testing.assert_allclose(large.scores, factor * small.scores, rtol=0.05 if method == "noise" else 1e-3)


def test_a_sensitive_layer_scores_above_a_dull_one(method):
    """Two branches of one shape, the second scaled by 1/100 before it is added: by 10,000 less damage."""
    rng = np.random.default_rng(1)
    weights = {"a": rng.normal(size=(4, 3)), "b": rng.normal(size=(4, 3)), "tenth": np.array([0.01])}
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"], name="first"),
        helper.make_node("MatMul", ["x", "b"], ["g"], name="second"),
        helper.make_node("Mul", ["g", "tenth"], ["t"], name="scale"),
        helper.make_node("Add", ["h", "t"], ["y"], name="add"),
    ]
    network = build(nodes, weights)
    changes = tuple(weight_change(network, name) for name in "ab")
    estimate = METHODS[method](subject_of(network, changes=changes))
    if method == "quantization_error":  # blind to it
        assert estimate.scores[0] < 10 * estimate.scores[1]
    else:
        assert estimate.scores[0] > 1000 * estimate.scores[1]


def test_what_the_first_output_does_not_depend_on_does_no_damage(method, mlp):
    proto = onnx.ModelProto()
    proto.CopyFrom(mlp.proto)
    proto.graph.initializer.append(numpy_helper.from_array(np.ones((4, 2), np.float32), "c"))
    proto.graph.node.append(helper.make_node("MatMul", ["x", "c"], ["t2"], name="aside"))
    proto.graph.output.append(helper.make_tensor_value_info("t2", TensorProto.FLOAT, ["N", 2]))
    network = from_proto(proto)
    changes = (weight_change(network, "a"), weight_change(network, "c"), ActivationChange("o", "f", {"t2": rounded}))
    estimate = METHODS[method](subject_of(network, changes=changes))
    if method != "quantization_error":
        assert estimate.scores[0] > 0
        assert np.nan_to_num(estimate.scores[1:]).tolist() == [0, 0]


def test_without_candidates_there_is_nothing_to_estimate(mlp):
    with pytest.raises(ValueError, match="no candidate"):
        subject_of(mlp, changes=())


@pytest.mark.parametrize("method", sorted(ONLY_WEIGHTS))
def test_without_weights_there_is_nothing_to_estimate_for_some(method, mlp):
    with pytest.raises(ValueError, match="no candidate"):
        METHODS[method](subject_of(mlp, changes=(ActivationChange("t", "f", {"t": rounded}),)))


def test_values_of_another_shape_are_refused(method, mlp):
    change = WeightChange("a", "int4", "a", lambda: np.zeros((4, 6), np.float32))
    with pytest.raises(ValueError, match=r"int4 of 'a' has values of shape \(4, 6\), expected \(6, 4\)"):
        METHODS[method](subject_of(mlp, changes=(change,)))


@pytest.mark.parametrize("method", sorted(set(METHODS) - ONLY_WEIGHTS))
def test_activations_that_do_not_exist_or_change_shape_are_refused(method, mlp):
    with pytest.raises(ValueError, match="no value is called"):
        METHODS[method](subject_of(mlp, changes=(ActivationChange("s", "f", {"missing": rounded}),)))
    with pytest.raises(ValueError, match="gave the shape"):
        METHODS[method](subject_of(mlp, changes=(ActivationChange("s", "f", {"t": lambda a: a[:, :2]}),)))


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"q_bert"}))
def test_a_network_that_fixes_its_batch_is_fed_whole_batches(method, mlp):
    proto = onnx.ModelProto()
    proto.CopyFrom(mlp.proto)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 6
    del proto.graph.value_info[:]
    estimate = METHODS[method](subject_of(from_proto(proto), batch=6))
    free = METHODS[method](subject_of(mlp, batch=6))
    within = 6 * np.hypot(estimate.stderr, free.stderr) + 1e-5 * free.scores  # 4 batches: a t distribution
    assert np.all((np.abs(estimate.scores - free.scores) <= within) | np.isnan(free.scores))


def build(nodes, weights) -> Network:
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(a.astype(np.float32), name) for name, a in weights.items()],
    )
    return normalise(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))


def test_noise_on_a_quadratic_is_half_the_mean_trace_times_the_error():
    """A linear network and squared error: the expectation is known. 200 draws of noise, within 5 standard errors."""
    rng = np.random.default_rng(1)
    nodes = [helper.make_node("MatMul", ["x", "a"], ["t"]), helper.make_node("MatMul", ["t", "b"], ["y"])]
    network = build(nodes, {"a": rng.normal(size=(4, 3)), "b": rng.normal(size=(3, 3))})
    few = rng.normal(size=(5, 4)).astype(np.float32)
    subject = subject_of(network, inputs={"x": np.tile(few, (200, 1))}, loss=Loss.of(Kind.SQUARED_ERROR, "y"), batch=5)
    estimate = noise(subject)
    hessian = dense_hessian(network, {"x": few.astype(np.float64)}, Loss.of(Kind.SQUARED_ERROR, "y"), ["a", "b"], ["t"])
    errors = {name: weight_change(network, name).values() - network.weight(name) for name in "ab"}
    values = hessian.floats["t"].astype(np.float32)
    errors["t"] = rounded(values) - values
    expected = [0.5 * hessian.block(name).trace() * np.square(errors[name].astype(np.float64)).mean() for name in "atb"]
    assert np.all(np.abs(estimate.scores - expected) <= 5 * estimate.stderr)
    assert np.all(estimate.stderr < 0.15 * np.array(expected))


def test_quantization_error_is_over_the_largest_magnitude(mlp):
    subject = subject_of(
        mlp, changes=(weight_change(mlp, "a"), ActivationChange("s", "f", {"x": rounded, "t": rounded}))
    )
    estimate = quantization_error(subject)
    weight, values = mlp.weight("a").astype(np.float64), weight_change(mlp, "a").values()
    of_weight = math.sqrt(np.square(values - weight).mean()) / np.abs(weight).max()
    x = subject.inputs["x"]
    graph = {t.name: numpy_helper.to_array(t) for t in mlp.proto.graph.initializer}
    t = np.tanh(x @ graph["a"].T + graph["ab"])
    of_values = [math.sqrt(np.square((rounded(a) - a).astype(np.float64)).mean()) / np.abs(a).max() for a in (x, t)]
    np.testing.assert_allclose(estimate.scores, [of_weight, np.mean(of_values)], rtol=1e-4)
    assert estimate.stderr[0] == 0
    assert 0 < estimate.stderr[1] < 0.2 * estimate.scores[1]


def test_q_bert_needs_two_parts(mlp):
    with pytest.raises(ValueError, match="3 samples make no two of 2"):
        METHODS["q_bert"](subject_of(mlp, samples=3))


def test_one_number_for_each_candidate():
    with pytest.raises(ValueError, match="one number a candidate"):
        Estimate("m", Unit.DAMAGE, np.zeros(2), np.zeros(3), 2)


@pytest.mark.parametrize("changed", [{"samples": 1}, {"batch": 0}])
def test_a_subject_that_cannot_be_estimated_is_refused(mlp, changed):
    with pytest.raises(ValueError, match="at least"):
        subject_of(mlp, **changed)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_gives_what_the_cpu_gives(method, mlp):
    on_cpu = subject_of(mlp)
    on_gpu = functools.partial(Subject, TorchNetwork(mlp, device="cuda"))(on_cpu.changes, on_cpu.inputs, on_cpu.loss)
    np.testing.assert_allclose(METHODS[method](on_gpu).scores, METHODS[method](on_cpu).scores, rtol=1e-3)
