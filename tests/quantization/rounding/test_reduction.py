"""`to_matrix(W) @ columns(x)` is the layer, whatever its attributes: ONNX Runtime is the oracle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper

from network.graph import Network
from quantization.rounding.convolution import ConvReduction
from quantization.rounding.layers import reduction
from quantization.rounding.reduction import NotReducible, Reduction

MakeNetwork = Callable[..., Network]
RunOnnx = Callable[..., list[NDArray[Any]]]


def product(view: Reduction, weight: NDArray[np.float32], inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """`[groups, rows, samples * positions]`."""
    x = torch.from_numpy(inputs)
    grid = view.grid(x.shape)
    columns = view.columns(x, [0] * len(grid), [1] * len(grid))
    return view.to_matrix(weight) @ columns.numpy()


def channels_first(output: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    return np.moveaxis(output, axis, 0).reshape(output.shape[axis], -1)


@st.composite
def convolutions(draw: st.DrawFn) -> dict[str, Any]:
    rank = draw(st.integers(1, 3))
    axes = st.lists(st.integers(1, 3), min_size=rank, max_size=rank)
    return {
        "transposed": draw(st.booleans()),
        "group": draw(st.integers(1, 3)),
        "sizes": draw(st.lists(st.integers(3, 7 if rank < 3 else 4), min_size=rank, max_size=rank)),
        "kernel": draw(axes),
        "strides": draw(axes),
        "dilations": draw(st.lists(st.integers(1, 2), min_size=rank, max_size=rank)),
        "pads": draw(st.lists(st.integers(0, 2), min_size=2 * rank, max_size=2 * rank)),
        "auto_pad": draw(st.sampled_from(["NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"])),
        "plain": draw(st.booleans()),  # leave out what has a default
        "output_padding": draw(st.booleans()),
    }


@given(convolutions())
@settings(max_examples=150, deadline=None)
def test_convolution(make_network: MakeNetwork, run_onnx: RunOnnx, case: dict[str, Any]) -> None:
    rank, group, transposed = len(case["kernel"]), case["group"], case["transposed"]
    spans = [d * (k - 1) + 1 for d, k in zip(case["dilations"], case["kernel"], strict=True)]
    if not transposed:
        assume(all(n >= span for n, span in zip(case["sizes"], spans, strict=True)))
    attributes: dict[str, Any] = {"group": group}
    if not case["plain"]:
        attributes |= {"strides": case["strides"], "dilations": case["dilations"], "kernel_shape": case["kernel"]}
        attributes["auto_pad"] = case["auto_pad"]
        if case["auto_pad"] == "NOTSET":
            attributes["pads"] = case["pads"]
        if transposed and case["output_padding"]:
            attributes["output_padding"] = [s - 1 for s in case["strides"]]
        # with these ONNX Runtime (1.31) does not follow the definition of ONNX
        assume(not (case["auto_pad"].startswith("SAME") and max(case["dilations"]) > 1))
        assume(not (transposed and case["auto_pad"] != "NOTSET"))
        if transposed:
            pads = [b + e for b, e in zip(case["pads"][:rank], case["pads"][rank:], strict=True)]
            outputs = zip(case["sizes"], case["strides"], spans, pads, strict=True)
            assume(all(s * (n - 1) + span - pad > 0 for n, s, span, pad in outputs))
            assume(all(p < k for p, k in zip(case["pads"], spans * 2, strict=True)))
    rng = np.random.default_rng(0)
    c_in, c_out = 2 * group, 3 * group
    shape = (c_in, 3, *case["kernel"]) if transposed else (c_out, 2, *case["kernel"])
    weight = rng.standard_normal(shape).astype(np.float32)
    inputs = rng.standard_normal((2, c_in, *case["sizes"])).astype(np.float32)
    node = helper.make_node("ConvTranspose" if transposed else "Conv", ["x", "w"], ["y"], **attributes)
    network = make_network([node], {"x": inputs}, {"w": weight})
    (expected,) = run_onnx(network.proto, {"x": inputs})
    view = reduction(node, "w", shape)
    assert isinstance(view, Reduction)
    assert view.grid(inputs.shape) == expected.shape[2:]
    got = product(view, weight, inputs).reshape(c_out, -1)
    np.testing.assert_allclose(got, channels_first(expected, 1), rtol=1e-4, atol=1e-4)
    assert np.array_equal(view.from_matrix(view.to_matrix(weight), shape), weight)


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "NOTSET"])
@pytest.mark.parametrize("given_shape", [True, False])
def test_transposed_convolution_pads_itself(
    make_network: MakeNetwork, run_onnx: RunOnnx, auto_pad: str, given_shape: bool
) -> None:
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((2, 3, 3, 4)).astype(np.float32)
    inputs = rng.standard_normal((1, 2, 5, 4)).astype(np.float32)
    attributes: dict[str, Any] = {"strides": [2, 3], "auto_pad": auto_pad}
    if given_shape:
        attributes["output_shape"] = [10, 12]
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], **attributes)
    (expected,) = run_onnx(make_network([node], {"x": inputs}, {"w": weight}).proto, {"x": inputs})
    view = reduction(node, "w", weight.shape)
    assert isinstance(view, Reduction)
    np.testing.assert_allclose(product(view, weight, inputs)[0], channels_first(expected, 1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("weight_first", [False, True])
def test_gemm(make_network: MakeNetwork, run_onnx: RunOnnx, trans_a: int, trans_b: int, weight_first: bool) -> None:
    rng = np.random.default_rng(2)
    a = rng.standard_normal((5, 4) if trans_a else (4, 5)).astype(np.float32)
    b = rng.standard_normal((3, 5) if trans_b else (5, 3)).astype(np.float32)
    weight, inputs = (a, b) if weight_first else (b, a)
    node = helper.make_node("Gemm", ["w", "x"] if weight_first else ["x", "w"], ["y"], transA=trans_a, transB=trans_b)
    view = reduction(node, "w", weight.shape)
    assert isinstance(view, Reduction)
    expected = (a.T if trans_a else a) @ (b.T if trans_b else b)
    np.testing.assert_allclose(
        product(view, weight, inputs)[0], channels_first(expected, 0 if weight_first else 1), rtol=1e-5, atol=1e-5
    )
    assert np.array_equal(view.from_matrix(view.to_matrix(weight), weight.shape), weight)


@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 4, 5), (2, 3, 4, 5)])
def test_matmul_with_the_weight_on_the_right(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    weight, inputs = rng.standard_normal((5, 3)).astype(np.float32), rng.standard_normal(shape).astype(np.float32)
    view = reduction(helper.make_node("MatMul", ["x", "w"], ["y"]), "w", weight.shape)
    assert isinstance(view, Reduction)
    np.testing.assert_allclose(
        product(view, weight, inputs)[0], channels_first(inputs @ weight, -1), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("shape", [(5, 4), (2, 5, 4), (2, 3, 5, 4)])
def test_matmul_with_the_weight_on_the_left(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(4)
    weight, inputs = rng.standard_normal((3, 5)).astype(np.float32), rng.standard_normal(shape).astype(np.float32)
    view = reduction(helper.make_node("MatMul", ["w", "x"], ["y"]), "w", weight.shape)
    assert isinstance(view, Reduction)
    np.testing.assert_allclose(
        product(view, weight, inputs)[0], channels_first(weight @ inputs, -2), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("node", "shape", "reason"),
    [
        (helper.make_node("Gather", ["w", "i"], ["y"]), (9, 4), "copies rows"),
        (helper.make_node("MatMul", ["x", "w"], ["y"]), (5,), "MatMul has no matrix product with its input 1"),
        (helper.make_node("Gemm", ["x", "b", "w"], ["y"]), (3,), "input 2"),
        (helper.make_node("Add", ["x", "w"], ["y"]), (3,), "Add has no matrix product"),
    ],
)
def test_says_why_a_layer_is_no_matrix_product(node: Any, shape: tuple[int, ...], reason: str) -> None:
    found = reduction(node, "w", shape)
    assert isinstance(found, NotReducible)
    assert reason in found.reason


@pytest.mark.parametrize("transposed", [False, True])
def test_turns_are_those_of_each_alone(transposed: bool) -> None:
    """A convolution pads once for all turns; the columns are those of a turn after the other, to the bit."""
    view = ConvReduction(2, (3, 2), (2, 1), (1, 2), (1, 0, 1, 2), transposed=transposed, output_padding=(0, 0))
    inputs = torch.from_numpy(np.random.default_rng(0).standard_normal((7, 4, 6, 5)).astype(np.float32))
    starts = [(0, 0), (1, 0), (0, 2), (1, 2)]
    found = view.columns_in_turns(inputs, starts, (2, 3))
    alone = torch.cat([view.columns(inputs[n::4], start, (2, 3)) for n, start in enumerate(starts)], dim=2)
    assert torch.equal(found, alone)
    assert torch.equal(Reduction.columns_in_turns(view, inputs, starts, (2, 3)), alone)
