"""Interactions of small nonlinear networks against dense float64 Hessians and measured losses."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from network.execution import TorchNetwork
from network.normalise import from_proto
from sensitivity.estimate import ActivationChange
from sensitivity.loss import Kind, Loss
from sensitivity.plan_losses import MeasuredPlans
from tests.oracles.interactions.displacement import differentiable_loss
from tests.oracles.interactions.pairs import pairs
from tests.oracles.interactions.path_integral import path_integral
from tests.oracles.interactions.products import products
from tests.oracles.interactions.row_sums import row_sums
from tests.sensitivity.dense import loss_of

NETWORKS = ["mlp", "convolutions", "tied", "attention", "embedding"]
LOGITS = [(name, loss) for name in NETWORKS for loss in ("kl", "squared_error")]
CASES = [*LOGITS, ("softmaxed", "kl_probabilities")]


def dense_interactions(network, changes, x: np.ndarray, loss: Loss) -> np.ndarray:
    """`d_i' H d_j` with the whole Hessian written down."""
    model = TorchNetwork(network, dtype=torch.float64)
    names = [site.weight for site in network.sites]
    sizes = [model.parameters[name].numel() for name in names]
    flat = torch.cat([model.parameters[name].detach().flatten() for name in names])
    tensor = torch.from_numpy(x)
    reference = {"y": model.run({"x": tensor})[0].detach()}

    def loss_of(vector: torch.Tensor) -> torch.Tensor:
        parts = zip(names, vector.split(sizes), strict=True)
        changed = {name: part.view(model.parameters[name].shape) for name, part in parts}
        return differentiable_loss(loss, {"y": model.run({"x": tensor}, changed)[0]}, reference).mean()

    hessian = torch.autograd.functional.hessian(loss_of, flat).numpy()
    errors = np.zeros((len(changes), len(flat)))
    starts = dict(zip(names, np.cumsum([0, *sizes[:-1]]), strict=True))
    for row, change in zip(errors, changes, strict=True):
        error = change.values().astype(np.float64) - network.weight(change.initializer)
        row[starts[change.initializer] :][: error.size] = error.ravel()
    return errors @ hessian @ errors.T


@pytest.mark.parametrize(("name", "loss"), CASES)
def test_products_and_row_sums_match_the_dense_hessian(name, loss, request, perturbations, samples_of, subject_of):
    network, loss = request.getfixturevalue(name), loss_of(request.getfixturevalue(name), loss)
    inputs, changes = samples_of(network, 12), perturbations(network, 0.3)
    exact = dense_interactions(network, changes, inputs["x"], loss)
    subject = subject_of(network, changes, inputs, loss, batch=5)
    scale = np.sqrt(np.outer(np.diag(exact), np.diag(exact)))
    found = products(subject)
    assert np.all(np.abs(found.matrix - exact) <= 1e-9 * scale)
    plan = list(range(0, len(changes), 2))
    shares = row_sums(subject, plan).shares
    np.testing.assert_allclose(shares, exact[np.ix_(plan, plan)].sum(1) / 2, rtol=1e-9, atol=1e-9 * scale.max())


@pytest.mark.parametrize("name", NETWORKS)
def test_measured_pairs_tend_to_the_products(name, request, perturbations, samples_of, subject_of):
    """CLADO's difference of losses, small changes, float32: within a tenth of what the two could share at most."""
    network = request.getfixturevalue(name)
    inputs, changes = samples_of(network, 12), perturbations(network, 0.003, count=1)
    found = products(subject_of(network, changes, inputs, loss_of(network, Kind.KL)))
    measured = pairs(network, changes, inputs, loss_of(network, Kind.KL))
    scale = np.sqrt(np.outer(found.damage, found.damage))
    assert np.all(np.abs(measured.matrix - found.matrix) <= 0.1 * scale)


def rounded(name: str, step: float) -> ActivationChange:
    return ActivationChange(name, f"{step}", {name: lambda a: (step * np.round(a / step)).astype(np.float32)})


@pytest.mark.parametrize("name", NETWORKS)
def test_the_shares_of_the_path_sum_to_the_measured_damage(name, request, perturbations, samples_of, subject_of):
    """Weights and activations, far from float: the stated error falls with K as that of midpoints, to nothing."""
    network = request.getfixturevalue(name)
    values = [node.output[0] for node in network.proto.graph.node if node.op_type in ("Tanh", "Sigmoid", "Softmax")]
    changes = (*perturbations(network, 0.4, count=1), *(rounded(value, 0.25) for value in values))
    inputs, plan = samples_of(network, 12), range(len(changes))
    measured = MeasuredPlans(network, changes, inputs, loss_of(network, Kind.KL), batch=5).losses(plan)
    subject = subject_of(network, changes, inputs, loss_of(network, Kind.KL), batch=4)
    found = {points: path_integral(subject, plan, points) for points in (2, 8, 32)}
    for integral in found.values():
        assert integral.damage == pytest.approx(measured.mean(), rel=1e-4)
        assert integral.shares.sum() - integral.quadrature_error == pytest.approx(integral.damage, rel=1e-9)
    assert abs(found[32].quadrature_error) < 1e-3 * measured.mean()
    assert abs(found[32].quadrature_error) < max(0.2 * abs(found[8].quadrature_error), 1e-6)
    assert abs(found[2].quadrature_error) < 0.5 * measured.mean()


def test_standard_errors_are_as_large_as_the_errors(mlp, perturbations, samples_of, subject_of):
    """40 draws of 24 samples, each in 8 batches: errors in units of the stated standard error are near one.

    With 7 degrees of freedom the mean square is 7/5 in expectation; one of 40 draws of two independent entries lies
    within 0.7 and 2.6 but for about one in a thousand seeds.
    """
    changes, population = perturbations(mlp, 0.2, count=1), samples_of(mlp, 1000)
    truth = products(subject_of(mlp, changes, population, loss_of(mlp, Kind.KL), batch=250)).matrix
    ratios = []
    for draw in range(40):
        part = {"x": population["x"][draw * 24 : (draw + 1) * 24]}
        found = products(subject_of(mlp, changes, part, loss_of(mlp, Kind.KL), batch=3))
        ratios.append((found.matrix - truth) / found.stderr)
    assert 0.7 < np.square(ratios).mean() < 2.6


def test_a_single_batch_has_no_standard_error(tied, perturbations, samples_of, subject_of):
    fixed = onnx.ModelProto()
    fixed.CopyFrom(tied.proto)
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 6
    network = from_proto(fixed)
    inputs, changes = samples_of(tied, 6), perturbations(network, 0.1, count=1)
    found = products(subject_of(network, changes, inputs, loss_of(network, Kind.KL), batch=6))
    assert np.isinf(found.stderr).all()
    assert np.isfinite(found.matrix).all()


def test_a_masked_class_leaves_the_derivatives_finite(rng):
    reference = torch.from_numpy(rng.normal(size=(3, 4)))
    reference[:, 1] = -torch.inf
    outputs = (reference + 0.1).requires_grad_()
    total = differentiable_loss(Loss.of(Kind.KL, "y"), {"y": outputs}, {"y": reference}).sum()
    (gradient,) = torch.autograd.grad(total, outputs, create_graph=True)
    (product,) = torch.autograd.grad(gradient[:, [0, 2]].sum(), outputs)
    assert torch.isfinite(gradient).all()
    assert torch.isfinite(product).all()
