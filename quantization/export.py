"""The quantized ONNX file, and the float file with the same values.

Memory: beside the network, the packed weights twice (in the model and in its bytes); the float weights that are
replaced are never copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from network.activations import moved_from
from network.graph import Network
from quantization.activation_passes import QuantizeTensors, StoreBiases
from quantization.activations import QuantizedActivation
from quantization.biases import fit, kernel_codes, kernel_scale
from quantization.errors import ExportTooLarge, QuantizationError
from quantization.kernels import KernelUse, kernel_uses, weight_kernels, with_kernels
from quantization.passes import AddMetadata, DropDebris, StoreFloats, StorePacked, apply, draft_without
from quantization.weights import IntegerWeight, QuantizedWeight

_LARGEST_FILE = (1 << 31) - 1  # bytes; a protobuf message cannot be longer
_NO_ACTIVATIONS: Mapping[str, QuantizedActivation] = MappingProxyType({})


def export(
    network: Network,
    weights: Mapping[str, QuantizedWeight],
    metadata: Mapping[str, str],
    activations: Mapping[str, QuantizedActivation] = _NO_ACTIVATIONS,
) -> bytes:
    """The network with `weights` stored at their widths: a file for plain ONNX Runtime, the same bytes every time.

    A layer whose input and output are quantized runs as an integer kernel, whatever the width of its weight; every
    other layer runs on floats, with just the values that were asked for.

    Args:
        network: normalised; not changed.
        weights: by initializer name. All other initializers stay as they are, but for biases of integer kernels.
        metadata: entries for the model's metadata, over those of the same key.
        activations: by tensor name: graph inputs and outputs of nodes of the main graph.

    Raises:
        QuantizationError: a weight is no float32 initializer of its shape, an activation is no value of the main graph
            or differs from the one whose values it moves, or the network's opset is too old.
        ExportTooLarge: the file would pass two gigabytes.
    """
    parts = _Parts(network, weights, activations)
    tensors = QuantizeTensors(activations, moved_from(network))
    packed = StorePacked(parts.weights, parts.channel_axes, weight_kernels(network, parts.uses))
    draft = draft_without(network.proto, parts.weights)
    apply(draft, [DropDebris(), tensors, packed])
    scales = {
        use.node: (tensors.scales[use.input], packed.kernel_scales[use.weight]) for use in parts.uses if use.integer
    }
    apply(draft, [StoreBiases(parts.uses, parts.biases(codes=True), scales), AddMetadata(metadata)])
    return _bytes(draft)


def simulate(
    network: Network,
    weights: Mapping[str, QuantizedWeight],
    activations: Mapping[str, QuantizedActivation] = _NO_ACTIVATIONS,
) -> bytes:
    """The network with `weights` dequantized by numpy to float32 initializers, and `activations` rounded between them.

    This is what `export` must compute: bit for bit without activations. With them an integer kernel rounds its exact
    sum where this file rounds a float one, so that a value next to the middle of two codes may take the other code: at
    each quantized tensor one step of its scale, for few values, apart.

    Raises:
        QuantizationError, ExportTooLarge: as `export`.
    """
    parts = _Parts(network, weights, activations)
    draft = draft_without(network.proto, parts.weights)
    tensors = QuantizeTensors(activations, moved_from(network))
    biases = StoreBiases(parts.uses, parts.biases(codes=False), {})
    apply(draft, [DropDebris(), tensors, StoreFloats(parts.weights), biases])
    return _bytes(draft)


class _Parts:
    """What is stored: weights in graph order, layers that need another form, and their biases."""

    def __init__(
        self,
        network: Network,
        weights: Mapping[str, QuantizedWeight],
        activations: Mapping[str, QuantizedActivation],
    ) -> None:
        self._network = network
        self._activations = activations
        ordered = _in_graph_order(network, weights)
        integers = with_kernels({name: weight.format for name, weight in ordered.items()})
        self.uses = kernel_uses(network, integers, {name: a.format for name, a in activations.items()})
        fitted: dict[str, list[tuple[NDArray[np.float32], float]]] = {}
        for use in self.uses:
            if use.integer and use.bias is not None:
                fitted.setdefault(use.weight, []).append((self._values(use), activations[use.input].scale))
        self._fitted = {
            name: fit(weight, fitted[name])
            for name, weight in ordered.items()
            if name in fitted and isinstance(weight, IntegerWeight)
        }
        self.weights = {**ordered, **self._fitted}
        self.channel_axes = {site.weight: site.channel_axis for site in network.sites}

    def biases(self, *, codes: bool) -> dict[str, NDArray[Any]]:
        """By node name: of integer kernels their `codes` or the values that these stand for, of others the values."""
        found: dict[str, NDArray[Any]] = {}
        for use in self.uses:
            if use.bias is None:
                continue
            values = self._values(use)
            if use.integer:
                scale, weight = self._activations[use.input].scale, self._fitted[use.weight]
                values_as_codes = kernel_codes(values, scale, weight)
                if codes:
                    found[use.node] = values_as_codes
                    continue
                values = values_as_codes.astype(np.float32) * kernel_scale(scale, weight)
            found[use.node] = values
        return found

    def _values(self, use: KernelUse) -> NDArray[np.float32]:
        """The bias as the network has it, zeros where it has none."""
        if use.bias is None or use.bias.initializer is None:
            return np.zeros(use.bias.channels if use.bias else 0, dtype=np.float32)
        return self._network.weight(use.bias.initializer)


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


def _bytes(draft: onnx.ModelProto) -> bytes:
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
