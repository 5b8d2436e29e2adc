"""Bytes of the file that `quantization.export.export` writes, known without writing it.

`file_bytes` counts a draft of the file, without its large values (`quantization.export.draft`), and is exact. Plans are
searched with a sum: the skeleton (everything but the site weights), what each weight adds, and what each quantized
activation adds. The sum leaves out the functions that unpack weights, which sites share (1,500 bytes for integers of
all widths, below opset 25 3,500); else it is not below the file but for the few bytes by which length prefixes grow.

Quantized activations cost their nodes, scales and zero points, and the form of the biases behind them; how a layer
runs, on integers or in floats, depends on both its ends, and the sum counts the larger form.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Container, Iterable, Mapping
from types import MappingProxyType

import numpy as np
import onnx
from onnx import TensorProto, helper

from network.graph import ChannelAxis, Network
from network.message_size import field_size
from quantization.activations.kernels import WeightKernel, kernel_uses, weight_kernels
from quantization.activations.quantized import QuantizedActivation
from quantization.export.draft import Draft, Layout, draft_file
from quantization.export.messages import FUNCTIONS, INITIALIZER, NODE, RAW_DATA
from quantization.export.passes import SUFFIX_LENGTH, StoredAs, store_packed
from quantization.export.product import Product
from quantization.export.products import Products, is_in_blocks, operators, product_parts
from quantization.formats import FloatFormat, Format, IntegerFormat, UnsignedFormat
from quantization.storage.dequantize import bias_function
from quantization.storage.packing import NATIVE_OPSET
from quantization.storage.unpacking import DOMAIN, DOMAIN_VERSION

_NO_ACTIVATIONS: Mapping[str, UnsignedFormat] = MappingProxyType({})
_SUFFIX = "0" * SUFFIX_LENGTH


def weight_bytes(
    format_: Format,
    shape: tuple[int, ...],
    channel_axis: ChannelAxis,
    name: str,
    product: Product | None = None,
    opset: int = NATIVE_OPSET,
) -> int:
    """What storing the initializer `name` of `shape` in `format_` adds to the file, in bytes, for a layer in floats.

    Exact for the first 3,844 weights of a network; each later one takes up to eight bytes more for longer names. For
    layers that multiply packed, as `product`, not below it: the operator counts whole beside the layer it replaces.
    """
    if product is None or not isinstance(format_, IntegerFormat):
        return _weight_bytes(format_, shape, channel_axis, name, None, opset)
    parts = product_parts(format_, product.rows, product.columns)
    names = [part.letter + _SUFFIX if part.letter else name for part in parts]
    layer = onnx.NodeProto(input=["", "", ""], output=[""])  # with a bias, which a Gemm may have
    made = operators(layer, product, format_, names, _SUFFIX)
    size = len(product.nodes) * sum(field_size(NODE, node.ByteSize()) for node in made) + sum(
        _initializer_bytes(called, part.data_type, part.dims, part.size_bytes)
        for called, part in zip(names, parts, strict=True)
    )
    # where what the layer reads is quantized, an integer kernel takes the weight instead
    return size if is_in_blocks(format_) else max(size, _weight_bytes(format_, shape, channel_axis, name, None, opset))


def activation_bytes(
    network: Network, tensors: Iterable[str], format_: UnsignedFormat, halves: Collection[str] = ()
) -> int:
    """What quantizing `tensors`, those of one site, adds to the file at most, in bytes.

    Of layers that read them the bias is counted in its larger form, that of a layer in floats.
    """
    activations = dict.fromkeys(tensors, format_)
    added = _skeleton(network, activations, halves) - _skeleton(network, {}, halves)
    return added + _second_forms(network, activations)


def _second_forms(network: Network, activations: Mapping[str, UnsignedFormat]) -> int:
    """What weights add at most that several nodes read, integer kernels among them because of `activations`: scales and
    a call where others read them in floats, names where each kernel reads codes of its own."""
    axes = {site.weight: site.channel_axis for site in network.sites}
    sites = {site.weight: site for site in network.sites}
    kernels = weight_kernels(network, kernel_uses(network, axes, activations))
    largest = (IntegerFormat(7), IntegerFormat(8))  # of most digits, and of most copies
    total = 0
    for name, kernel in kernels.items():
        if kernel.others or len(kernel.nodes) > 1:
            shape, axis = sites[name].shape, sites[name].channel_axis
            total += max(
                _weight_bytes(format_, shape, axis, name, kernel, network.opset)
                - _weight_bytes(format_, shape, axis, name, None, network.opset)
                for format_ in largest
            )
    return total


def skeleton_bytes(network: Network, *, activations: bool = False, halves: Collection[str] = ()) -> int:
    """The file without the weights of any site and the functions that unpack them, in bytes; with the function of
    biases of integer kernels where there may be quantized `activations`."""
    size = _skeleton(network, {}, halves)
    if activations:
        size += field_size(FUNCTIONS, len(bias_function(network.opset)))
        size += onnx.ModelProto(opset_import=[helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]).ByteSize()
    return size


def file_bytes(
    network: Network,
    plan: Mapping[str, Format],
    metadata: Mapping[str, str] | None = None,
    activations: Mapping[str, UnsignedFormat] = _NO_ACTIVATIONS,
    *,
    products: Products = Products.FLOAT,
    unpacked: Container[str] = (),
    halves: Collection[str] = (),
) -> int:
    """The size in bytes of what `export` writes for `plan`, a format by initializer name, float32 where none is given,
    and `activations`, a format by tensor name, whose layers multiply as `products` says but for those of `unpacked`
    weights, with the other initializers in `halves` as float16."""
    stored = {
        site.weight: StoredAs(format_, site.shape, site.channel_axis)
        for site in network.sites
        if not isinstance(format_ := plan.get(site.weight, FloatFormat()), (FloatFormat, UnsignedFormat))
    }
    return _draft(network, stored, metadata or {}, activations, products, halves, unpacked=unpacked).size_bytes


def _weight_bytes(
    format_: Format,
    shape: tuple[int, ...],
    channel_axis: ChannelAxis,
    name: str,
    kernel: WeightKernel | None,
    opset: int,
) -> int:
    if isinstance(format_, FloatFormat):
        return _initializer_bytes(name, TensorProto.FLOAT, shape, 4 * math.prod(shape))
    if isinstance(format_, UnsignedFormat):
        raise TypeError(f"{format_.name} is a format of activations, and {name} is a weight")
    draft = onnx.ModelProto(opset_import=[helper.make_opsetid("", opset)])
    kernels = {} if kernel is None else {name: kernel}
    missing = store_packed(draft, {name: StoredAs(format_, shape, channel_axis)}, kernels).missing
    initializers = sum(
        _initializer_bytes(tensor.name, tensor.data_type, tuple(tensor.dims), missing[tensor.name].size_bytes)
        for tensor in draft.graph.initializer
    )
    return initializers + sum(field_size(NODE, node.ByteSize()) for node in draft.graph.node)


def _skeleton(network: Network, activations: Mapping[str, UnsignedFormat], halves: Collection[str]) -> int:
    """Bytes of the file without the weights of any site."""
    weights = {site.weight for site in network.sites}
    return _draft(network, {}, {}, activations, Products.FLOAT, halves, weights).size_bytes


def _draft(
    network: Network,
    stored: Mapping[str, StoredAs],
    metadata: Mapping[str, str],
    activations: Mapping[str, UnsignedFormat],
    products: Products,
    halves: Collection[str],
    dropped: Collection[str] = (),
    unpacked: Container[str] = (),
) -> Draft:
    """A draft whose scales, zero points and biases have their sizes, not their values."""
    layout = Layout.of(network, stored, activations, products, unpacked)
    parameters = {name: QuantizedActivation(format_, 1.0, 0) for name, format_ in activations.items()}
    biases = {
        use.node: np.zeros(use.bias.channels, dtype=np.int32 if use.integer else np.float32)
        for use in layout.uses
        if use.bias is not None
    }
    return draft_file(network, layout, parameters, biases, metadata, halves, dropped)


def _initializer_bytes(name: str, data_type: int, dims: tuple[int, ...], raw_bytes: int) -> int:
    header = TensorProto(name=name, data_type=data_type, dims=dims).ByteSize()
    return field_size(INITIALIZER, header + field_size(RAW_DATA, raw_bytes))
