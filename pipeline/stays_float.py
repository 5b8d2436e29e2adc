"""What no plan touches: the bytes of float constants that are no site, or whose site stays float, and of weights that
came quantized."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import Any

from onnx import TensorProto

from network.graph import Network
from network.onnx_graph import graphs
from network.quantized_weights import stored_codes

# what is smaller is a bias, a norm or a constant of arithmetic: not what makes a file large
FEWEST_ELEMENTS = 256
_NAMED = 20
_BYTES = {
    TensorProto.FLOAT: 4,
    TensorProto.DOUBLE: 8,
    TensorProto.FLOAT16: 2,
    TensorProto.BFLOAT16: 2,
}


def stays_float(network: Network, quantized: Collection[str]) -> dict[str, Any]:
    """The float constants that keep their bytes, largest first, and their share of all bytes of float constants.

    Args:
        network: the normalised float network; constants inside the bodies of If, Loop and Scan count.
        quantized: names of the initializers that the plan stores in fewer bits.
    """
    constants = [
        (name, size // 2 if name in network.narrow else size, elements) for name, size, elements in _constants(network)
    ]
    total = sum(size for _, size, _ in constants)
    kept = sorted(((size, name) for name, size, _ in constants if name not in quantized), reverse=True)
    large = {name for name, _, elements in constants if elements >= FEWEST_ELEMENTS}
    bytes_ = sum(size for size, _ in kept)
    return {
        "bytes": bytes_,
        "share": bytes_ / total if total else 0.0,
        "tensors": [{"name": name, "bytes": size} for size, name in kept if name in large][:_NAMED],
    }


def stays_quantized(network: Network) -> dict[str, Any]:
    """The weights that came in codes, and stay so, largest first."""
    codes = sorted(stored_codes(network.proto.graph), key=lambda own: -own.size_bytes)
    tensors = [{"name": own.name, "bytes": own.size_bytes} for own in codes[:_NAMED]]
    return {"bytes": sum(own.size_bytes for own in codes), "tensors": tensors}


def _constants(network: Network) -> Iterator[tuple[str, int, int]]:
    """Name, bytes and elements of every float constant, in all graphs."""
    for graph in graphs(network.proto.graph):
        for tensor in graph.initializer:
            if tensor.data_type in _BYTES:
                elements = math.prod(tensor.dims)
                yield tensor.name, elements * _BYTES[tensor.data_type], elements
        for node in graph.node:
            for attribute in node.attribute if node.op_type == "Constant" else ():
                if attribute.name == "value" and attribute.t.data_type in _BYTES:
                    elements = math.prod(attribute.t.dims)
                    yield node.output[0], elements * _BYTES[attribute.t.data_type], elements
