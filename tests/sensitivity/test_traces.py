"""Traces against dense Hessians in float64, and their standard errors against what they claim."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from network.errors import UnsupportedOperators
from network.execution import TorchNetwork
from network.graph import Network
from sensitivity.hutchinson import Root, TraceRule, TraceStatus, hutchinson_trace
from sensitivity.loss import Kind, Loss
from sensitivity.traces import derivatives, hessian_traces
from tests.sensitivity.dense import DETECTOR_LOSS, dense_hessian, loss_of

SAMPLES = 12


def dense_mean_traces(network: Network, inputs: np.ndarray, loss: Loss | Kind | str) -> np.ndarray:
    """Mean trace of every site's block of the whole Hessian, written down entry by entry."""
    names = [site.weight for site in network.sites]
    hessian = dense_hessian(network, {"x": inputs.astype(np.float64)}, loss_of(network, loss), names)
    return np.array([hessian.block(name).diagonal().mean() for name in names])


LOGITS = [(name, loss) for name in ("mlp", "convolutions", "tied", "attention") for loss in ("kl", "squared_error")]


@pytest.mark.parametrize(("name", "loss"), [*LOGITS, ("softmaxed", "kl_probabilities"), ("detector", DETECTOR_LOSS)])
def test_traces_match_the_dense_hessian(name, loss, request, rng):
    network = request.getfixturevalue(name)
    shape = tuple(d for d in network.inputs[0].shape if d is not None)
    x = rng.normal(size=(SAMPLES, *shape)).astype(np.float32)
    exact = dense_mean_traces(network, x, loss)
    model = TorchNetwork(network, dtype=torch.float64)
    traces = hessian_traces(
        model,
        [site.weight for site in network.sites],
        {"x": x.astype(np.float64)},
        loss_of(network, loss),
        torch.Generator().manual_seed(1),
        TraceRule(rtol=0.02, min_probes=400, max_probes=400),
        batch=SAMPLES,
    )
    # 5 standard errors: a false failure in fewer than one of a million runs for each site
    assert np.all(np.abs(traces.trace_mean - exact) <= 5 * traces.trace_stderr)
    assert np.all(traces.trace_stderr < 0.2 * np.abs(exact))


def test_the_gauss_newton_traces_of_both_losses_are_not_negative(attention, rng):
    x = rng.normal(size=(SAMPLES, 3, 4)).astype(np.float32)
    assert np.all(dense_mean_traces(attention, x, Kind.KL) >= 0)


def test_standard_errors_are_as_large_as_the_errors(mlp, rng):
    """Over 60 seeds, the errors in units of the reported standard error have a mean square near one.

    With batches of a third of the samples the spread between samples counts too. 60 runs with 30 probes each: the mean
    square of 120 roughly normal numbers lies within 0.5 and 1.8 but for one in ten thousand seeds.
    """
    x = rng.normal(size=(SAMPLES, 4)).astype(np.float64)
    exact = dense_mean_traces(mlp, x, Kind.KL)
    model = TorchNetwork(mlp, dtype=torch.float64)
    ratios = []
    for seed in range(60):
        traces = hessian_traces(
            model,
            [site.weight for site in mlp.sites],
            {"x": x},
            loss_of(mlp, Kind.KL),
            torch.Generator().manual_seed(seed),
            TraceRule(rtol=0.001, min_probes=30, max_probes=30),
            batch=SAMPLES // 3,
        )
        ratios.append((traces.trace_mean - exact) / traces.trace_stderr)
    assert 0.5 < np.square(ratios).mean() < 1.8


def test_stops_when_every_site_is_known_well_enough(mlp, rng):
    x = {"x": rng.normal(size=(64, 4)).astype(np.float32)}
    weights = [site.weight for site in mlp.sites]
    rule = TraceRule(rtol=0.2, min_probes=5, max_probes=500)
    traces = hessian_traces(
        TorchNetwork(mlp), weights, x, loss_of(mlp, Kind.KL), torch.Generator().manual_seed(0), rule, batch=16
    )
    assert traces.status is TraceStatus.CONVERGED
    assert 5 <= traces.probes < 500
    assert np.all(traces.trace_stderr <= 0.2 * np.abs(traces.trace_mean))


def test_says_when_the_probe_budget_ended_first(mlp, rng):
    x = {"x": rng.normal(size=(64, 4)).astype(np.float32)}
    rule = TraceRule(rtol=1e-6, min_probes=2, max_probes=6)
    weights = [site.weight for site in mlp.sites]
    traces = hessian_traces(
        TorchNetwork(mlp), weights, x, loss_of(mlp, Kind.KL), torch.Generator().manual_seed(0), rule, batch=16
    )
    assert traces.status is TraceStatus.PROBE_BUDGET
    assert traces.probes == 6


def test_the_same_seed_gives_the_same_traces(mlp, rng):
    x = {"x": rng.normal(size=(64, 4)).astype(np.float32)}
    weights = [site.weight for site in mlp.sites]
    first, second = (
        hessian_traces(TorchNetwork(mlp), weights, x, loss_of(mlp, Kind.KL), torch.Generator().manual_seed(3), batch=16)
        for _ in range(2)
    )
    assert np.array_equal(first.trace_mean, second.trace_mean)


def test_the_estimate_of_a_matrix_is_its_mean_trace(rng):
    """Blocks of `R R' / N` written down; of a diagonal matrix every probe is exact."""
    root = torch.from_numpy(rng.normal(size=(9, 14)))
    rule = TraceRule(rtol=0.02, min_probes=2000, max_probes=2000)
    roots = [Root((9,), lambda u: [u.double() @ root[:, :5], u.double() @ root[:, 5:]])] * 2000
    found = hutchinson_trace(roots, torch.Generator().manual_seed(0), rule)
    exact = [block.square().sum().item() / 9 / block.shape[1] for block in (root[:, :5], root[:, 5:])]
    assert np.all(np.abs(found.trace_mean - exact) <= 5 * found.trace_stderr)
    assert found.batch == 9
    diagonal = torch.diag(torch.from_numpy(rng.normal(size=9)))
    exact_roots = [Root((9,), lambda u: [u.double() @ diagonal])] * 2
    found = hutchinson_trace(exact_roots, torch.Generator(), TraceRule(min_probes=2))
    assert found.status is TraceStatus.CONVERGED
    assert found.trace_mean == pytest.approx(diagonal.square().sum().item() / 81)


def test_too_few_roots_are_refused():
    roots = [Root((1,), lambda u: [u])] * 3
    with pytest.raises(ValueError, match="need 64 roots unless they are known earlier, got 3"):
        hutchinson_trace(roots, torch.Generator(), TraceRule())


@pytest.mark.parametrize("rule", [{"rtol": 0.0}, {"min_probes": 1}, {"min_probes": 9, "max_probes": 8}])
def test_a_rule_that_cannot_stop_is_refused(rule):
    with pytest.raises(ValueError, match=r"must lie|need 2"):
        TraceRule(**rule)


def test_a_derivative_that_torch_lacks_is_named():
    """That of torch's own fused attention has none itself."""
    query = torch.ones(1, 1, 8, 16, requires_grad=True)
    y = torch.nn.functional.scaled_dot_product_attention(query, query, query)
    [gradient] = derivatives([y.square().sum()], [query], create_graph=True)
    with pytest.raises(UnsupportedOperators, match="lacks a derivative"):
        derivatives([gradient.sum()], [query])


def test_other_errors_of_torch_stay_what_they_are():
    x = torch.ones(2, requires_grad=True)
    with pytest.raises(RuntimeError, match="scalar"):
        derivatives([x * 2], [x])
