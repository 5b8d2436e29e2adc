"""Bytes of the file that `quantization.export.export` writes, known without writing it.

A file is its skeleton (everything but the site weights), plus what each weight adds, plus one function for each digit
layout in use. Only the last does not belong to one site: `skeleton_bytes` counts the functions of all formats that a
plan may choose from (1,500 bytes for integers of all widths, below opset 25 3,500). So the sum over sites is additive,
and never below the file but for the few bytes by which length prefixes grow. `file_bytes` is exact.

Quantized activations cost their nodes, scales and zero points, and the form of the biases behind them. The sum over
sites (`activation_bytes`) is not below the file, but for the few bytes by which prefixes grow; how a layer runs, on
integers or in floats, depends on both its ends, and the sum counts the larger form.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import onnx
from onnx import TensorProto, helper

from network.activations import moved_from
from network.graph import Network, Site
from quantization.activations.kernels import (
    KernelUse,
    WeightKernel,
    kernel_uses,
    made_for,
    weight_kernels,
    with_kernels,
)
from quantization.activations.quantized import QuantizedActivation
from quantization.export.activation_passes import QuantizeTensors, StoreBiases
from quantization.export.leftovers import StoreHalves
from quantization.export.matmul_nbits import (
    Product,
    Products,
    StoreProducts,
    operator,
    packed_products,
    product_parts,
    without_products,
)
from quantization.export.passes import (
    KERNEL_LETTER,
    SUFFIX_LENGTH,
    AddMetadata,
    DropDebris,
    apply,
    draft_without,
    read_instead,
)
from quantization.export.write_fields import GRAPH, INITIALIZER, RAW_DATA, field_size
from quantization.formats import FloatFormat, Format, IntegerFormat, UnsignedFormat
from quantization.storage.dequantize import bias_function
from quantization.storage.packing import NATIVE_OPSET
from quantization.storage.parts import DIGITS, SCALE, NotStorable, storage
from quantization.storage.unpacking import DOMAIN, DOMAIN_VERSION

_NO_ACTIVATIONS: Mapping[str, UnsignedFormat] = MappingProxyType({})
_SUFFIX = "0" * SUFFIX_LENGTH
# numbers of fields, of ModelProto and GraphProto
_FUNCTIONS = 25
_NODE = 1


def weight_bytes(
    format_: Format,
    shape: tuple[int, ...],
    channel_axis: int,
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
    layer = operator(onnx.NodeProto(input=[""]), product, format_, names, Products.PACKED_INTEGERS)
    return len(product.nodes) * int(layer.ByteSize()) + sum(
        _initializer_bytes(called, part.data_type, part.dims, part.size_bytes)
        for called, part in zip(names, parts, strict=True)
    )


def activation_bytes(
    network: Network, tensors: Iterable[str], format_: UnsignedFormat, halves: Collection[str] = ()
) -> int:
    """What quantizing `tensors`, those of one site, adds to the file at most, in bytes.

    Of layers that read them the bias is counted in its larger form, that of a layer in floats.
    """
    activations = dict.fromkeys(tensors, format_)
    quantized = _skeleton(network, {}, activations, kernel_uses(network, {}, activations), halves)
    added = quantized.ByteSize() - _skeleton(network, {}, {}, (), halves).ByteSize()
    return int(added) + _second_forms(network, activations)


def _second_forms(network: Network, activations: Mapping[str, UnsignedFormat]) -> int:
    """What weights add at most that integer kernels take because of `activations`, and others in floats: scales and a
    call."""
    axes = {site.weight: site.channel_axis for site in network.sites}
    sites = {site.weight: site for site in network.sites}
    kernels = weight_kernels(network, kernel_uses(network, axes, activations))
    widest = IntegerFormat(7)  # of most digits
    total = 0
    for name, kernel in kernels.items():
        if kernel.others:
            shape, axis = sites[name].shape, sites[name].channel_axis
            both, one = (_weight_bytes(widest, shape, axis, name, k, network.opset) for k in (kernel, None))
            total += both - one
    return total


def skeleton_bytes(
    network: Network,
    formats: Iterable[Format] = (),
    metadata: Mapping[str, str] | None = None,
    *,
    activations: bool = False,
    halves: Collection[str] = (),
) -> int:
    """The file without the weights of any site, in bytes, with the functions of all `formats` (see the module), those
    for integer kernels among them where there may be quantized `activations`."""
    functions = {
        body for format_ in formats for site in network.sites for body in _bodies(network, site, format_, activations)
    }
    if activations:
        functions.add(bias_function(network.opset))
    return int(_skeleton(network, metadata or {}, {}, (), halves).ByteSize()) + _functions_bytes(functions)


def file_bytes(
    network: Network,
    plan: Mapping[str, Format],
    metadata: Mapping[str, str] | None = None,
    activations: Mapping[str, UnsignedFormat] = _NO_ACTIVATIONS,
    *,
    products: Products = Products.FLOAT,
    halves: Collection[str] = (),
) -> int:
    """The size in bytes of what `export` writes for `plan`, a format by initializer name, float32 where none is given,
    and `activations`, a format by tensor name, whose layers multiply as `products` says, with the
    other initializers in `halves` as float16.

    Exact, but for up to eight bytes a name in networks of more than 3,844 quantized weights and activations.
    """
    formats = {site.weight: (site, plan.get(site.weight, FloatFormat())) for site in network.sites}
    by_name = {name: found for name, (_, found) in formats.items()}
    multiplied = packed_products(network, by_name, products)
    quantized = {name: formats[name][0].channel_axis for name in with_kernels(by_name)}
    uses = without_products(kernel_uses(network, quantized, activations), multiplied)
    kernels = weight_kernels(network, uses)
    skeleton = _skeleton(network, metadata or {}, activations, uses, halves)
    graph = _with_products(skeleton, by_name, multiplied, products) + sum(
        _weight_bytes(format_, site.shape, site.channel_axis, name, kernels.get(name), network.opset)
        for name, (site, format_) in formats.items()
        if name not in multiplied
    )
    skeleton.ClearField("graph")
    functions = {
        body
        for name, (site, format_) in formats.items()
        if not isinstance(format_, (FloatFormat, UnsignedFormat)) and name not in multiplied
        for axis in made_for(kernels.get(name))
        for body in storage(format_, site.shape, site.channel_axis, axis, network.opset).function.bodies().values()
    }
    if any(use.integer and use.bias is not None and use.bias.initializer is not None for use in uses):
        functions.add(bias_function(network.opset))
    return int(skeleton.ByteSize()) + _functions_bytes(functions) + field_size(GRAPH, graph)


def _with_products(
    skeleton: onnx.ModelProto, formats: Mapping[str, Format], multiplied: Mapping[str, Product], products: Products
) -> int:
    """Let the skeleton multiply packed; the bytes of its graph with those weights."""
    integers = {name: found for name in multiplied if isinstance(found := formats[name], IntegerFormat)}
    stored = StoreProducts(integers, multiplied, products)
    apply(skeleton, [stored])
    tensors = {tensor.name: tensor for tensor in skeleton.graph.initializer}
    return int(skeleton.graph.ByteSize()) + sum(
        _initializer_bytes(name, tensors[name].data_type, tuple(tensors[name].dims), part.size_bytes)
        - field_size(INITIALIZER, tensors[name].ByteSize())
        for name, part in stored.packed.items()
    )


def _weight_bytes(
    format_: Format, shape: tuple[int, ...], channel_axis: int, name: str, kernel: WeightKernel | None, opset: int
) -> int:
    if isinstance(format_, FloatFormat):
        return _initializer_bytes(name, TensorProto.FLOAT, shape, 4 * math.prod(shape))
    if isinstance(format_, UnsignedFormat):
        raise TypeError(f"{format_.name} is a format of activations, and {name} is a weight")
    total = 0
    for number, axis in enumerate(made_for(kernel)):
        stored = storage(format_, shape, channel_axis, axis, opset)
        names = [part.letter + _SUFFIX for part in stored.parts]
        total += sum(
            _initializer_bytes(part_name, part.data_type, part.dims, part.size_bytes)
            for part, part_name in zip(stored.parts, names, strict=True)
            if number == 0 or part.letter not in DIGITS
        )
        made = KERNEL_LETTER + _SUFFIX if axis is not None and kernel is not None and kernel.others else name
        total += field_size(_NODE, stored.call(names, made).ByteSize())
    return total


def _bodies(network: Network, site: Site, format_: Format, activations: bool) -> Iterator[bytes]:
    """The functions that a weight may need in this format; none where it cannot have it."""
    if isinstance(format_, (FloatFormat, UnsignedFormat)):
        return
    kernel = activations and isinstance(format_, IntegerFormat) and format_.has_kernel
    for axis in (None, site.channel_axis) if kernel else (None,):
        try:
            yield from storage(format_, site.shape, site.channel_axis, axis, network.opset).function.bodies().values()
        except NotStorable:
            return


def _skeleton(
    network: Network,
    metadata: Mapping[str, str],
    activations: Mapping[str, UnsignedFormat],
    uses: Sequence[KernelUse],
    halves: Collection[str],
) -> onnx.ModelProto:
    """The file without weights and functions; scales, zero points and biases have their sizes, not their values."""
    draft = draft_without(network.proto, {site.weight for site in network.sites})
    parameters = {name: QuantizedActivation(format_, 1.0, 0) for name, format_ in activations.items()}
    apply(draft, [DropDebris(), QuantizeTensors(parameters, moved_from(network))])
    for weight, kernel in weight_kernels(network, uses).items():
        if kernel.others:
            read_instead(draft.graph, kernel.nodes, weight, KERNEL_LETTER + _SUFFIX)
    scales = {use.node: (SCALE + _SUFFIX,) * 2 for use in uses if use.integer}
    biases = {
        use.node: np.zeros(use.bias.channels, dtype=np.int32 if use.integer else np.float32)
        for use in uses
        if use.bias is not None
    }
    stored = StoreHalves(halves, network.initializers, small=sys.maxsize)
    apply(draft, [StoreBiases(uses, biases, scales), stored, AddMetadata(metadata)])
    draft.ClearField("functions")  # counted with those of the weights
    imports = [entry for entry in draft.opset_import if entry.domain != DOMAIN]
    del draft.opset_import[:]
    draft.opset_import.extend(imports)
    return draft


def _functions_bytes(functions: Collection[bytes]) -> int:
    """Functions, each once, and the import of their domain."""
    domain = onnx.ModelProto(opset_import=[helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]).ByteSize()
    return sum(field_size(_FUNCTIONS, len(body)) for body in functions) + (domain if functions else 0)


def _initializer_bytes(name: str, data_type: int, dims: tuple[int, ...], raw_bytes: int) -> int:
    header = TensorProto(name=name, data_type=data_type, dims=dims).ByteSize()
    return field_size(INITIALIZER, header + field_size(RAW_DATA, raw_bytes))
