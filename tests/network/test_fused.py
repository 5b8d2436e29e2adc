"""Fused operators of ONNX Runtime, written as operators of ONNX, give what ONNX Runtime gives for the fused ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from network.admission import AdmissionLimits, admit
from network.execution import TorchNetwork
from network.faithful import faithful, undone
from network.fused import unfuse
from network.graph import Network

LIMITS = AdmissionLimits()
RNG = np.random.default_rng(7)
X: NDArray[np.float32] = RNG.standard_normal((6, 5, 8)).astype(np.float32)
IMAGES: NDArray[np.float32] = RNG.standard_normal((6, 3, 7, 7)).astype(np.float32)
ROWS: NDArray[np.float32] = RNG.standard_normal((6, 8)).astype(np.float32)
IDS = RNG.integers(0, 9, (6, 5)).astype(np.int32)
MASK = (np.arange(5) < np.array([[5], [2], [4], [1], [3], [5]])).astype(np.int32)


def w(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


@dataclass
class Case:
    """One fused node that reads the inputs and weights in order, a name that is in neither is left out."""

    op_type: str
    reads: str
    inputs: dict[str, NDArray[Any]]
    weights: dict[str, NDArray[Any]] = field(default_factory=dict)
    given: dict[str, Any] = field(default_factory=dict)
    outputs: str = "y"
    domain: str = "com.microsoft"

    def model(self, opset: int = 18) -> bytes:
        known = {*self.inputs, *self.weights}
        names = [name if name in known else "" for name in self.reads.split()]
        node = helper.make_node(self.op_type, names, self.outputs.split(","), "fused", domain=self.domain, **self.given)
        graph = helper.make_graph(
            [node],
            "g",
            [
                helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), ["N", *a.shape[1:]])
                for n, a in self.inputs.items()
            ],
            [onnx.ValueInfoProto(name=name) for name in self.outputs.split(",") if name],
            [numpy_helper.from_array(array, name) for name, array in self.weights.items()],
        )
        imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString()


GAMMA = {"g": 1 + 0.1 * w(8), "b": w(8)}
TABLES = {"words": w(9, 8), "places": w(6, 8), "kinds": w(2, 8)}
WITH_LAYERS = {
    "matmul": Case("FusedMatMul", "x w", {"x": X}, {"w": w(8, 4)}),
    "matmul, scaled and transposed": Case(
        "FusedMatMul", "x w", {"x": X}, {"w": w(4, 8)}, {"transB": 1, "alpha": 0.25}
    ),
    "gemm": Case("FusedGemm", "x w c", {"x": ROWS}, {"w": w(8, 4), "c": w(4)}, {"activation": "Relu"}),
    "gemm of parameters": Case(
        "FusedGemm", "x w c", {"x": ROWS}, {"w": w(4, 8), "c": w(4)},
        {"activation": "LeakyRelu", "activation_alpha": 0.3, "transB": 1, "alpha": 0.5},
    ),
    "conv": Case(
        "FusedConv", "x w c", {"x": IMAGES}, {"w": w(4, 3, 3, 3), "c": w(4)},
        {"activation": "Clip", "activation_params": [-0.5, 2.0], "pads": [1, 1, 1, 1], "strides": [2, 2]},
    ),
    "conv with a sum": Case(
        "FusedConv", "x w c z", {"x": IMAGES, "z": w(6, 4, 5, 5)}, {"w": w(4, 3, 3, 3), "c": w(4)},
        {"activation": "Relu"},
    ),
    "attention": Case(
        "Attention", "x w c mask", {"x": X, "mask": MASK}, {"w": w(8, 24), "c": w(24)}, {"num_heads": 2}
    ),
    "attention of other lengths": Case(
        "Attention", "x w c", {"x": X}, {"w": w(8, 20), "c": w(20)}, {"num_heads": 2, "qkv_hidden_sizes": [8, 8, 4]}
    ),
    "embeddings": Case(
        "EmbedLayerNormalization", "ids kind words places kinds g b mask",
        {"ids": IDS, "kind": IDS % 2, "mask": MASK}, TABLES | GAMMA, {"epsilon": 1e-6}, "y,count",
    ),
    "embeddings without kinds and mask": Case(
        "EmbedLayerNormalization", "ids - words places - g b", {"ids": IDS},
        {name: array for name, array in (TABLES | GAMMA).items() if name != "kinds"}, {}, "y,count",
    ),
}  # fmt: skip
WITHOUT_LAYERS = {
    "gelu": Case("Gelu", "x", {"x": X}),
    "bias gelu": Case("BiasGelu", "x b", {"x": X}, {"b": w(8)}),
    "fast gelu": Case("FastGelu", "x b", {"x": X}, {"b": w(8)}),
    "fast gelu without bias": Case("FastGelu", "x", {"x": X}),
    "quick gelu": Case("QuickGelu", "x", {"x": X}, given={"alpha": 1.5}),
    "simplified": Case("SimplifiedLayerNormalization", "x g", {"x": X}, {"g": w(8)}, {"axis": -1}, domain=""),
    "skip": Case("SkipLayerNormalization", "x z g b", {"x": X, "z": X[::-1].copy()}, GAMMA, {"epsilon": 1e-5}),
    "skip with its sum": Case(
        "SkipLayerNormalization", "x z g b c", {"x": X, "z": X[::-1].copy()}, GAMMA | {"c": w(8)}, {}, "y,,,sum"
    ),
    "simplified skip": Case(
        "SkipSimplifiedLayerNormalization", "x z g c", {"x": X, "z": X[::-1].copy()}, {"g": w(8), "c": w(8)}, {},
        "y,,,sum",
    ),
    "attention of q, k, v": Case(
        "MultiHeadAttention", "x k v - - added", {"x": X, "k": X[::-1].copy(), "v": X + 1, "added": w(6, 2, 5, 5)},
        given={"num_heads": 2, "scale": 0.7},
    ),
}  # fmt: skip


def reproduced(case: Case, opset: int = 18) -> Network:
    """With a MatMul behind, as a network has a layer: proved to have the outputs of the uploaded file."""
    proto = onnx.load_from_string(case.model(opset))
    proto.graph.node.append(helper.make_node("MatMul", ["y", "last"], ["product"]))
    proto.graph.initializer.append(numpy_helper.from_array(w(8, 3), "last"))
    proto.graph.output[0].name = "product"
    data = proto.SerializeToString()
    shapes = {name: array.shape[1:] for name, array in case.inputs.items()}
    return faithful(data, admit(data, LIMITS), case.inputs, shapes)


@pytest.mark.parametrize("name", WITHOUT_LAYERS)
@pytest.mark.parametrize("opset", [18, 13])
def test_they_give_the_same_and_torch_knows_them(name: str, opset: int) -> None:
    network = reproduced(WITHOUT_LAYERS[name], opset)
    assert undone(network) is None
    assert {node.domain for node in network.proto.graph.node} == {""}
    assert "SimplifiedLayerNormalization" not in {node.op_type for node in network.proto.graph.node}
    TorchNetwork(network)


@pytest.mark.parametrize("name", WITH_LAYERS)
def test_their_weights_are_sites(name: str) -> None:
    case = WITH_LAYERS[name]
    data = case.model()
    shapes = {key: array.shape[1:] for key, array in case.inputs.items()}
    network = faithful(data, admit(data, LIMITS), case.inputs, shapes)
    assert undone(network) is None
    assert {node.domain for node in network.proto.graph.node} == {""}
    # rows that are picked by constants are constants themselves
    weights = sum(array.ndim > 1 and key != "places" for key, array in case.weights.items())
    assert len([site for site in network.sites if site.weight != "places"]) == weights
    TorchNetwork(network)


@pytest.mark.parametrize(
    "case",
    [
        Case("FusedMatMul", "x w", {"x": X}, {"w": w(6, 8, 4)}, {"transBatchA": 1}),
        Case("FusedGemm", "x w", {"x": ROWS}, {"w": w(8, 4)}, {"activation": "ThresholdedRelu"}),
        Case("SkipLayerNormalization", "x z g b", {"x": X, "z": X}, GAMMA, {}, "y,mean"),
        Case("Attention", "x w c mask", {"x": X, "mask": MASK.sum(1, dtype=np.int32)}, {"w": w(8, 24), "c": w(24)},
             {"num_heads": 2, "unidirectional": 1}),
    ],
)  # fmt: skip
def test_what_has_no_form_stays(case: Case) -> None:
    model = onnx.load_from_string(case.model())
    unfuse(model)
    assert "com.microsoft" in {node.domain for node in model.graph.node}
