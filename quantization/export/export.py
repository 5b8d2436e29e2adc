"""The quantized ONNX file, and the float file with the same values.

Memory: beside the network and its quantized weights three times the file. Float weights that are replaced are never
copied.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from network.activations import moved_from
from network.graph import ChannelAxis, Network
from network.message_size import size_bytes
from quantization.activations.biases import fit, kernel_codes, kernel_scale
from quantization.activations.kernels import KernelUse
from quantization.activations.quantized import QuantizedActivation
from quantization.errors import QuantizationError
from quantization.export.activation_passes import quantize_tensors, store_biases
from quantization.export.draft import Layout, draft_file, too_large
from quantization.export.leftovers import halves as float16
from quantization.export.leftovers import round_halves
from quantization.export.messages import LARGEST_MESSAGE, draft_without
from quantization.export.passes import StoredAs, drop_debris, store_floats
from quantization.export.products import Products, product_values, round_inputs
from quantization.granularity import every_channel_axis
from quantization.storage.weights import IntegerWeight, QuantizedWeight

_NO_ACTIVATIONS: Mapping[str, QuantizedActivation] = MappingProxyType({})


def export(
    network: Network,
    weights: Mapping[str, QuantizedWeight],
    metadata: Mapping[str, str],
    activations: Mapping[str, QuantizedActivation] = _NO_ACTIVATIONS,
    *,
    products: Products = Products.FLOAT,
    unpacked: Container[str] = (),
    halves: Collection[str] = (),
) -> bytes:
    """The network with `weights` stored at their widths: a file for plain ONNX Runtime, the same bytes every time.

    A layer whose input and output are quantized runs as an integer kernel, whatever the width of its weight; one that
    multiplies packed rounds its input itself (`quantization.export.products`); every other layer runs on floats,
    with just the values of its quantized weight.

    Args:
        network: normalised; not changed.
        weights: by initializer name. All other initializers stay as they are, but for biases of integer kernels.
        metadata: entries for the model's metadata, over those of the same key.
        activations: by tensor name: graph inputs and outputs of nodes of the main graph.
        products: how layers multiply that read floats.
        unpacked: weights whose layers multiply in floats whatever `products` says, by initializer name.
        halves: other initializers that are stored as float16 (`quantization.export.leftovers`); those that become
            biases of integer kernels are not.

    Raises:
        QuantizationError: a weight is no float32 initializer of its shape, an activation is no value of the main graph
            or differs from the one whose values it moves, or the network's opset is too old.
        ExportTooLarge: the file would pass two gigabytes.
    """
    parts = _Parts(network, weights, activations, products, unpacked)
    draft = draft_file(network, parts.layout, activations, parts.biases(codes=True), metadata, halves)

    def values(name: str) -> list[bytes]:
        if name in weights:
            return parts.values(name)
        tensor = network.initializers[name]
        return [float16(tensor).tobytes() if name in halves else tensor.raw_data]

    return draft.filled(values)


def simulate(
    network: Network,
    weights: Mapping[str, QuantizedWeight],
    activations: Mapping[str, QuantizedActivation] = _NO_ACTIVATIONS,
    *,
    products: Products = Products.FLOAT,
    unpacked: Container[str] = (),
    halves: Collection[str] = (),
) -> bytes:
    """The network with `weights` dequantized by numpy to float32 initializers, `activations` rounded between them, the
    inputs of layers that multiply packed rounded, and other initializers rounded to float16.

    This is what `export` must compute: bit for bit without activations and packed products. With them an integer kernel
    rounds its exact sum where this file rounds a float one, so that a value next to the middle of two codes may take
    the other code: at each quantized tensor, and each block of an input of a packed product or all of it, one step of
    its scale, for few values, apart.

    Raises:
        QuantizationError, ExportTooLarge: as `export`.
    """
    draft = simulated(network, weights, activations, products=products, unpacked=unpacked, halves=halves)
    try:
        return bytes(draft.SerializeToString(deterministic=True))
    except ValueError as error:  # protobuf's word for a message of two gigabytes
        raise too_large(size_bytes(draft)[0]) from error


def simulated(
    network: Network,
    weights: Mapping[str, QuantizedWeight],
    activations: Mapping[str, QuantizedActivation] = _NO_ACTIVATIONS,
    *,
    products: Products = Products.FLOAT,
    unpacked: Container[str] = (),
    halves: Collection[str] = (),
) -> onnx.ModelProto:
    """What `simulate` gives, as a message.

    Raises:
        QuantizationError, ExportTooLarge: as `export`.
    """
    parts = _Parts(network, weights, activations, products, unpacked)
    draft = draft_without(network.proto, parts.layout.stored)
    drop_debris(draft)
    quantize_tensors(draft, activations, moved_from(network))
    round_inputs(draft, parts.layout.product_formats, parts.layout.products)
    store_floats(draft, {name: parts.weight(name) for name in parts.layout.stored})
    store_biases(draft, parts.layout.uses, parts.biases(codes=False), {})
    round_halves(draft, halves)
    expected = sum(len(tensor.raw_data) for tensor in draft.graph.initializer)
    if expected > LARGEST_MESSAGE:
        raise too_large(expected)
    return draft


def stored_weights(
    network: Network,
    weights: Mapping[str, QuantizedWeight],
    activations: Mapping[str, QuantizedActivation] = _NO_ACTIVATIONS,
    *,
    products: Products = Products.FLOAT,
    unpacked: Container[str] = (),
) -> dict[str, QuantizedWeight]:
    """`weights` as `export` stores them: where an integer kernel adds a bias, a channel may have another scale.

    Raises:
        QuantizationError: as `export`.
    """
    parts = _Parts(network, weights, activations, products, unpacked)
    return {name: parts.weight(name) for name in parts.layout.stored}


class _Parts:
    """What is stored: weights, some of them fitted to integer kernels that add a bias, and the biases."""

    def __init__(
        self,
        network: Network,
        weights: Mapping[str, QuantizedWeight],
        activations: Mapping[str, QuantizedActivation],
        products: Products = Products.FLOAT,
        unpacked: Container[str] = (),
    ) -> None:
        self._network = network
        self._weights = weights
        self._activations = activations
        formats = {name: activation.format for name, activation in activations.items()}
        self.layout = Layout.of(network, _in_graph_order(network, weights), formats, products, unpacked)
        self._biases: dict[str, list[tuple[NDArray[np.float32], float]]] = {}
        for use in self.layout.uses:
            if use.integer and use.bias is not None:
                self._biases.setdefault(use.weight, []).append((self._values(use), activations[use.input].scale))

    def weight(self, name: str) -> QuantizedWeight:
        """As it is stored."""
        weight = self._weights[name]
        if name in self._biases and isinstance(weight, IntegerWeight):
            return fit(weight, self._biases[name])
        return weight

    def values(self, name: str) -> list[bytes]:
        """Of the tensors of the file that hold the weight."""
        weight = self.weight(name)
        if name in self.layout.products and isinstance(weight, IntegerWeight):
            return product_values(weight, self.layout.products[name])
        return [tensor.raw_data for tensor in weight.tensors(self._network.opset)]

    def biases(self, *, codes: bool) -> dict[str, NDArray[Any]]:
        """By node name: of integer kernels their `codes` or the values that these stand for, of others the values."""
        biases: dict[str, NDArray[Any]] = {}
        for use in self.layout.uses:
            if use.bias is None:
                continue
            values = self._values(use)
            weight = self.weight(use.weight) if use.integer else None
            if isinstance(weight, IntegerWeight):
                scale = self._activations[use.input].scale
                values_as_codes = kernel_codes(values, scale, weight)
                if codes:
                    biases[use.node] = values_as_codes
                    continue
                values = values_as_codes.astype(np.float32) * kernel_scale(scale, weight)
            biases[use.node] = values
        return biases

    def _values(self, use: KernelUse) -> NDArray[np.float32]:
        """The bias as the network has it, zeros where it has none."""
        if use.bias is None or use.bias.initializer is None:
            return np.zeros(use.bias.channels if use.bias else 0, dtype=np.float32)
        return self._network.weight(use.bias.initializer)


def _in_graph_order(network: Network, weights: Mapping[str, QuantizedWeight]) -> dict[str, StoredAs]:
    """How `weights` are stored, in the order of the graph's initializers, so that the file does not depend on the
    caller's order."""
    usual = {site.weight: site.channel_axis for site in network.sites}
    for name, weight in weights.items():
        tensor = network.initializers.get(name)
        if tensor is None or tensor.data_type != onnx.TensorProto.FLOAT:
            kind = "none" if tensor is None else f"one of type {tensor.data_type}"
            raise QuantizationError(f"weight {name} must replace a float32 initializer; the network has {kind}")
        if weight.shape != tuple(tensor.dims):
            raise QuantizationError(
                f"weight {name} must replace an initializer of shape {weight.shape}; the network has "
                f"{tuple(tensor.dims)}"
            )
    ordered = {name: weights[name] for name in network.initializers if name in weights}
    return {
        name: StoredAs(weight.format, weight.shape, _channel_axis(name, weight, usual.get(name, 0)))
        for name, weight in ordered.items()
    }


def _channel_axis(name: str, weight: QuantizedWeight, usual: ChannelAxis) -> ChannelAxis:
    """The axis along which the weight was rounded, `usual` where it may be that."""
    for axis in (usual, *every_channel_axis(weight.shape)):
        if weight.lies_along(axis):
            return axis
    raise QuantizationError(
        f"weight {name} of shape {weight.shape} shares its scales as {weight.format.name} does along none of its axes; "
        "round it along the axis of its output channels"
    )
