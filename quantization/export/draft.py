"""A file without its large values: everything that says what it computes, and how long it will be."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from numpy.typing import NDArray

from network.activations import moved_from
from network.graph import Network
from quantization.activations.kernels import KernelUse, WeightKernel, kernel_uses, weight_kernels, with_kernels
from quantization.activations.quantized import QuantizedActivation
from quantization.errors import ExportTooLarge
from quantization.export.activation_passes import quantize_tensors, store_biases
from quantization.export.leftovers import store_halves
from quantization.export.messages import LARGEST_MESSAGE, draft_without, file_size
from quantization.export.passes import Missing, StoredAs, add_metadata, drop_debris, store_packed
from quantization.export.product import Product
from quantization.export.products import Products, packed_products, store_products
from quantization.formats import IntegerFormat, UnsignedFormat

# Bytes. The values of larger initializers are not copied into a draft.
_SMALL = 1 << 16


@dataclass(frozen=True, slots=True)
class Layout:
    """How the layers of a network take their weights: `stored` is in graph order, `products` are multiplied packed,
    `uses` and `kernels` are the layers and weights of integer kernels, and layers that are kept off them."""

    stored: Mapping[str, StoredAs]
    products: Mapping[str, Product]
    uses: tuple[KernelUse, ...]
    kernels: Mapping[str, WeightKernel]

    @property
    def product_formats(self) -> dict[str, IntegerFormat]:
        """Of the weights that are multiplied packed, by initializer name."""
        return {name: f for name in self.products if isinstance(f := self.stored[name].format, IntegerFormat)}

    @classmethod
    def of(
        cls,
        network: Network,
        stored: Mapping[str, StoredAs],
        activations: Mapping[str, UnsignedFormat],
        products: Products = Products.FLOAT,
        unpacked: Container[str] = (),
    ) -> Layout:
        """For weights by initializer name, and formats of activations by tensor name; weights that are `unpacked` at
        load, whatever `products` says."""
        formats = {name: weight.format for name, weight in stored.items()}
        usual = {site.weight: site.channel_axis for site in network.sites}
        multiplied = {
            name: product
            for name, product in packed_products(network, formats, products, unpacked, activations).items()
            if stored[name].channel_axis == usual[name]
        }
        axes = {name: stored[name].channel_axis for name in with_kernels(formats)}
        # ONNX Runtime rounds nothing of a layer that multiplies packed
        uses = tuple(use for use in kernel_uses(network, axes, activations) if use.weight not in multiplied)
        return cls(stored, multiplied, uses, weight_kernels(network, uses))


@dataclass(frozen=True, slots=True)
class Draft:
    """A file but for the values that are `missing`, by tensor name."""

    model: onnx.ModelProto
    missing: Mapping[str, Missing]

    @property
    def size_bytes(self) -> int:
        """Of the file."""
        return file_size(self.model, {name: values.size_bytes for name, values in self.missing.items()})

    def filled(self, values: Callable[[str], Sequence[bytes]]) -> bytes:
        """The file, once. `values` gives those of the tensors that store an initializer.

        Raises:
            ExportTooLarge: it would pass what a protobuf message may have.
        """
        if (size := self.size_bytes) > LARGEST_MESSAGE:
            raise too_large(size)
        initializer = ""
        held: Sequence[bytes] = ()
        for tensor in self.model.graph.initializer:
            if (missing := self.missing.get(tensor.name)) is None:
                continue
            if missing.initializer != initializer:  # its tensors follow each other
                initializer, held = missing.initializer, values(missing.initializer)
            tensor.raw_data = held[missing.place]
        return bytes(self.model.SerializeToString(deterministic=True))


def draft_file(
    network: Network,
    layout: Layout,
    activations: Mapping[str, QuantizedActivation],
    biases: Mapping[str, NDArray[Any]],
    metadata: Mapping[str, str],
    halves: Collection[str],
    dropped: Collection[str] = (),
) -> Draft:
    """The file that stores weights as `layout` says.

    Args:
        biases: by node name, of all uses in the layout that have a bias.
        halves: other initializers that are stored as float16.
        dropped: initializers that are left out.

    Raises:
        QuantizationError: an activation is no value of the main graph or differs from the one whose values it moves, a
            bias is not finite, or the network's opset is too old.
    """
    absent = {*layout.stored, *dropped}
    own = {
        name: Missing(name, 0, len(tensor.raw_data))
        for name, tensor in network.initializers.items()
        if name not in absent and len(tensor.raw_data) > _SMALL
    }
    model = draft_without(network.proto, absent, own)
    drop_debris(model)
    input_scales = quantize_tensors(model, activations, moved_from(network))
    packed = store_packed(
        model, {name: weight for name, weight in layout.stored.items() if name not in layout.products}, layout.kernels
    )
    products = store_products(model, layout.product_formats, layout.products)
    scales = {
        use.node: (input_scales[use.input], packed.kernel_scales[use.weight]) for use in layout.uses if use.integer
    }
    store_biases(model, layout.uses, biases, scales)
    stored_halves = store_halves(model, halves)
    add_metadata(model, metadata)
    return Draft(model, own | stored_halves | packed.missing | products)


def too_large(size_bytes: int) -> ExportTooLarge:
    return ExportTooLarge(
        f"the file would have {size_bytes} bytes or more; protobuf, and so an ONNX file, holds at most "
        f"{LARGEST_MESSAGE} (2 GB): allow fewer bits for its weights, or split the network into several files"
    )
