"""Weights are found wherever they are: in bodies, behind what is constant, transposed for a second reader."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from network.graph import Network
from network.normalise import dump, normalise

RNG = np.random.default_rng(7)
node = helper.make_node


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.normal(size=shape).astype(np.float32)


def made(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str], **constants: Any) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def normalised(model: onnx.ModelProto) -> Network:
    """The network, with the outputs that the file has."""
    network = normalise(model)
    x = floats(5, 6)
    before, after = (
        onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"x": x})
        for data in (model.SerializeToString(), dump(network))
    )
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    return network


def branch(name: str, weight: str, *initializers: onnx.TensorProto) -> onnx.GraphProto:
    nodes = [node("MatMul", ["h", weight], [name], "product")]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)]
    return helper.make_graph(nodes, name, [], outputs, list(initializers))


CONDITION = [
    node("MatMul", ["x", "W"], ["h"], "first"),
    node("ReduceMean", ["x"], ["m"], keepdims=0),
    node("Greater", ["m", "zero"], ["c"]),
]


def test_weights_in_branches_are_sites_of_layers_whose_names_are_their_own() -> None:
    parts = [branch(name, "B", numpy_helper.from_array(floats(8, 4), "B")) for name in ("t", "e")]
    choice = node("If", ["c"], ["y"], "choice", then_branch=parts[0], else_branch=parts[1])
    network = normalised(made([*CONDITION, choice], ["y"], W=floats(6, 8), zero=np.float32(0)))
    assert [site.shape for site in network.sites] == [(6, 8), (8, 4), (8, 4)]
    layers = [layer for site in network.sites for layer in site.layers]
    assert [layer.inner for layer in layers] == [False, True, True]
    assert len({layer.name for layer in layers}) == 3
    assert [layer.name for layer in network.layers()] == ["first"]


def test_a_weight_of_both_branches_is_one_site() -> None:
    choice = node("If", ["c"], ["y"], then_branch=branch("t", "B"), else_branch=branch("e", "B"))
    network = normalised(made([*CONDITION, choice], ["y"], W=floats(6, 8), B=floats(8, 4), zero=np.float32(0)))
    assert [(site.weight, len(site.layers)) for site in network.sites] == [("W", 1), ("B", 2)]


def test_a_packed_weight_is_split_into_sites() -> None:
    nodes = [
        node("Split", ["P", "lengths"], ["Q", "K"], axis=1),
        node("MatMul", ["x", "Q"], ["q"]),
        node("MatMul", ["x", "K"], ["k"]),
    ]
    network = normalised(made(nodes, ["q", "k"], P=floats(6, 10), lengths=np.array([4, 6])))
    assert [site.shape for site in network.sites] == [(6, 4), (6, 6)]
    assert "P" not in network.initializers


def test_a_packed_weight_that_is_read_whole_too_stays_one() -> None:
    nodes = [
        node("Split", ["P", "lengths"], ["Q", "K"], axis=1),
        node("MatMul", ["x", "Q"], ["q"]),
        node("MatMul", ["x", "P"], ["p"]),
    ]
    network = normalised(made(nodes, ["q", "p"], P=floats(6, 10), lengths=np.array([4, 6])))
    assert [site.weight for site in network.sites] == ["P"]


def test_slices_that_share_nothing_are_sites_and_others_stay_computed() -> None:
    def sliced(second: int) -> list[onnx.NodeProto]:
        return [
            node("Slice", ["P", "zero", "four", "one"], ["Q"]),
            node("Slice", ["P", f"at{second}", "ten", "one"], ["K"]),
            node("MatMul", ["x", "W"], ["h"]),
            node("MatMul", ["h", "Q"], ["q"]),
            node("MatMul", ["h", "K"], ["k"]),
        ]

    bounds = {"zero": 0, "one": 1, "at2": 2, "four": 4, "at4": 4, "ten": 10}
    constants = {"W": floats(6, 6), **{name: np.array([value]) for name, value in bounds.items()}}
    apart, overlapping = (
        normalised(made(sliced(second), ["q", "k"], P=floats(6, 10), **constants)) for second in (4, 2)
    )
    assert [site.shape for site in apart.sites] == [(6, 6), (6, 4), (6, 6)]
    assert [site.weight for site in overlapping.sites] == ["W"]
    assert "P" in overlapping.initializers


def test_a_head_that_reads_the_embedding_transposed_is_one_site_with_it() -> None:
    nodes = [
        node("Cast", ["x"], ["ids"], to=TensorProto.INT64),
        node("Clip", ["ids", "low", "high"], ["inside"]),
        node("Gather", ["E", "inside"], ["e"], "embedding"),
        node("Transpose", ["E"], ["T"], perm=[1, 0]),
        node("MatMul", ["e", "T"], ["logits"], "head"),
    ]
    low, high = np.int64(0), np.int64(11)
    [site] = normalised(made(nodes, ["logits"], E=floats(12, 4), low=low, high=high)).sites
    assert [(layer.name, layer.channel_axis, layer.read_as) for layer in site.layers] == [
        ("embedding", 0, "E"),
        ("head", 0, "T"),
    ]
    assert site.macs == 6 * 12 * 4
