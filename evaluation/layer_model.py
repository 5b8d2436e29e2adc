"""One layer of a network as an ONNX file of its own, in a format, to be timed.

The file holds the network's own node with its attributes, and nothing that differs between layers of equal shape: its
values are made up and its names fixed. So equal layers give equal bytes, and are timed once. Times of dense kernels do
not depend on values. Between its runs as many bytes are read as the network's weights have, up to `MOST_BETWEEN`: so a
layer finds its weight as far away as inside of the network.

A layer that reads an 8-bit activation stands between 8-bit tensors, as inside of a network whose layers are all
quantized: what it reads and writes are codes, and their conversion at the borders of the network is not part of it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Container, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from evaluation.latency import Timed
from evaluation.runner import Arrays
from network.graph import ChannelAxis, Layer, Network
from network.normalise import from_proto
from quantization.activations.quantized import QuantizedActivation
from quantization.export.export import export
from quantization.export.passes import rename_reads
from quantization.export.products import Products, packed_products
from quantization.formats import Format, IntegerFormat, UnsignedFormat
from quantization.granularity import scale_shape
from quantization.storage.half_scales import round_scales
from quantization.storage.weights import IntegerWeight

WEIGHT, VIEW, OUTPUT = "w", "v", "y"
# values are repeated from this many, so that a large weight takes no time to make
_PATTERN = 4099
# read between the runs of a layer at most: more than the caches of one core hold
MOST_BETWEEN = 16 << 20


def inputs_of(network: Network, layer: Layer) -> tuple[str, ...]:
    """The tensors that a layer reads beside its weight and other initializers."""
    return tuple(
        dict.fromkeys(
            name
            for name in network.nodes[layer.name].input
            if name and name != layer.read_as and name not in network.initializers
        )
    )


def layer_model(
    network: Network,
    layer: Layer,
    inputs: Arrays,
    format_: Format,
    activation: UnsignedFormat | None = None,
    products: Products = Products.FLOAT,
) -> Timed:
    """The layer with its weight in `format_`.

    Args:
        network: that the layer is of.
        layer: any of it.
        inputs: an array for each of `inputs_of`, the samples of one run.
        format_: of the weight.
        activation: of what the layer reads and writes; None leaves it float.
        products: how layers multiply that read floats.
    """
    fed = {f"x{index}": np.asarray(inputs[name]) for index, name in enumerate(inputs_of(network, layer))}
    single = _single(network, layer, fed)
    site = next(site for site in single.sites if site.weight == WEIGHT)
    weights = {}  # what no product of integers takes is unpacked at load, and runs as float
    packed = packed_products(network, {layer.weight: format_}, products)
    products = products if packed else Products.FLOAT
    if isinstance(format_, IntegerFormat) and (format_.has_kernel or packed):
        weights[WEIGHT] = made_up_weight(format_, site.shape, site.channel_axis)
    between = min(MOST_BETWEEN, 4 * sum(site.size for site in network.sites))
    if activation is None:
        return Timed(export(single, weights, {}, products=products), fed, between)
    grid = made_up_grid(activation)
    model = onnx.ModelProto.FromString(export(single, weights, {}, {"x0": grid, OUTPUT: grid}, products=products))
    _feed_codes(model.graph, TensorProto.UINT8 if activation.bits <= 8 else TensorProto.UINT16)
    codes = np.random.default_rng(0).integers(0, activation.highest_code + 1, fed["x0"].shape)
    codes = codes.astype(np.uint8 if activation.bits <= 8 else np.uint16)
    return Timed(model.SerializeToString(deterministic=True), {**fed, "x0": codes}, between)


def network_model(
    network: Network,
    formats: Mapping[str, Format],
    activations: Mapping[str, UnsignedFormat],
    products: Products = Products.FLOAT,
    unpacked: Container[str] = (),
) -> bytes:
    """The whole network with its weights in `formats`, by initializer name, and its `activations`, by tensor name, in
    others; values that are made up have the spread of the network's own.

    Raises:
        QuantizationError, ExportTooLarge: as `quantization.export.export`.
    """
    packed = packed_products(network, formats, products, unpacked)
    weights = {}
    for site in network.sites:
        format_ = formats.get(site.weight)
        if isinstance(format_, IntegerFormat) and (site.weight in packed or format_.has_kernel):
            largest = math.sqrt(3) * float(network.weight(site.weight).std())  # of a uniform distribution
            weights[site.weight] = made_up_weight(format_, site.shape, site.channel_axis, largest or 1.0)
    grids = {name: made_up_grid(format_) for name, format_ in activations.items()}
    return export(network, weights, {}, grids, products=products, unpacked=unpacked)


def digest(timed: Timed) -> str:
    """Hex SHA-256 of the file: equal for layers of equal shape in equal formats."""
    return hashlib.sha256(timed.model).hexdigest()


def _single(network: Network, layer: Layer, fed: Arrays) -> Network:
    """The layer alone, as a network with the fixed shapes of what it is fed."""
    node = onnx.NodeProto()
    node.CopyFrom(network.nodes[layer.name])
    names = dict(zip(inputs_of(network, layer), fed, strict=True)) | {layer.read_as: WEIGHT}
    nodes = [node]
    if layer.view:
        names |= {layer.view: VIEW, layer.weight: WEIGHT}
        nodes.insert(0, helper.make_node("Transpose", [WEIGHT], [VIEW], "view", perm=layer.order))
    constants = [name for name in dict.fromkeys(node.input) if name and name not in names]
    names |= {name: f"c{index}" for index, name in enumerate(constants)}
    node.name, node.doc_string = "layer", ""
    del node.metadata_props[:]
    renamed = [names.get(name, "") for name in node.input]
    del node.input[:]
    node.input.extend(renamed)
    place = next(place for place, name in enumerate(node.output) if name)
    node.output[:] = [*[""] * place, OUTPUT]
    tensors = [network.initializers[name] for name in (layer.weight, *constants)]
    graph = helper.make_graph(
        nodes,
        "layer",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), list(array.shape))
            for name, array in fed.items()
        ],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, None)],
        [_made_up_tensor(tensor, names[tensor.name]) for tensor in tensors],
    )
    opsets = [helper.make_opsetid("", network.opset)]
    return from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=network.proto.ir_version))


def _made_up_tensor(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    if tensor.data_type != TensorProto.FLOAT:
        return numpy_helper.from_array(numpy_helper.to_array(tensor), name)
    pattern = np.random.default_rng(0).standard_normal(_PATTERN).astype(np.float32)
    return numpy_helper.from_array(np.resize(0.1 * pattern, tuple(tensor.dims)), name)


def made_up_grid(format_: UnsignedFormat) -> QuantizedActivation:
    """Values from about -2.5 to 2.5."""
    middle = (format_.highest_code + 1) // 2
    return QuantizedActivation(format_, float(np.float32(2.56 / middle)), middle)


def made_up_weight(
    format_: IntegerFormat, shape: tuple[int, ...], channel_axis: ChannelAxis, largest: float = 0.1
) -> IntegerWeight:
    """Codes of all sizes, for values up to about `largest`."""
    pattern = np.random.default_rng(0).integers(format_.lowest_code, format_.highest_code + 1, _PATTERN)
    shares = scale_shape(format_, shape, channel_axis)
    scale = round_scales(np.full(shares, largest / -format_.lowest_code, dtype=np.float32))
    zero_point = None if format_.symmetric else np.ones(shares, dtype=np.int8)
    return IntegerWeight(format_, np.resize(pattern.astype(np.int8), shape), scale, zero_point)


def _feed_codes(graph: onnx.GraphProto, codes: int) -> None:
    """Let the graph read and write codes of this type, without its first QuantizeLinear and last DequantizeLinear."""
    first = next(node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == "x0")
    last = next(node for node in graph.node if node.op_type == "DequantizeLinear" and node.output[0] == OUTPUT)
    rename_reads(graph, first.output[0], "x0")
    next(value for value in graph.input if value.name == "x0").type.tensor_type.elem_type = codes
    graph.output[0].CopyFrom(helper.make_tensor_value_info(last.input[0], codes, None))
    graph.node.remove(first)
    graph.node.remove(last)
