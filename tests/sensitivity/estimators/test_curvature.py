"""Every curvature score against the dense Hessian, for all kinds of layers; standard errors against what they say.

The Hessian of a few samples is written down; the estimators see the same samples many times over, each time under
another probe, so that the truth stays the same number and the draws are many.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

from network.execution import TorchNetwork
from network.graph import Network
from sensitivity.estimate import ActivationChange, Subject, WeightChange
from sensitivity.estimators import AT_OUTPUTS
from sensitivity.estimators.directional import directional
from sensitivity.estimators.eigenvalues import PowerRule
from sensitivity.estimators.fisher_outputs import fisher_outputs, from_products
from sensitivity.estimators.fisher_weights import fisher_weights
from sensitivity.estimators.hawq import hawq
from sensitivity.estimators.hawq_v2 import hawq_v2
from sensitivity.estimators.m_fac import m_fac
from sensitivity.estimators.q_bert import q_bert
from sensitivity.hutchinson import TraceRule
from tests.sensitivity.dense import DETECTOR_LOSS, DenseHessian, dense_hessian, loss_of

SAMPLES = 6
REPEATS = 60

# For each network the loss, and which values make up the site of each candidate that rounds activations.
CASES = {
    "mlp": ("kl", [("x",), ("t",)]),
    "convolutions": ("kl", [("s",), ("p", "f")]),
    "tied": ("squared_error", [("t", "v")]),
    "attention": ("kl", [("Q", "K"), ("P",)]),
    "softmaxed": ("kl_probabilities", [("t",)]),
    "sequence": ("squared_error", [("t",), ("r",)]),
    "tokens": ("kl", [("h",), ("m",), ("e", "p")]),
    "transposed": ("kl", [("t",)]),
    "detector": (DETECTOR_LOSS, [("t",), ("classes", "boxes")]),
}


def rounded(step: float, a: np.ndarray) -> np.ndarray:
    return (np.round(a / step) * step).astype(np.float32)


class Case:
    """A subject of `SAMPLES` samples with its dense Hessian."""

    def __init__(self, name: str, network: Network) -> None:
        rng = np.random.default_rng(3)
        loss, activations = CASES[name]
        shape = network.inputs[0].shape[1:]
        if name == "tokens":
            self.inputs = {"ids": rng.integers(5, size=(SAMPLES, *shape))}
        else:
            self.inputs = {"x": rng.normal(size=(SAMPLES, *shape)).astype(np.float32).astype(np.float64)}
        changes: list[WeightChange | ActivationChange] = []
        for site in network.sites:
            values = network.weight(site.weight) + (0.1 * rng.normal(size=site.shape)).astype(np.float32)
            changes.append(WeightChange(site.name, "f", site.weight, lambda values=values: values))
        for names in activations:
            tensors = {value: functools.partial(rounded, 0.1 + 0.1 * i) for i, value in enumerate(names)}
            changes.append(ActivationChange("/".join(names), "f", tensors))
        self.network = network
        self.subject = Subject(
            TorchNetwork(network, dtype=torch.float64), tuple(changes), self.inputs, loss_of(network, loss)
        )
        self.weights = [site.weight for site in network.sites]
        self.values = sorted({value for names in activations for value in names})

    @functools.cached_property
    def hessian(self) -> DenseHessian:
        return dense_hessian(self.network, self.inputs, self.subject.loss, self.weights, self.values)

    def repeated(self, repeats: int, **changes) -> Subject:
        inputs = {name: np.tile(array, (repeats, *(1,) * (array.ndim - 1))) for name, array in self.inputs.items()}
        return replace(self.subject, inputs=inputs, **changes)

    def errors(self, k: int) -> dict[str, np.ndarray]:
        """`d` of candidate k in each variable of the Hessian."""
        change = self.subject.changes[k]
        if isinstance(change, WeightChange):
            return {change.initializer: change.values() - self.hessian.floats[change.initializer]}
        floats = {name: self.hessian.floats[name].astype(np.float32) for name in change.tensors}
        return {name: function(floats[name]).astype(float) - floats[name] for name, function in change.tensors.items()}

    def floats(self, names: list[str]) -> dict[str, np.ndarray]:
        """Values of the float network."""
        seen: dict[str, np.ndarray] = {}

        def record(name: str, value: torch.Tensor) -> torch.Tensor:
            seen[name] = value.detach().numpy()
            return value

        tensors = {name: torch.from_numpy(array) for name, array in self.inputs.items()}
        self.subject.network.run(tensors, through={name: functools.partial(record, name) for name in names})
        return seen


_made: dict[str, Case] = {}


@pytest.fixture(params=list(CASES))
def case(request) -> Case:
    """One for each network, its Hessian made once."""
    if request.param not in _made:
        _made[request.param] = Case(request.param, request.getfixturevalue(request.param))
    return _made[request.param]


@pytest.fixture
def mlp_case(mlp) -> Case:
    return _made.setdefault("mlp", Case("mlp", mlp))


def exact_quadratic(case: Case) -> np.ndarray:
    return np.array([case.hessian.quadratic(case.errors(k)) for k in range(len(case.subject.changes))])


def exact_diagonal(case: Case) -> np.ndarray:
    diagonal = case.hessian.matrix.diagonal()
    return np.array(
        [
            sum(0.5 * diagonal[case.hessian.slices[name]] @ d.ravel() ** 2 for name, d in case.errors(k).items())
            for k in range(len(case.subject.changes))
        ]
    )


def exact_traces(case: Case) -> np.ndarray:
    """`1/2 Tr/n ||d||^2` of weights; of activations the mean over samples of each sample's own."""
    apart: dict[str, Callable[[np.ndarray], np.ndarray]] = {}
    if "words" in case.weights:  # `p` is the same for all samples
        apart = {
            "h": lambda a: a.reshape(3, SAMPLES, 3).swapaxes(0, 1),
            "m": lambda a: a.reshape(3, SAMPLES, 4).swapaxes(0, 1),
            "p": lambda a: a.reshape(1, -1),
        }

    def score(name: str, d: np.ndarray) -> float:
        units = 1 if name in case.weights else SAMPLES
        split = apart.get(name, lambda a: a.reshape(units, -1))
        diagonal, d = (split(a).reshape(len(split(a)), -1) for a in (case.hessian.block(name).diagonal(), d))
        return 0.5 * (diagonal.mean(1) * np.square(d).sum(1)).sum()

    return np.array([sum(score(*item) for item in case.errors(k).items()) for k in range(len(case.subject.changes))])


def change_of_outputs(case: Case, change: WeightChange) -> dict[str, np.ndarray]:
    """What the changed weight does to each node that reads it, alone in ONNX Runtime on its float inputs."""
    found = {}
    for node in (node for node in case.network.proto.graph.node if change.initializer in node.input):
        arrays = {
            name: numpy_helper.to_array(case.network.initializers[name])
            for name in node.input
            if name in case.network.initializers
        }
        seen = case.floats([name for name in node.input if name not in arrays])
        arrays |= {n: a.astype(np.float32) if a.dtype == np.float64 else a for n, a in seen.items()}
        graph = helper.make_graph(
            [node],
            "one node",
            [
                helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
                for n, a in arrays.items()
            ],
            [helper.make_empty_tensor_value_info(node.output[0])],
        )
        model = helper.make_model(graph, opset_imports=case.network.proto.opset_import, ir_version=10)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        before = session.run(None, arrays)[0]
        after = session.run(None, {**arrays, change.initializer: change.values()})[0]
        found[node.output[0]] = after.astype(float) - before
    return found


def exact_at_outputs(case: Case) -> np.ndarray:
    """`1/2 sum_e H_ee dy_e^2`, summed over the nodes that read the weight."""
    changed = [
        change_of_outputs(case, change) if isinstance(change, WeightChange) else case.errors(k)
        for k, change in enumerate(case.subject.changes)
    ]
    names = sorted({name for deltas in changed for name in deltas})
    hessian = dense_hessian(case.network, case.inputs, case.subject.loss, [], names)
    return np.array(
        [sum(0.5 * hessian.block(name).diagonal() @ d.ravel() ** 2 for name, d in deltas.items()) for deltas in changed]
    )


def assert_within(estimate, exact: np.ndarray, largest_error: float) -> None:
    """Within 5 standard errors, which are themselves small: of at least 60 draws, false in one of 10,000 numbers."""
    assert np.all(np.abs(estimate.scores - exact) <= 5 * estimate.stderr + 1e-5 * np.abs(exact)), (estimate, exact)
    assert np.all(estimate.stderr <= largest_error * exact), estimate.stderr / exact


def test_directional_is_the_quadratic_form_of_the_hessian(case):
    """To the last digits, whatever the batches; its standard error speaks of samples only."""
    for batch in (SAMPLES, 4):
        estimate = directional(replace(case.subject, batch=batch))
        np.testing.assert_allclose(estimate.scores, exact_quadratic(case), rtol=1e-6)


def test_m_fac_is_unbiased_for_the_quadratic_form(case):
    assert_within(m_fac(case.repeated(REPEATS, batch=SAMPLES)), exact_quadratic(case), 0.35)


def test_fisher_weights_is_unbiased_for_the_diagonal(case):
    assert_within(fisher_weights(case.repeated(REPEATS, batch=SAMPLES)), exact_diagonal(case), 0.35)


def test_fisher_outputs_is_unbiased_for_the_diagonal_at_the_outputs(case):
    assert_within(fisher_outputs(case.repeated(REPEATS, batch=SAMPLES)), exact_at_outputs(case), 0.35)


def test_methods_at_the_outputs_give_in_one_pass_what_each_gives_alone(case):
    """To the bit, and in the time of one: the shared pass draws the same probes."""
    found = from_products(case.subject, AT_OUTPUTS)
    for name, method in (("fisher_outputs", fisher_outputs), ("m_fac", m_fac)):
        alone = method(case.subject)
        np.testing.assert_array_equal(found[name].scores, alone.scores)
        np.testing.assert_array_equal(found[name].stderr, alone.stderr)
        assert found[name].method == alone.method == name


def test_hawq_v2_is_the_mean_trace_times_the_error(case):
    rule = TraceRule(rtol=0.01, min_probes=REPEATS, max_probes=REPEATS)
    assert_within(hawq_v2(case.repeated(REPEATS, batch=SAMPLES), rule), exact_traces(case), 0.35)


def exact_largest(case: Case, samples: np.ndarray | None = None) -> np.ndarray:
    """`lambda_max(H_ii)` of every weight, over all or some samples."""
    hessian = case.hessian
    if samples is not None:
        inputs = {name: array[samples] for name, array in case.inputs.items()}
        hessian = dense_hessian(case.network, inputs, case.subject.loss, case.weights)
    return np.array([np.linalg.eigvalsh(hessian.block(name)).max() for name in case.weights])


def mean_squares(case: Case) -> np.ndarray:
    return np.array([np.square(case.errors(k)[name]).mean() for k, name in enumerate(case.weights)])


def test_hawq_is_the_largest_eigenvalue_over_the_size_times_the_error(case):
    """With a micro-batch of all samples, and with several."""
    expected = exact_largest(case) * mean_squares(case)
    for batch in (SAMPLES, 3):
        estimate = hawq(replace(case.subject, batch=batch), PowerRule(rtol=1e-3, max_iterations=300))
        assert estimate.note == f"all {len(expected)} eigenvalues converged to a residual of 0.001"
        np.testing.assert_allclose(estimate.scores[: len(expected)], expected, rtol=1e-3)
        assert np.isnan(estimate.scores[len(expected) :]).all()
        assert np.isnan(estimate.stderr[len(expected) :]).all()


def test_hawq_says_what_did_not_converge_and_never_exceeds_the_eigenvalue(case):
    estimate = hawq(case.subject, PowerRule(rtol=1e-9, max_iterations=2))
    expected = exact_largest(case) * mean_squares(case)
    assert f"0 of {len(expected)} eigenvalues" in estimate.note
    assert np.all(estimate.scores[: len(expected)] <= expected * (1 + 1e-9))


def test_q_bert_is_mean_plus_spread_over_parts(mlp_case):
    """Four samples make two parts of two, in one of three ways."""
    subject = replace(mlp_case.subject, inputs={"x": mlp_case.inputs["x"][:4]})
    estimate = q_bert(subject, PowerRule(rtol=1e-3, max_iterations=300))
    ways = []
    for partner in (1, 2, 3):
        parts = [0, partner], [i for i in (1, 2, 3) if i != partner]
        values = np.stack([exact_largest(mlp_case, np.array(part)) for part in parts])
        ways.append((values.mean(0) + values.std(0, ddof=1)) * mean_squares(mlp_case))
    assert any(np.allclose(estimate.scores[:2], way, rtol=1e-3) for way in ways)
    assert estimate.note == "2 parts of 2 samples"
    assert estimate.samples == 4


def calibrated(case: Case, estimator: Callable[[Subject], object], exact: np.ndarray, batch: int) -> float:
    """Mean square of the error in units of the standard error, over 30 seeds with 80 samples drawn with replacement."""
    ratios = []
    for seed in range(30):
        chosen = np.random.default_rng(seed).integers(SAMPLES, size=80)
        estimate = estimator(replace(case.subject.take(chosen), seed=seed, batch=batch))
        ratios.append(((estimate.scores - exact) / estimate.stderr)[~np.isnan(estimate.scores)])
    return float(np.square(ratios).mean())


@pytest.mark.parametrize(
    ("estimator", "exact", "batch"),
    [
        (directional, exact_quadratic, 80),
        (m_fac, exact_quadratic, 80),
        (fisher_weights, exact_diagonal, 4),
        (fisher_outputs, exact_at_outputs, 80),
        (functools.partial(hawq_v2, rule=TraceRule(rtol=0.001, min_probes=20, max_probes=20)), exact_traces, 4),
    ],
)
def test_standard_errors_are_as_large_as_the_errors(mlp_case, estimator, exact, batch):
    """120 roughly normal numbers, correlated between candidates: outside of 0.4 to 2 for one set of seeds in 1000."""
    assert 0.4 < calibrated(mlp_case, estimator, exact(mlp_case), batch) < 2


def test_the_standard_error_of_an_eigenvalue_is_that_of_its_samples(mlp_case):
    """The largest eigenvalue of 80 samples errs to the high side too, hence the wider bounds."""
    expected = np.append(exact_largest(mlp_case) * mean_squares(mlp_case), [np.nan] * 2)
    rule = PowerRule(rtol=0.01, max_iterations=200)
    assert 0.3 < calibrated(mlp_case, lambda subject: hawq(subject, rule), expected, 80) < 3
