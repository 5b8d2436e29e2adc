"""The quantized ONNX file, and the float file with the same values.

Memory: beside the network, the packed weights twice (in the model and in its bytes); the float weights that are
replaced are never copied.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from network.graph import Network
from quantization.errors import ExportTooLarge, QuantizationError
from quantization.passes import AddMetadata, DropDebris, Pass, StoreFloats, StorePacked, apply, draft_without
from quantization.weights import QuantizedWeight

_LARGEST_FILE = (1 << 31) - 1  # bytes; a protobuf message cannot be longer


def export(network: Network, weights: Mapping[str, QuantizedWeight], metadata: Mapping[str, str]) -> bytes:
    """The network with `weights` stored at their widths: a file for plain ONNX Runtime, the same bytes every time.

    Args:
        network: normalised; not changed.
        weights: by initializer name. All other initializers stay as they are.
        metadata: entries for the model's metadata, over those of the same key.

    Raises:
        QuantizationError: a weight is no float32 initializer of its shape, or the network's opset is too old.
        ExportTooLarge: the file would pass two gigabytes.
    """
    ordered = _in_graph_order(network, weights)
    return _write(network, ordered, [DropDebris(), StorePacked(ordered), AddMetadata(metadata)])


def simulate(network: Network, weights: Mapping[str, QuantizedWeight]) -> bytes:
    """The network with `weights` dequantized by numpy to float32 initializers: what `export` must compute, bit for bit.

    Raises:
        QuantizationError: a weight is no float32 initializer of its shape.
        ExportTooLarge: the file would pass two gigabytes.
    """
    ordered = _in_graph_order(network, weights)
    return _write(network, ordered, [DropDebris(), StoreFloats(ordered)])


def _in_graph_order(network: Network, weights: Mapping[str, QuantizedWeight]) -> dict[str, QuantizedWeight]:
    """`weights` in the order of the graph's initializers, so that the file does not depend on the caller's order."""
    for name, weight in weights.items():
        tensor = network.initializers.get(name)
        if tensor is None or tensor.data_type != onnx.TensorProto.FLOAT or tuple(tensor.dims) != weight.shape:
            found = "none" if tensor is None else f"one of type {tensor.data_type}, shape {tuple(tensor.dims)}"
            raise QuantizationError(
                f"weight {name} must replace a float32 initializer of shape {weight.shape}; the network has {found}"
            )
    return {name: weights[name] for name in network.initializers if name in weights}


def _write(network: Network, weights: Mapping[str, QuantizedWeight], passes: list[Pass]) -> bytes:
    draft = draft_without(network.proto, weights)
    apply(draft, passes)
    expected = sum(len(tensor.raw_data) for tensor in draft.graph.initializer)
    if expected > _LARGEST_FILE:
        raise _too_large(expected)
    try:
        return bytes(draft.SerializeToString(deterministic=True))
    except ValueError as error:  # protobuf's word for a message of two gigabytes
        raise _too_large(expected) from error


def _too_large(size_bytes: int) -> ExportTooLarge:
    return ExportTooLarge(
        f"the file would hold {size_bytes} bytes of weights or more, and an ONNX file at most {_LARGEST_FILE};"
        " plan fewer bits for it, or split the network"
    )
