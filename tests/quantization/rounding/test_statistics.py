from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper

from network.graph import Network
from quantization.errors import ActivationsNotFinite
from quantization.rounding.reduction import NotReducible
from quantization.rounding.statistics import InputStatistics, input_statistics

MakeNetwork = Callable[..., Network]
ALL = 1 << 30
RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((6, 4, 7, 7)).astype(np.float32)
KERNEL = RNG.standard_normal((6, 2, 3, 3)).astype(np.float32)
TOKENS = RNG.standard_normal((5, 33, 8)).astype(np.float32)
MATRIX = RNG.standard_normal((8, 3)).astype(np.float32)


MANY_ROWS = RNG.standard_normal((24, 2, 3, 3)).astype(np.float32)


def conv(make_network: MakeNetwork, kernel: NDArray[np.float32] = KERNEL) -> Network:
    return make_network(
        [helper.make_node("Conv", ["x", "w"], ["y"], group=2, pads=[1, 1, 1, 1])], {"x": IMAGES}, {"w": kernel}
    )


def made(network: Network, positions: int = ALL) -> InputStatistics:
    statistics = input_statistics(network, network.sites[0], positions)
    assert isinstance(statistics, InputStatistics)
    return statistics


def unfolded(images: NDArray[np.float32]) -> NDArray[np.float64]:
    """`[groups, reduced, positions]` by torch's own im2col."""
    columns = torch.nn.functional.unfold(torch.from_numpy(images), 3, padding=1)  # [N, C * 9, P]
    return columns.movedim(0, 1).reshape(2, 18, -1).double().numpy()


def test_sums_products_of_every_column(make_network: MakeNetwork) -> None:
    network = conv(make_network)
    statistics = made(network)
    statistics.add(network.sites[0].layers[0], torch.from_numpy(IMAGES))
    columns = unfolded(IMAGES)
    np.testing.assert_allclose(statistics.hessian, columns @ columns.swapaxes(1, 2), rtol=1e-5, atol=1e-3)
    assert statistics.hessian.dtype == np.float64
    assert statistics.memory_bytes == 2 * 18 * 18 * 8
    assert statistics.cross is None


@pytest.mark.parametrize("positions", [ALL, 12])
def test_batches_do_not_matter(make_network: MakeNetwork, positions: int) -> None:
    network = conv(make_network)
    whole, parts = made(network, positions), made(network, positions)
    layer = network.sites[0].layers[0]
    whole.add(layer, IMAGES)
    for begin, end in ((0, 1), (1, 4), (4, 6)):
        parts.add(layer, IMAGES[begin:end])
    np.testing.assert_allclose(parts.hessian, whole.hessian, rtol=1e-5, atol=1e-3)


def test_thinned_positions_take_turns(make_network: MakeNetwork) -> None:
    """Equal samples, as many as there are turns: then every position counted as often as any other."""
    network = conv(make_network)
    full, thin = made(network), made(network, 13)  # 7 x 7 positions by steps of 2 x 2: four turns
    layer = network.sites[0].layers[0]
    same = np.repeat(IMAGES[:1], 8, axis=0)
    full.add(layer, same)
    thin.add(layer, same)
    np.testing.assert_allclose(thin.hessian, full.hessian, rtol=1e-5, atol=1e-3)
    other = made(network, 13)
    other.add(layer, same[:2])
    assert not np.allclose(other.hessian, full.hessian / 4, rtol=1e-2)


def test_tokens_are_thinned_too(make_network: MakeNetwork) -> None:
    network = make_network([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": TOKENS}, {"w": MATRIX})
    thin = made(network, 11)
    same = np.repeat(TOKENS[:1], 3, axis=0)
    thin.add(network.sites[0].layers[0], same)
    flat = same.reshape(-1, 8).astype(np.float64)
    np.testing.assert_allclose(thin.hessian[0], flat.T @ flat, rtol=1e-5, atol=1e-3)


def test_tied_weights_sum_over_their_uses(make_network: MakeNetwork) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("MatMul", ["z", "w"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    network = make_network(nodes, {"x": TOKENS, "z": TOKENS}, {"w": MATRIX})
    statistics = made(network)
    first, second = network.sites[0].layers
    statistics.add(first, TOKENS)
    statistics.add(second, 2 * TOKENS)
    flat = TOKENS.reshape(-1, 8).astype(np.float64)
    np.testing.assert_allclose(statistics.hessian[0], 5 * flat.T @ flat, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("kernel", [KERNEL, MANY_ROWS])
def test_cross_products_with_the_float_network(make_network: MakeNetwork, kernel: NDArray[np.float32]) -> None:
    network = conv(make_network, kernel)
    statistics = made(network)
    layer = network.sites[0].layers[0]
    exact = IMAGES + np.float32(0.1) * np.random.default_rng(1).standard_normal(IMAGES.shape).astype(np.float32)
    statistics.add(layer, IMAGES[:4], exact[:4])
    statistics.add(layer, IMAGES[4:], exact[4:])
    assert statistics.cross is not None
    columns = unfolded(IMAGES)
    off = kernel.reshape(2, -1, 18).astype(np.float64) @ (unfolded(exact) - columns)
    np.testing.assert_allclose(statistics.cross, off @ columns.swapaxes(1, 2), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("kernel", [KERNEL, MANY_ROWS])
def test_moments_about_the_means(make_network: MakeNetwork, kernel: NDArray[np.float32]) -> None:
    network = conv(make_network, kernel)
    statistics = made(network)
    layer = network.sites[0].layers[0]
    exact = IMAGES + np.float32(0.3) * np.random.default_rng(2).standard_normal(IMAGES.shape).astype(np.float32) + 1
    statistics.add(layer, IMAGES[:2] + 2, exact[:2])
    statistics.add(layer, IMAGES[2:] + 2, exact[2:])
    x, off = unfolded(IMAGES + 2), unfolded(exact) - unfolded(IMAGES + 2)
    x, off = (values - values.mean(axis=2, keepdims=True) for values in (x, off))
    centered = statistics.centered()
    assert centered.cross is not None
    np.testing.assert_allclose(centered.hessian, x @ x.swapaxes(1, 2), rtol=1e-4, atol=1e-2)
    cross = kernel.reshape(2, -1, 18).astype(np.float64) @ off @ x.swapaxes(1, 2)
    np.testing.assert_allclose(centered.cross, cross, rtol=1e-4, atol=5e-2)
    assert not np.allclose(statistics.hessian, centered.hessian, rtol=0.1)


def test_an_input_that_never_changes_has_no_moment_about_its_mean(make_network: MakeNetwork) -> None:
    """Not the rounding error of a difference, of either sign."""
    values = np.random.default_rng(0).standard_normal((50, 6)).astype(np.float32)
    values[:, [1, 4]] = [0.73, 1234.56]
    nodes = [helper.make_node("Gemm", ["x", "w"], ["y"])]
    network = make_network(nodes, {"x": values}, {"w": np.ones((6, 3), np.float32)})
    found = made(network)
    found.add(network.sites[0].layers[0], values)
    hessian = found.centered().hessian[0]
    assert not hessian[[1, 4]].any()
    assert not hessian[:, [1, 4]].any()
    varies = [0, 2, 3, 5]
    expected = np.cov(values[:, varies].astype(np.float64), rowvar=False, bias=True) * len(values)
    np.testing.assert_allclose(hessian[np.ix_(varies, varies)], expected, rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_columns_that_are_not_finite_do_not_count(make_network: MakeNetwork, bad: float) -> None:
    network = make_network([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": TOKENS}, {"w": MATRIX})
    layer = network.sites[0].layers[0]
    tokens = TOKENS.copy()
    tokens[1, 5:, 3] = bad
    odd, plain = made(network), made(network)
    odd.add(layer, tokens, np.nan_to_num(tokens, posinf=0.0))
    kept = np.concatenate([TOKENS[0], TOKENS[1, :5], *TOKENS[2:]])
    plain.add(layer, kept, kept)
    np.testing.assert_allclose(odd.hessian, plain.hessian, rtol=1e-5)
    np.testing.assert_allclose(odd.centered().hessian, plain.centered().hessian, rtol=1e-4, atol=1e-3)


def test_a_batch_without_any_finite_column_adds_nothing(make_network: MakeNetwork) -> None:
    network = conv(make_network)
    statistics = made(network)
    statistics.add(network.sites[0].layers[0], np.full_like(IMAGES, np.nan))
    statistics.add(network.sites[0].layers[0], IMAGES)
    plain = made(network)
    plain.add(network.sites[0].layers[0], IMAGES)
    np.testing.assert_allclose(statistics.hessian, plain.hessian, rtol=1e-5)


def test_refuses_inputs_whose_products_are_no_numbers(make_network: MakeNetwork) -> None:
    network = conv(make_network)
    images = IMAGES.copy()
    images[3, 1, 2, 2] = 1e30
    with pytest.raises(ActivationsNotFinite, match=r"node0.*scale and preprocessing"):
        made(network).add(network.sites[0].layers[0], images)


def test_a_layer_of_another_weight_is_an_error(make_network: MakeNetwork) -> None:
    network = conv(make_network)
    other = make_network([helper.make_node("MatMul", ["x", "w"], ["y"], name="other")], {"x": TOKENS}, {"w": MATRIX})
    with pytest.raises(KeyError):
        made(network).add(other.sites[0].layers[0], TOKENS)


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([("Gather", ["w", "i"], {})], "layer node0: Gather"),
        ([("Gather", ["w", "i"], {}), ("Gemm", ["x", "w"], {"transB": 1})], "layer node0: Gather"),
        (
            [("Gemm", ["x", "w"], {"transB": 1}), ("Gemm", ["x", "w"], {"transB": 0})],
            "node0, node1 share the weight but multiply along different axes",
        ),
    ],
)
def test_says_why_there_are_no_statistics(make_network: MakeNetwork, nodes: Any, reason: str) -> None:
    made_nodes = [helper.make_node(op, inputs, [f"y{i}"], **a) for i, (op, inputs, a) in enumerate(nodes)]
    network = make_network(
        made_nodes, {"x": np.ones((2, 4), np.float32), "i": np.array([[1]])}, {"w": np.eye(4, dtype=np.float32)}
    )
    found = input_statistics(network, network.sites[0])
    assert isinstance(found, NotReducible)
    assert reason in found.reason


def test_says_why_a_weight_has_too_many_inputs(make_network: MakeNetwork) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    network = make_network(nodes, {"x": np.zeros((1, 9000), np.float32)}, {"w": np.zeros((9000, 1), np.float32)})
    found = input_statistics(network, network.sites[0])
    assert isinstance(found, NotReducible)
    assert "9000 inputs take 648000000 bytes" in found.reason


def test_differences_whose_sum_is_no_number_are_refused_by_name(make_network: MakeNetwork) -> None:
    """Their products with inputs of 0 are finite."""
    network = conv(make_network)
    statistics = made(network)
    statistics.add(network.sites[0].layers[0], np.zeros_like(IMAGES), np.full_like(IMAGES, 1e37))
    with pytest.raises(ActivationsNotFinite, match=r"node0.*scale and preprocessing"):
        statistics.centered()


@pytest.mark.parametrize("size", [1e34, 1e35, 1e36, 1e37, 3e37])
def test_products_that_overflow_with_their_weight_are_refused(make_network: MakeNetwork, size: float) -> None:
    """Of positions that stand for several, and whatever is not refused is a number."""
    network = conv(make_network)
    (site,) = network.sites
    statistics = input_statistics(network, site, 4)
    assert isinstance(statistics, InputStatistics)
    try:
        statistics.add(site.layers[0], IMAGES, IMAGES + np.float32(size))
    except ActivationsNotFinite:
        return
    assert np.isfinite(np.asarray(statistics.cross)).all()
