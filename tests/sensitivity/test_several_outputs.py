"""A network with several outputs: every way to a damage sees all that the loss names, and runs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from network.execution import TorchNetwork
from network.graph import Network
from network.normalise import from_proto
from network.runtime import session_of
from network.segments import SegmentedNetwork
from sensitivity.cross_layer import CrossLayer, cross_layer
from sensitivity.estimate import ActivationChange, Change, Subject, WeightChange
from sensitivity.estimators import METHODS
from sensitivity.estimators.eigenvalues import PowerRule
from sensitivity.estimators.q_bert import q_bert
from sensitivity.loss import Kind, Loss, Term
from sensitivity.plan_losses import MeasuredPlans
from tests.sensitivity.dense import DETECTOR_LOSS, dense_hessian

NAMED = ("classes", "found")


def coarse(a: np.ndarray) -> np.ndarray:
    return (0.25 * np.round(a / 0.25)).astype(np.float32)


def changes_of(network: Network, rng: np.random.Generator, *values: str) -> list[Change]:
    """A candidate for each weight, a little off, and one for each of these values, rounded."""
    changes: list[Change] = []
    for site in network.sites:
        weight = network.weight(site.weight)
        off = (weight * (1 + 0.05 * rng.normal(size=site.shape))).astype(np.float32)
        changes.append(WeightChange(site.name, "f", site.weight, lambda off=off: off))
    return changes + [ActivationChange(value, "f", {value: coarse}) for value in values]


def whole(network: Network, x: np.ndarray, weights: dict[str, np.ndarray], rounds: str = "") -> dict[str, np.ndarray]:
    """The outputs of the loss by ONNX Runtime on the whole graph, a value rounded by a node of its own."""
    proto = onnx.ModelProto()
    proto.CopyFrom(network.proto)
    for tensor in proto.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))
    if rounds:
        place = next(i for i, node in enumerate(proto.graph.node) if rounds in node.output) + 1
        for node in list(proto.graph.node)[place:]:
            node.input[:] = [f"{rounds}/rounded" if name == rounds else name for name in node.input]
        steps = [
            ("Mul", [rounds, "four"], "4"),
            ("Round", [f"{rounds}/4"], "r"),
            ("Mul", [f"{rounds}/r", "fourth"], "rounded"),
        ]
        for number, (operator, reads, made) in enumerate(steps):
            proto.graph.node.insert(place + number, helper.make_node(operator, reads, [f"{rounds}/{made}"]))
        for name, number in (("four", 4.0), ("fourth", 0.25)):
            proto.graph.initializer.append(numpy_helper.from_array(np.float32(number), name))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip(NAMED, session.run(list(NAMED), {"x": x}), strict=True))


def matrix_of(network: Network, changes: Sequence[Change], x: np.ndarray, loss: Loss, **more) -> CrossLayer:
    more = {"threads": 1, "generator": np.random.default_rng(0), **more}
    return cross_layer(network, changes, {"x": x}, loss, **more)


@pytest.fixture
def x(rng) -> np.ndarray:
    return rng.normal(size=(20, 3, 2)).astype(np.float32)


@pytest.fixture
def outputs_of_changes(detector, x, rng) -> tuple[list[Change], list[dict[str, np.ndarray]]]:
    changes = changes_of(detector, rng, "t")
    weights = [{c.initializer: c.values()} for c in changes if isinstance(c, WeightChange)]
    return changes, [*(whole(detector, x, changed) for changed in weights), whole(detector, x, {}, "t")]


def test_the_matrix_is_that_of_whole_graphs(detector, x, outputs_of_changes):
    changes, outputs = outputs_of_changes
    found, reference = matrix_of(detector, changes, x, DETECTOR_LOSS, batch=7), whole(detector, x, {})
    Z = np.array([DETECTOR_LOSS.root_times(z, reference).ravel() for z in outputs])
    expected = Z @ Z.T / (2 * len(x))
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    assert np.all(np.diag(expected) > 0)
    assert np.all(np.abs(found.matrix - expected) <= 1e-3 * scale)
    lost = [DETECTOR_LOSS.sample_loss(z, reference).mean() for z in outputs]
    np.testing.assert_allclose(found.measured, lost, rtol=1e-3)


def test_a_sketch_mixes_the_outputs_without_bias(detector, x, rng):
    """27 numbers a sample in 8 buckets, 100 seeds: the mean is exact within 5 standard errors."""
    changes = changes_of(detector, rng)
    exact = matrix_of(detector, changes, x, DETECTOR_LOSS)
    drawn = np.array(
        [
            matrix_of(detector, changes, x, DETECTOR_LOSS, sketch=8, generator=np.random.default_rng(seed)).matrix
            for seed in range(100)
        ]
    )
    spread = drawn.std(0, ddof=1)
    assert np.all(spread > 0)
    assert np.all(np.abs(drawn.mean(0) - exact.matrix) <= 5 * spread / 10)


def test_plans_are_measured_at_every_output(detector, x, outputs_of_changes, rng):
    changes, outputs = outputs_of_changes
    measured, reference = MeasuredPlans(detector, changes, {"x": x}, DETECTOR_LOSS, batch=7), whole(detector, x, {})
    for place, z in enumerate(outputs):
        expected = DETECTOR_LOSS.sample_loss(z, reference)
        np.testing.assert_allclose(measured.losses([place]), expected, rtol=1e-3, atol=1e-6)
    weights = {c.initializer: c.values() for c in changes if isinstance(c, WeightChange)}
    expected = DETECTOR_LOSS.sample_loss(whole(detector, x, weights, "t"), reference)
    np.testing.assert_allclose(measured.losses(range(len(changes))), expected, rtol=1e-3, atol=1e-6)
    assert not measured.losses([]).any()


def with_another_head(detector: Network, rng: np.random.Generator) -> Network:
    """A third output of floats, `extra`, from a layer and a Tanh of its own."""
    proto = onnx.ModelProto()
    proto.CopyFrom(detector.proto)
    proto.graph.initializer.append(numpy_helper.from_array(rng.normal(size=(4, 2)).astype(np.float32), "e"))
    proto.graph.node.append(helper.make_node("MatMul", ["t", "e"], ["before"], name="e"))
    proto.graph.node.append(helper.make_node("Tanh", ["before"], ["extra"], name="another"))
    proto.graph.output.append(helper.make_tensor_value_info("extra", TensorProto.FLOAT, ["N", 3, 2]))
    return from_proto(proto)


def test_what_leads_to_no_output_of_the_loss_has_no_damage(detector, x, rng):
    network = with_another_head(detector, rng)
    changes = changes_of(network, rng, "before", "extra", "t")
    dead = [k for k, change in enumerate(changes) if change.site in ("e", "before", "extra")]
    assert len(dead) == 3
    found = matrix_of(network, changes, x, DETECTOR_LOSS)
    measured = MeasuredPlans(network, changes, {"x": x}, DETECTOR_LOSS)
    alone = [measured.losses([k]).mean() for k in range(len(changes))]
    subject = Subject(TorchNetwork(network), tuple(changes), {"x": x}, DETECTOR_LOSS, batch=10)
    scores = [METHODS[name](subject).scores for name in ("directional", "m_fac", "hawq_v2", "fisher_weights", "noise")]
    for damages in (found.damage, found.measured, alone, *scores):
        assert not np.array(damages)[dead].any()
        assert np.all(np.delete(damages, dead) > 0)
    np.testing.assert_allclose(
        measured.losses(range(len(changes))), measured.losses([k for k in range(len(changes)) if k not in dead])
    )


def test_nothing_runs_that_the_loss_does_not_need(detector, x, rng, monkeypatch):
    """Nodes, not only results: ONNX Runtime would run whatever stands in the graph."""
    network, ran = with_another_head(detector, rng), set[str]()

    def watched(model: onnx.ModelProto, threads: int, **options: Any) -> onnxruntime.InferenceSession:
        ran.update(name for node in model.graph.node for name in node.output)
        return session_of(model, threads, **options)

    with monkeypatch.context() as patches:
        patches.setattr("network.segments.session_of", watched)
        segments = SegmentedNetwork(network, 1, ["found"])
        segments.after(0).run({"x": x})
        matrix_of(network, changes_of(network, rng, "extra", "s"), x, Loss.of(Kind.SQUARED_ERROR, "found"))
    assert ran == {"h", "t", "boxes", "s", "scores", "both", "found"}
    results = segments.after(0).run({"x": x})
    assert list(results) == ["found"]
    np.testing.assert_array_equal(results["found"], SegmentedNetwork(network, 1).after(0).run({"x": x})["found"])
    for cut in range(1, len(network.proto.graph.node) + 1):
        part = segments.between(0, cut).run({"x": x})
        assert not {"before", "extra", "z", "classes", "best"}.intersection(part)
        np.testing.assert_array_equal(segments.after(cut).run(part)["found"], results["found"])


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("hawq", "q_bert", "quantization_error")])
def test_scores_of_terms_add_up(detector, method, rng):
    """Of methods that are quadratic in the probe only in the mean; the probes of 60 times the samples say enough."""
    few = rng.normal(size=(6, 3, 2)).astype(np.float32)
    inputs = {"x": np.tile(few, (60, 1, 1))}
    changes = tuple(changes_of(detector, rng, "t"))

    def estimate(*terms: Term):
        subject = Subject(TorchNetwork(detector), changes, inputs, Loss(terms), batch=6)
        return METHODS[method](subject)

    whole_loss, parts = estimate(*DETECTOR_LOSS.terms), [estimate(term) for term in DETECTOR_LOSS.terms]
    total = np.sum([part.scores for part in parts], axis=0)
    stderr = np.sqrt(whole_loss.stderr**2 + np.sum([part.stderr**2 for part in parts], axis=0))
    exact = method in ("directional", "noise")  # the noise is the same, whatever the loss
    assert np.all(np.abs(whole_loss.scores - total) <= (1e-4 * total if exact else 5 * stderr + 1e-4 * total))
    assert np.all(total > 0)


def test_q_bert_is_mean_plus_spread_over_parts(detector, rng):
    """Four samples make two parts of two, in one of three ways."""
    inputs = {"x": rng.normal(size=(4, 3, 2)).astype(np.float32).astype(np.float64)}
    changes = tuple(changes_of(detector, rng))
    subject = Subject(TorchNetwork(detector, dtype=torch.float64), changes, inputs, DETECTOR_LOSS)
    found = q_bert(replace(subject, batch=2), PowerRule(rtol=1e-3, max_iterations=500)).scores
    weights = [site.weight for site in detector.sites]

    def largest(part: Sequence[int]) -> list[float]:
        hessian = dense_hessian(detector, {"x": inputs["x"][list(part)]}, DETECTOR_LOSS, weights)
        return [np.linalg.eigvalsh(hessian.block(name)).max() for name in weights]

    squares = np.array([np.square(c.values() - detector.weight(c.initializer).astype(float)).mean() for c in changes])
    ways = []
    for partner in (1, 2, 3):
        values = np.array([largest((0, partner)), largest([i for i in (1, 2, 3) if i != partner])])
        ways.append((values.mean(0) + values.std(0, ddof=1)) * squares)
    assert any(np.allclose(found, way, rtol=1e-3) for way in ways)


def test_an_output_that_depends_on_no_weight_is_damaged_by_none(detector, x, rng):
    """It requires no gradient at all, which torch refuses to differentiate."""
    proto = onnx.ModelProto()
    proto.CopyFrom(detector.proto)
    proto.graph.node.append(helper.make_node("Tanh", ["x"], ["echo"], name="echo"))
    proto.graph.output.append(helper.make_tensor_value_info("echo", TensorProto.FLOAT, ["N", 3, 2]))
    network, changes = from_proto(proto), tuple(changes_of(detector, rng))
    echo, both = Term("echo", Kind.SQUARED_ERROR), Loss((*DETECTOR_LOSS.terms, Term("echo", Kind.SQUARED_ERROR)))
    for name in ("directional", "fisher_weights", "hawq_v2", "hawq"):
        alone, with_it, without = (
            METHODS[name](Subject(TorchNetwork(network), changes, {"x": x}, loss)).scores
            for loss in (Loss((echo,)), both, DETECTOR_LOSS)
        )
        assert not alone.any()
        assert np.all(with_it > 0)
        if name == "directional":  # the others draw probes of another length
            np.testing.assert_allclose(with_it, without, rtol=1e-5)
    assert not matrix_of(network, changes, x, Loss((echo,))).matrix.any()
