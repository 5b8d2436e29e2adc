"""The cross-layer matrix against measured pairs, against itself under other cuts and batches, and its sketch."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from network.graph import Network
from network.normalise import from_proto, normalise
from sensitivity import parts
from sensitivity.cross_layer import CrossLayer, cross_layer
from sensitivity.estimate import WeightChange
from sensitivity.loss import Kind, Term
from tests.sensitivity.dense import loss_of


def outputs(network: Network, weights: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """The network's outputs with some weights replaced, by ONNX Runtime on the whole graph."""
    proto = onnx.ModelProto()
    proto.CopyFrom(network.proto)
    for tensor in proto.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def perturbed(network: Network, rng: np.random.Generator, size: float, count: int = 2) -> dict[str, list[np.ndarray]]:
    """Per site `count` weights that are a little off."""
    return {
        site.name: [
            network.weight(site.weight) + (size * rng.normal(size=site.shape)).astype(np.float32) for _ in range(count)
        ]
        for site in network.sites
    }


def matrix_of(network, weights, x, kind, **arguments) -> CrossLayer:
    changes = [
        WeightChange(site.name, str(number), site.weight, lambda w=w: w)
        for site in network.sites
        for number, w in enumerate(weights[site.name])
    ]
    arguments = {"threads": 1, "generator": np.random.default_rng(0), **arguments}
    return cross_layer(network, changes, {"x": x}, loss_of(network, kind), **arguments)


def test_more_cores_measure_the_same(convolutions, rng):
    """The last batches have fewer samples than there are cores."""
    x = rng.normal(size=(10, 2, 5, 5)).astype(np.float32)
    weights = perturbed(convolutions, rng, 0.3)
    one, three = (matrix_of(convolutions, weights, x, Kind.KL, threads=n, batch=4, group=8) for n in (1, 3))
    np.testing.assert_allclose(three.matrix, one.matrix, rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(three.measured, one.measured, rtol=1e-4, atol=1e-8)


LOGITS = [(name, loss) for name in ("mlp", "convolutions", "tied", "attention") for loss in ("kl", "squared_error")]


@pytest.mark.parametrize(("name", "loss"), [*LOGITS, ("softmaxed", "kl_probabilities")])
def test_agrees_with_measured_pairs(name, loss, request, rng):
    """CLADO's measured pairs `L(ij) - L(i) - L(j)` tend to `2 G_ij` as the changes shrink."""
    network, loss = request.getfixturevalue(name), Kind(loss)
    x = rng.normal(size=(40, *network.inputs[0].shape[1:])).astype(np.float32)
    weights = perturbed(network, rng, 0.003)
    found = matrix_of(network, weights, x, loss)
    flat = [(site, w) for site in network.sites for w in weights[site.name]]
    reference = outputs(network, {}, x)

    def lost(changed: dict[str, np.ndarray]) -> float:
        return Term("y", loss).sample_loss(outputs(network, changed, x), reference).mean()

    scale = np.sqrt(np.outer(found.damage, found.damage))
    for (i, (site, w)), (j, (other, v)) in itertools.combinations(enumerate(flat), 2):
        if site is other:
            continue
        pair = lost({site.weight: w, other.weight: v}) - lost({site.weight: w}) - lost({other.weight: v})
        assert 2 * found.matrix[i, j] == pytest.approx(pair, abs=0.05 * scale[i, j])
    alone = [lost({site.weight: w}) for site, w in flat]
    np.testing.assert_allclose(found.measured, alone, rtol=1e-2)
    np.testing.assert_allclose(found.damage, alone, rtol=5e-2)


def test_is_exact_where_the_output_is_linear_in_all_weights(rng):
    """Two branches added: squared error is a quadratic in both weights, so pairs and matrix are the same numbers."""
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "a"], ["h"]),
            helper.make_node("MatMul", ["x", "b"], ["g"]),
            helper.make_node("Add", ["h", "g"], ["y"]),
        ],
        "sum",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(rng.normal(size=(4, 3)).astype(np.float32), name) for name in "ab"],
    )
    network = normalise(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))
    x = rng.normal(size=(30, 4)).astype(np.float32)
    weights = perturbed(network, rng, 0.5)
    found = matrix_of(network, weights, x, Kind.SQUARED_ERROR)
    errors = [w - network.weight(site.weight) for site in network.sites for w in weights[site.name]]
    changes = [x.astype(np.float64) @ error for error in errors]
    exact = np.array([[0.5 * (p * q).sum() / len(x) for q in changes] for p in changes])
    np.testing.assert_allclose(found.matrix, exact, rtol=1e-4, atol=1e-5)


def test_is_positive_semidefinite(convolutions, rng):
    x = rng.normal(size=(20, 2, 5, 5)).astype(np.float32)
    found = matrix_of(convolutions, perturbed(convolutions, rng, 0.3, count=4), x, Kind.KL)
    values = np.linalg.eigvalsh(found.matrix)
    assert values.min() >= -1e-9 * values.max()


def test_batches_and_groups_do_not_change_it(convolutions, rng):
    x = rng.normal(size=(23, 2, 5, 5)).astype(np.float32)
    weights = perturbed(convolutions, rng, 0.3)
    whole = matrix_of(convolutions, weights, x, Kind.KL, batch=23)
    parts = matrix_of(convolutions, weights, x, Kind.KL, batch=4, group=10)
    np.testing.assert_allclose(parts.matrix, whole.matrix, rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(parts.damage_stderr, whole.damage_stderr, rtol=1e-4)


def test_stored_chunks_are_not_computed_again(convolutions, rng, monkeypatch):
    monkeypatch.setattr(parts, "LEAST_MACS", 1.0)
    x = rng.normal(size=(16, 2, 5, 5)).astype(np.float32)
    weights = perturbed(convolutions, rng, 0.3)
    stored: dict[str, np.ndarray] = {}
    computed: list[str] = []

    def spread(names, compute, ahead=None):
        for place, name in enumerate(names):
            if name not in stored:
                computed.append(name)
                stored[name] = compute(place)
            yield stored[name]

    first = matrix_of(convolutions, weights, x, Kind.KL, spread=spread)
    assert len(computed) == sum(map(len, weights.values()))
    del stored[computed[1]]  # as if the worker had died there: what lies before is passed over, not run again
    computed.clear()
    second = matrix_of(convolutions, weights, x, Kind.KL, spread=spread)
    assert len(computed) == 1
    assert np.array_equal(first.matrix, second.matrix)


@pytest.mark.parametrize("group", [5, 16])
def test_parts_are_the_same_in_any_order(convolutions, rng, monkeypatch, group):
    """As several processes take them: in the order of the cuts, from the end, and any other."""
    monkeypatch.setattr(parts, "LEAST_MACS", 1.0)
    x = rng.normal(size=(16, 2, 5, 5)).astype(np.float32)
    weights = perturbed(convolutions, rng, 0.3)

    def matrix(order):
        def spread(names, compute, ahead=None):
            computed = {place: compute(place) for place in order(range(len(names)))}
            return [computed[place] for place in range(len(names))]

        return matrix_of(convolutions, weights, x, Kind.KL, spread=spread, batch=4, group=group).matrix

    whole = matrix(list)
    assert np.array_equal(matrix(reversed), whole)
    assert np.array_equal(matrix(lambda places: rng.permutation(len(places)).tolist()), whole)


def test_the_sketch_is_unbiased_within_the_error_it_states(rng):
    """60 outputs sketched to 16, 24 samples of very different size in batches of 6, over 150 seeds.

    The mean is exact within 5 standard errors (a false failure in one of a million for each of 10 entries). The spread
    stays below the stated bound, but for the error of 150 draws of it, about 6 %: 1.3 is five of those.
    """
    network = wide(rng)
    x = (rng.normal(size=(24, 4)) * np.exp(rng.normal(size=(24, 1)))).astype(np.float32)
    weights = perturbed(network, rng, 0.1, count=2)
    exact = matrix_of(network, weights, x, Kind.SQUARED_ERROR)
    assert not exact.sketch_stderr.any()
    assert exact.sketch_error == 0
    runs = [
        matrix_of(network, weights, x, Kind.SQUARED_ERROR, sketch=16, batch=6, generator=np.random.default_rng(seed))
        for seed in range(150)
    ]
    drawn = np.array([run.matrix for run in runs])
    spread = drawn.std(0, ddof=1)
    assert np.all(np.abs(drawn.mean(0) - exact.matrix) <= 5 * spread / np.sqrt(150))
    stated = runs[0].sketch_stderr
    assert np.all(spread <= 1.3 * stated)
    # the bound is attained where the changes of two candidates are parallel, as a candidate is to itself
    assert np.all(np.diag(spread) >= 0.5 * np.diag(stated))
    # of 24 samples alike it would be sqrt(2 / (16 * 24)); the largest ones decide
    found = runs[0].sketch_error
    assert found == pytest.approx((stated / np.sqrt(np.outer(runs[0].damage, runs[0].damage))).max())
    assert np.sqrt(2 / (16 * 24)) < found < np.sqrt(2 / 16)
    # known from the outputs before they were sketched, so the same for every seed
    np.testing.assert_allclose(runs[1].sketch_stderr, stated, rtol=1e-6)
    np.testing.assert_allclose(runs[0].damage_stderr, exact.damage_stderr, rtol=1e-4)


def test_as_many_outputs_as_the_sketch_keeps_are_not_sketched(rng):
    network = wide(rng)
    x = rng.normal(size=(6, 4)).astype(np.float32)
    weights = perturbed(network, rng, 0.1, count=1)
    found = matrix_of(network, weights, x, Kind.SQUARED_ERROR, sketch=60)
    assert not found.sketch_stderr.any()
    assert np.array_equal(found.matrix, matrix_of(network, weights, x, Kind.SQUARED_ERROR, sketch=100).matrix)


def wide(rng: np.random.Generator) -> Network:
    """Two linear layers, 60 outputs."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "a"], ["h"]), helper.make_node("MatMul", ["h", "b"], ["y"])],
        "wide",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(rng.normal(size=(4, 5)).astype(np.float32), "a"),
            numpy_helper.from_array(rng.normal(size=(5, 60)).astype(np.float32), "b"),
        ],
    )
    return normalise(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))


def test_a_softmax_at_the_end_changes_nothing(mlp, rng):
    """Large changes: a probability that rises from nothing must not count as more than the rise of its logit."""
    proto = onnx.ModelProto()
    proto.CopyFrom(mlp.proto)
    proto.graph.node.append(helper.make_node("Softmax", ["y"], ["p"], axis=-1, name="softmax"))
    proto.graph.output[0].name = "p"
    past_softmax = from_proto(proto)
    x = 3 * rng.normal(size=(50, 4)).astype(np.float32)
    weights = perturbed(mlp, rng, 0.5)
    logits = matrix_of(mlp, weights, x, Kind.KL)
    probabilities = matrix_of(past_softmax, weights, x, Kind.KL_PROBABILITIES)
    np.testing.assert_allclose(probabilities.matrix, logits.matrix, rtol=0.02, atol=1e-3)
    np.testing.assert_allclose(probabilities.measured, logits.measured, rtol=0.02)


def test_masked_classes_are_no_damage(mlp, rng):
    """A mask of -inf on one class, in the float and in every quantized network."""
    proto = onnx.ModelProto()
    proto.CopyFrom(mlp.proto)
    mask = np.array([0, 0, -np.inf, 0, 0], dtype=np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(mask, "mask"))
    proto.graph.node.append(helper.make_node("Add", ["y", "mask"], ["masked"], name="add_mask"))
    proto.graph.output[0].name = "masked"
    x = rng.normal(size=(20, 4)).astype(np.float32)
    found = matrix_of(from_proto(proto), perturbed(mlp, rng, 0.3), x, Kind.KL)
    assert np.isfinite(found.matrix).all()
    assert (found.damage > 0).all()
    assert np.isfinite(found.measured).all()


def test_an_output_made_before_the_cut_is_passed_on(mlp, rng):
    """A second output (features) that nothing reads after the last layer."""
    proto = onnx.ModelProto()
    proto.CopyFrom(mlp.proto)
    features = next(node.output[0] for node in proto.graph.node if node.op_type == "Tanh")
    proto.graph.output.append(helper.make_tensor_value_info(features, TensorProto.FLOAT, ["N", 6]))
    x = rng.normal(size=(20, 4)).astype(np.float32)
    weights = perturbed(mlp, rng, 0.3)
    with_features = matrix_of(from_proto(proto), weights, x, Kind.KL)
    np.testing.assert_allclose(with_features.matrix, matrix_of(mlp, weights, x, Kind.KL).matrix, rtol=1e-5)
