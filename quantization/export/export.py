"""The quantized ONNX file, and the float file with the same values.

Memory: beside the network one packed weight at a time, and for `export` the file. The float weights that are replaced
are never copied, and quantized ones need not exist before they are written (`quantization.export.on_demand`).
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from network.activations import moved_from
from network.graph import Network
from quantization.activations.biases import fit, kernel_codes, kernel_scale
from quantization.activations.kernels import KernelUse, kernel_uses, weight_kernels, with_kernels
from quantization.activations.quantized import QuantizedActivation
from quantization.errors import ExportTooLarge, QuantizationError
from quantization.export.activation_passes import QuantizeTensors, StoreBiases
from quantization.export.leftovers import SMALL, RoundHalves, StoreHalves
from quantization.export.matmul_nbits import Products, StoreProducts, packed_products, product_values, without_products
from quantization.export.on_demand import RoundedOnDemand, formats_of
from quantization.export.passes import (
    AddMetadata,
    DropDebris,
    Packed,
    StoredAs,
    StoreFloats,
    StorePacked,
    apply,
    draft_without,
)
from quantization.export.write_fields import LARGEST_MESSAGE, Bytes, Payload, file_fields, file_size
from quantization.formats import IntegerFormat
from quantization.storage.families import lies_along
from quantization.storage.weights import IntegerWeight, QuantizedWeight

_NO_ACTIVATIONS: Mapping[str, QuantizedActivation] = MappingProxyType({})


def export(
    network: Network,
    weights: Mapping[str, QuantizedWeight],
    metadata: Mapping[str, str],
    activations: Mapping[str, QuantizedActivation] = _NO_ACTIVATIONS,
    *,
    products: Products = Products.FLOAT,
    halves: Collection[str] = (),
) -> bytes:
    """The network with `weights` stored at their widths: a file for plain ONNX Runtime, the same bytes every time.

    A layer whose input and output are quantized runs as an integer kernel, whatever the width of its weight; every
    other layer runs on floats, with just the values that were asked for.

    Args:
        network: normalised; not changed.
        weights: by initializer name. All other initializers stay as they are, but for biases of integer kernels.
        metadata: entries for the model's metadata, over those of the same key.
        activations: by tensor name: graph inputs and outputs of nodes of the main graph.
        products: how layers multiply with weights in blocks.
        halves: other initializers that are stored as float16 (`quantization.export.leftovers`); those that become
            biases of integer kernels are not.

    Raises:
        QuantizationError: a weight is no float32 initializer of its shape, an activation is no value of the main graph
            or differs from the one whose values it moves, or the network's opset is too old.
        ExportTooLarge: the file would pass two gigabytes; `quantization.export.write` writes such files.
    """
    drafted = draft_file(network, weights, metadata, activations, products=products, halves=halves)
    if (size := drafted.size_bytes) > LARGEST_MESSAGE:
        raise _too_large(size)
    file = io.BytesIO()
    for piece in drafted.fields():
        file.write(piece)
    return file.getvalue()


def simulate(
    network: Network,
    weights: Mapping[str, QuantizedWeight],
    activations: Mapping[str, QuantizedActivation] = _NO_ACTIVATIONS,
    *,
    halves: Collection[str] = (),
) -> bytes:
    """The network with `weights` dequantized by numpy to float32 initializers, `activations` rounded between them, and
    other initializers rounded to float16.

    This is what `export` must compute: bit for bit without activations. With them an integer kernel rounds its exact
    sum where this file rounds a float one, so that a value next to the middle of two codes may take the other code: at
    each quantized tensor one step of its scale, for few values, apart.

    Raises:
        QuantizationError, ExportTooLarge: as `export`.
    """
    parts = _Parts(network, weights, activations)
    draft = draft_without(network.proto, parts.stored)
    tensors = QuantizeTensors(activations, moved_from(network))
    floats = StoreFloats({name: parts.weight(name) for name in parts.stored})
    biases = StoreBiases(parts.uses, parts.biases(codes=False), {})
    apply(draft, [DropDebris(), tensors, floats, biases, RoundHalves(halves)])
    expected = sum(len(tensor.raw_data) for tensor in draft.graph.initializer)
    if expected > LARGEST_MESSAGE:
        raise _too_large(expected)
    try:
        return bytes(draft.SerializeToString(deterministic=True))
    except ValueError as error:  # protobuf's word for a message of two gigabytes
        raise _too_large(expected) from error


def stored_weights(
    network: Network,
    weights: Mapping[str, QuantizedWeight],
    activations: Mapping[str, QuantizedActivation] = _NO_ACTIVATIONS,
    *,
    products: Products = Products.FLOAT,
) -> dict[str, QuantizedWeight]:
    """`weights` as `export` stores them: where an integer kernel adds a bias, a channel may have another scale.

    Raises:
        QuantizationError: as `export`.
    """
    parts = _Parts(network, weights, activations, products)
    return {name: parts.weight(name) for name in parts.stored}


@dataclass(frozen=True, eq=False)
class Drafted:
    """A file that is known but for the values of its large tensors, which `payloads` makes one after the other."""

    model: onnx.ModelProto
    payloads: Mapping[str, Payload]

    @property
    def size_bytes(self) -> int:
        """Of the file that `fields` gives."""
        return file_size(self.model, self.payloads)

    def fields(self) -> Iterator[Bytes]:
        """The file in pieces.

        Raises:
            QuantizationError: a weight that was made for it is not as its format says.
        """
        return file_fields(self.model, self.payloads)


def draft_file(
    network: Network,
    weights: Mapping[str, QuantizedWeight],
    metadata: Mapping[str, str],
    activations: Mapping[str, QuantizedActivation] = _NO_ACTIVATIONS,
    *,
    products: Products = Products.FLOAT,
    halves: Collection[str] = (),
) -> Drafted:
    """What `export` returns, before anything large is made.

    Raises:
        QuantizationError: as `export`.
    """
    parts = _Parts(network, weights, activations, products)
    tensors = QuantizeTensors(activations, moved_from(network))
    folded = {name: stored for name, stored in parts.stored.items() if name not in parts.products}
    packed = StorePacked(folded, weight_kernels(network, parts.uses))
    multiplied = StoreProducts(
        {name: f for name in parts.products if isinstance(f := parts.stored[name].format, IntegerFormat)},
        parts.products,
        products,
    )
    own = {
        tensor.name: Payload(len(tensor.raw_data), partial(getattr, tensor, "raw_data"))
        for tensor in network.proto.graph.initializer
        if tensor.name not in parts.stored and len(tensor.raw_data) > SMALL
    }
    draft = draft_without(network.proto, parts.stored, own)
    apply(draft, [DropDebris(), tensors, packed, multiplied])
    scales = {
        use.node: (tensors.scales[use.input], packed.kernel_scales[use.weight]) for use in parts.uses if use.integer
    }
    biases = StoreBiases(parts.uses, parts.biases(codes=True), scales)
    stored = StoreHalves(halves, network.initializers)
    apply(draft, [biases, stored, AddMetadata(metadata)])
    reader = _Tensors(parts)
    made = {
        name: Payload(part.size_bytes, partial(reader.values, part))
        for name, part in (packed.packed | multiplied.packed).items()
    }
    kept = {name: payload for name, payload in own.items() if name not in stored.stored}
    return Drafted(draft, kept | stored.payloads() | made)


class _Tensors:
    """The packed tensors of the weight that was read last: one follows the other in the file."""

    def __init__(self, parts: _Parts) -> None:
        self._parts = parts
        self._weight = ""
        self._tensors: list[Bytes] = []

    def values(self, part: Packed) -> Bytes:
        if part.weight != self._weight:
            self._tensors = []  # before the next is made
            self._tensors = self._parts.values(part.weight)
            self._weight = part.weight
        return self._tensors[part.place]


class _Parts:
    """What is stored: weights in graph order, layers that need another form, and their biases."""

    def __init__(
        self,
        network: Network,
        weights: Mapping[str, QuantizedWeight],
        activations: Mapping[str, QuantizedActivation],
        products: Products = Products.FLOAT,
    ) -> None:
        self._network = network
        self._weights = weights
        self._activations = activations
        self.stored = _in_graph_order(network, weights)
        formats = {name: stored.format for name, stored in self.stored.items()}
        axes = {name: stored.channel_axis for name, stored in self.stored.items()}
        usual = {site.weight: site.channel_axis for site in network.sites}
        products_of_sites = packed_products(network, formats, products)
        self.products = {name: found for name, found in products_of_sites.items() if axes[name] == usual[name]}
        quantized = {name: axes[name] for name in with_kernels(formats)}
        uses = kernel_uses(network, quantized, {name: a.format for name, a in activations.items()})
        self.uses = without_products(uses, self.products)
        self._biases: dict[str, list[tuple[NDArray[np.float32], float]]] = {}
        for use in self.uses:
            if use.integer and use.bias is not None:
                self._biases.setdefault(use.weight, []).append((self._values(use), activations[use.input].scale))

    def weight(self, name: str) -> QuantizedWeight:
        """As it is stored.

        Raises:
            QuantizationError: it is not what was stated for it.
        """
        weight, stated = self._weights[name], self.stored[name]
        if (weight.format, weight.shape) != (stated.format, stated.shape) or not lies_along(
            weight, stated.channel_axis
        ):
            raise QuantizationError(
                f"weight {name} was made as {weight.format.name} of shape {weight.shape}, which is not what is stated "
                f"for it: {stated.format.name} of shape {stated.shape} along axis {stated.channel_axis}"
            )
        if name in self._biases and isinstance(weight, IntegerWeight):
            return fit(weight, self._biases[name])
        return weight

    def values(self, name: str) -> list[Bytes]:
        """Of the tensors of the file that hold the weight."""
        weight = self.weight(name)
        if name in self.products and isinstance(weight, IntegerWeight):
            return list(product_values(weight, self.products[name]))
        return [tensor.raw_data for tensor in weight.tensors(self._network.opset)]

    def biases(self, *, codes: bool) -> dict[str, NDArray[Any]]:
        """By node name: of integer kernels their `codes` or the values that these stand for, of others the values."""
        found: dict[str, NDArray[Any]] = {}
        for use in self.uses:
            if use.bias is None:
                continue
            values = self._values(use)
            weight = self.weight(use.weight) if use.integer else None
            if isinstance(weight, IntegerWeight):
                scale = self._activations[use.input].scale
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


def _in_graph_order(network: Network, weights: Mapping[str, QuantizedWeight]) -> dict[str, StoredAs]:
    """How `weights` are stored, in the order of the graph's initializers, so that the file does not depend on the
    caller's order."""
    axes = {site.weight: site.channel_axis for site in network.sites}
    formats = formats_of(weights)
    for name in formats:
        tensor = network.initializers.get(name)
        if tensor is None or tensor.data_type != onnx.TensorProto.FLOAT:
            found = "none" if tensor is None else f"one of type {tensor.data_type}"
            raise QuantizationError(f"weight {name} must replace a float32 initializer; the network has {found}")
        shape = tuple(tensor.dims)
        if isinstance(weights, RoundedOnDemand):
            continue  # it is made from this tensor
        if weights[name].shape != shape:
            raise QuantizationError(
                f"weight {name} must replace an initializer of shape {weights[name].shape}; the network has {shape}"
            )
        axes[name] = _channel_axis(name, weights[name], axes.get(name, 0))
    return {
        name: StoredAs(formats[name], tuple(tensor.dims), axes[name])
        for name, tensor in network.initializers.items()
        if name in formats
    }


def _channel_axis(name: str, weight: QuantizedWeight, usual: int) -> int:
    """The axis along which the weight was rounded, `usual` where it may be that."""
    axes: list[int] = [usual, *range(len(weight.shape))]
    for axis in axes:
        if lies_along(weight, axis):
            return axis
    raise QuantizationError(
        f"weight {name} of shape {weight.shape} shares its scales as {weight.format.name} does along none of its axes; "
        "round it along the axis of its output channels"
    )


def _too_large(size_bytes: int) -> ExportTooLarge:
    return ExportTooLarge(
        f"the file would have {size_bytes} bytes or more, and an ONNX file in one piece has at most {LARGEST_MESSAGE};"
        " plan fewer bits for it (limits.max_size_bytes of a job), split the network, or let"
        " `quantization.export.write` write it in two files"
    )
