"""What a method costs in float passes, and what the stages of the analysis are expected to take."""

from __future__ import annotations

import pytest
from onnx import ModelProto

from network.graph import Network
from network.normalise import normalise
from pipeline.forecast import forecast_gradients, forecast_passes
from pipeline.methods import (
    CHEAP,
    DEAR,
    MEASURED,
    float_passes,
    methods_to_run,
    remaining_shares,
    scores_of,
)
from sensitivity.estimators import METHODS
from tests.pipeline.conftest import configured


@pytest.fixture
def network(model: bytes) -> Network:
    return normalise(ModelProto.FromString(model), {"image": (1, 8, 8)})


def test_every_estimator_is_either_cheap_or_dear() -> None:
    assert sorted((*CHEAP, *DEAR)) == sorted(METHODS)
    assert not set(MEASURED) & set(METHODS)


def test_what_is_left_of_a_pass_shrinks_from_layer_to_layer(network: Network) -> None:
    shares = remaining_shares(network)
    assert shares[0] == pytest.approx(1.0)
    assert shares == sorted(shares, reverse=True)
    last = network.sites[-1].macs / sum(site.macs for site in network.sites)
    assert shares[-1] == pytest.approx(last)


def test_the_passes_of_the_matrix_begin_where_a_weight_is_used_first(network: Network) -> None:
    candidates = 7 * len(network.sites)
    assert float_passes("measured", network, candidates) == pytest.approx(7 * sum(remaining_shares(network)))
    assert float_passes("measured", network, candidates) < candidates


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_has_its_cost(network: Network, method: str) -> None:
    assert float_passes(method, network, 21) >= 0
    assert float_passes(method, network, 45) >= float_passes(method, network, 21)


def test_estimators_run_only_when_they_are_asked_for() -> None:
    asked: list[tuple[dict[str, object], tuple[str, ...]]] = [
        ({}, ()),
        ({"method": "measured"}, ()),
        ({"method": "hawq_v2"}, ("hawq_v2",)),
        ({"method": "noise", "compare": ["noise", "m_fac"]}, ("m_fac", "noise")),
        ({"compare": ["quantization_error"]}, ("quantization_error",)),
    ]
    for sensitivity, methods in asked:
        assert configured(sensitivity=sensitivity).sensitivity.methods == methods
    assert methods_to_run(METHODS) == (*CHEAP, *DEAR)
    assert scores_of("augmented") == "measured"
    assert scores_of("noise") == "noise"


def test_the_forecast_grows_with_candidates_and_methods(job, model: bytes, samples) -> None:
    run = job(model, samples)
    run.run()
    inputs, loss = run.context.workspace.analysed(run.config.cross_layer)
    little, much = (forecast_passes(inputs, loss, 1.0, candidates, 1) for candidates in (6, 6000))
    assert little.seconds > 0
    assert little.memory_bytes < much.memory_bytes
    fewer, more = (forecast_gradients(inputs, passes, 1) for passes in (1.0, 1000.0))
    assert fewer.seconds < more.seconds
