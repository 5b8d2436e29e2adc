"""Weights that came quantized: kept as codes, or floats again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from network.admission import AdmissionLimits, admit
from network.errors import NothingToQuantize
from network.faithful import faithful
from network.graph import Network
from network.normalise import dump
from network.quantized_weights import Codes, stored_codes, with_floats
from tests.network.quantized_models import (
    HIDDEN,
    WIDTH,
    behind_dequantize,
    behind_quantize,
    behind_wide_dequantize,
    floats,
    in_blocks,
    node,
    of_integers,
    packed,
)

X = {"x": np.random.default_rng(7).normal(size=(40, WIDTH)).astype(np.float32)}
OTHERS = ["second", "third"]


def brought(model: ModelProto, *, requantize: bool = False) -> Network:
    data = model.SerializeToString()
    return faithful(data, admit(data, AdmissionLimits()), X, {"x": (WIDTH,)}, requantize=requantize)


def run(model: bytes) -> Any:
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, X)[0]


def sizes(network: Network) -> list[int]:
    return [codes.size_bytes for codes in stored_codes(network.proto.graph)]


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (behind_dequantize, WIDTH * HIDDEN),
        (behind_wide_dequantize, 2 * WIDTH * HIDDEN),
        (in_blocks, WIDTH * HIDDEN // 2),
        (of_integers, WIDTH * HIDDEN),
    ],
)
def test_codes_stay_codes(make: Callable[[], ModelProto], size: int) -> None:
    model = make()
    network = brought(model)
    assert [site.weight for site in network.sites] == OTHERS
    assert sizes(network) == [size]
    assert len(dump(network)) < len(model.SerializeToString()) + 1500


def test_codes_that_any_nodes_unpack_stay_codes() -> None:
    """Two codes to a byte, which folding would make sixteen times as many bytes."""
    constants = {
        "packed": np.random.default_rng(8).integers(0, 256, (WIDTH, HIDDEN // 2, 1), dtype=np.uint8),
        "mask": np.uint8(15),
        "four": np.uint8(4),
        "shape": np.array([WIDTH, HIDDEN]),
        "scale": np.float32(0.02),
        "last": floats(HIDDEN, 4),
    }
    nodes = [
        node("BitwiseAnd", ["packed", "mask"], ["low"]),
        node("BitShift", ["packed", "four"], ["high"], direction="RIGHT"),
        node("Concat", ["low", "high"], ["both"], axis=2),
        node("Reshape", ["both", "shape"], ["codes"]),
        node("Cast", ["codes"], ["values"], to=TensorProto.FLOAT),
        node("Mul", ["values", "scale"], ["w"]),
        node("MatMul", ["x", "w"], ["h"]),
        node("MatMul", ["h", "last"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    network = brought(model)
    assert [site.weight for site in network.sites] == ["last"]
    assert sizes(network) == [WIDTH * HIDDEN // 2]
    again = brought(model, requantize=True)
    assert [site.weight for site in again.sites] == ["w", "last"]
    assert sizes(again) == []
    assert np.allclose(run(dump(again)), run(model.SerializeToString()), atol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        behind_dequantize,
        behind_wide_dequantize,
        in_blocks,
        packed,
        lambda: packed(bias=True),
        lambda: packed(halves=True),
    ],
)
def test_codes_become_floats_where_a_request_asks(make: Callable[[], ModelProto]) -> None:
    model = make()
    network = brought(model, requantize=True)
    assert len(network.sites) == 3
    assert sizes(network) == []
    expected = run(model.SerializeToString())
    assert np.abs(run(dump(network)) - expected).max() < 0.02 * np.abs(expected).max()


def test_operators_on_codes_keep_them() -> None:
    network = brought(of_integers(), requantize=True)
    assert [site.weight for site in network.sites] == OTHERS
    assert sizes(network) == [WIDTH * HIDDEN]


@pytest.mark.parametrize("requantize", [False, True])
def test_a_float_weight_that_the_graph_rounds_is_planned_as_it_is_rounded(requantize: bool) -> None:
    model = behind_quantize()
    network = brought(model, requantize=requantize)
    assert [site.weight for site in network.sites] == ["w", *OTHERS]
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    codes = np.round(arrays["float"] / arrays["scale"])
    assert np.array_equal(network.weight("w"), (codes * arrays["scale"]).astype(np.float32))
    assert [n.op_type for n in network.proto.graph.node].count("QuantizeLinear") == 1


def test_a_network_without_codes_is_left_alone() -> None:
    model = behind_dequantize()
    assert with_floats(model, 1, codes=False) is None
    graph = helper.make_graph(
        [node("MatMul", ["x", "w"], ["y"])], "g", [], [], [numpy_helper.from_array(floats(4, 4), "w")]
    )
    assert with_floats(helper.make_model(graph), 1, codes=True) is None


def test_codes_are_counted_in_their_bits() -> None:
    names = {codes.name: codes for codes in stored_codes(in_blocks().graph)}
    assert names == {"codes": Codes("codes", WIDTH * HIDDEN // 2)}


def test_a_network_of_codes_alone_is_refused_with_the_way_out() -> None:
    model = behind_dequantize()
    kept = [
        one for one in model.graph.node if one.op_type != "Tanh" and "s" not in one.output and "y" not in one.output
    ]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("r", TensorProto.FLOAT, ["N", HIDDEN]))
    del model.graph.initializer[-2:]
    with pytest.raises(NothingToQuantize, match=r"weights of 512 bytes came quantized: weights.requantize plans"):
        brought(model)
    assert len(brought(model, requantize=True).sites) == 1
