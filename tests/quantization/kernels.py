"""Networks that are quantized as they come, to look at the kernels that ONNX Runtime makes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from network.activations import find_activations
from network.graph import Network
from network.normalise import from_proto
from quantization.activations.quantized import QuantizedActivation
from quantization.formats import Granularity, IntegerFormat, UnsignedFormat
from quantization.rounding.nearest import round_nearest
from quantization.storage.weights import IntegerWeight

Arrays = Mapping[str, NDArray[Any]]
RunOnnx = Callable[..., list[NDArray[Any]]]
Optimised = Callable[[bytes], list[str]]


def draw(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def build(nodes: Sequence[onnx.NodeProto], inputs: Arrays, tensors: Arrays, opset: int = 25) -> Network:
    for number, node in enumerate(nodes):
        node.name = f"n{number}"
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", *a.shape[1:]]) for n, a in inputs.items()],
        [onnx.ValueInfoProto(name=nodes[-1].output[0])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in tensors.items()],
    )
    proto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=13 if opset == 25 else 8
    )
    return from_proto(onnx.shape_inference.infer_shapes(proto))


def rounded(network: Network, bits: int, granularity: Granularity = Granularity.CHANNEL) -> dict[str, IntegerWeight]:
    return {
        site.weight: round_nearest(network.weight(site.weight), IntegerFormat(bits, granularity), site.channel_axis)
        for site in network.sites
    }


def ranged(network: Network, bits: int, *names: str) -> dict[str, QuantizedActivation]:
    """All sites, or those named; from 0 what a Relu or Clip makes (to 6, what a Clip makes)."""
    made_by = {name: node.op_type for node in network.proto.graph.node for name in node.output}
    low = {"Relu": 0.0, "Clip": 0.0}
    return {
        tensor: QuantizedActivation.covering(UnsignedFormat(bits), low.get(made_by.get(site.tensors[0], ""), -4.0), 6.0)
        for site in find_activations(network)
        if not names or site.tensors[0] in names
        for tensor in site.tensors
    }


def functions_bytes(file: bytes) -> int:
    """What the functions take in the file, and the imports of domains that are not the standard one."""
    model = onnx.ModelProto.FromString(file)
    before = model.ByteSize()
    del model.functions[:]
    del model.opset_import[1:]
    return int(before - model.ByteSize())


BEFORE = {"x": draw(2, 4, 6, 6)}
