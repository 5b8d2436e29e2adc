"""Layers that read floats and multiply on integers: which they are, and how a file has them.

A weight is usually turned into float32 when the file is loaded. There are two other ways, each for formats of its own:

    blocks          `quantization.export.matmul_nbits`      ONNX Runtime's MatMulNBits, every row rounded by itself
    int8/channel    `quantization.export.matmul_integer`    standard ONNX, the input of a call rounded at one scale
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from enum import StrEnum

import onnx
from onnx import TensorProto

from network.graph import Network
from network.onnx_graph import attributes
from quantization.export import matmul_integer, matmul_nbits
from quantization.export.passes import Missing
from quantization.export.product import Product
from quantization.formats import Format, Granularity, IntegerFormat
from quantization.storage.parts import Part
from quantization.storage.weights import IntegerWeight


class Products(StrEnum):
    """How layers multiply float inputs with quantized weights.

    `FLOAT`: as float32 weights, made at load: exact, and plain ONNX.
    `PACKED`: weights in blocks by MatMulNBits, on inputs whose rows are rounded to int8 codes.
    `DYNAMIC`: those, and `int8/channel` by MatMulInteger, on inputs that are rounded to uint8 codes, where the network
    fixes how many samples share a call.
    """

    FLOAT = "float"
    PACKED = "packed"
    DYNAMIC = "dynamic"


def packed_products(
    network: Network,
    formats: Mapping[str, Format],
    products: Products,
    unpacked: Container[str] = (),
    activations: Container[str] = (),
) -> dict[str, Product]:
    """The weights that are multiplied packed, by initializer name: those that only MatMul, and Gemm with at most a
    vector added, read, as the right factor.

    A call's one scale comes from all its samples, so that they round each other. Where a network leaves the number of
    samples open, nobody knows with how many the file will be called, and no scale is that of a call.

    Args:
        unpacked: weights that are turned into float32 at load all the same.
        activations: tensors that are quantized; who reads them has no use for a scale of each call.
    """
    outputs = {spec.name for spec in network.outputs}
    packed = {}
    for site in network.sites:
        nodes, format_ = network.readers.get(site.weight, ()), formats.get(site.weight)
        if not has_product(format_, products) or site.weight in outputs or len(site.shape) != 2:
            continue
        if site.weight in unpacked:
            continue
        if not is_in_blocks(format_) and (
            network.static_batch is None or len(nodes) != 1 or nodes[0].input[0] in activations
        ):
            continue
        kinds = {_transposed(network, node, site.weight) for node in nodes}
        if len(kinds) == 1 and (transposed := kinds.pop()) is not None:
            rows, columns = site.shape[::-1] if transposed else site.shape
            if site.channel_axis == (0 if transposed else 1):
                packed[site.weight] = Product(frozenset(node.name for node in nodes), rows, columns, transposed)
    return packed


def has_product(format_: Format | None, products: Products) -> bool:
    """Whether weights of this format are multiplied on integers."""
    if products is Products.FLOAT or not isinstance(format_, IntegerFormat):
        return False
    if is_in_blocks(format_):
        return matmul_nbits.has_product(format_)
    return products is Products.DYNAMIC and format_ == matmul_integer.FORMAT


def is_in_blocks(format_: Format | None) -> bool:
    """Whether weights share their scales in blocks: MatMulNBits has them, MatMulInteger all others."""
    return isinstance(format_, IntegerFormat) and format_.granularity is Granularity.BLOCK


def product_parts(format_: IntegerFormat, rows: int, columns: int) -> tuple[Part, ...]:
    """What the file holds of a weight, in the order of its tensors.

    Raises:
        ValueError: the rows do not divide into the blocks of the format.
    """
    if is_in_blocks(format_):
        return matmul_nbits.product_parts(format_, rows, columns)
    return matmul_integer.product_parts(rows, columns)


def product_values(weight: IntegerWeight, product: Product) -> list[bytes]:
    """The values of `product_parts`."""
    if is_in_blocks(weight.format):
        return matmul_nbits.product_values(weight, product)
    return matmul_integer.product_values(weight, product)


def operators(
    node: onnx.NodeProto, product: Product, format_: IntegerFormat, names: list[str], suffix: str
) -> list[onnx.NodeProto]:
    """All nodes in place of a layer, with the tensors of its weight called `names`."""
    if is_in_blocks(format_):
        return [matmul_nbits.operator(node, product, format_, names)]
    return [*matmul_integer.rounding(node.input[0], suffix), *matmul_integer.operators(node, names, suffix, suffix)]


def store_products(
    draft: onnx.ModelProto, formats: Mapping[str, IntegerFormat], products: Mapping[str, Product]
) -> dict[str, Missing]:
    """Give the graph tensors for weights that are multiplied packed, and turn their layers into the operators.

    Args:
        draft: without the weights.
        formats: by initializer name, of the weights of `products`.
        products: by initializer name.

    Returns:
        What is missing of the tensors, by their names (`product_values`).
    """
    blocks, others = _split(formats, products)
    return matmul_nbits.store_products(draft, formats, blocks) | matmul_integer.store_products(draft, others)


def round_inputs(draft: onnx.ModelProto, formats: Mapping[str, IntegerFormat], products: Mapping[str, Product]) -> None:
    """Let layers that multiply packed read what the operators round their input to, in operators of plain ONNX.

    Args:
        draft: with the layers as MatMul and Gemm.
        formats: by initializer name, of the weights of `products`.
        products: by initializer name.
    """
    blocks, others = _split(formats, products)
    matmul_nbits.round_inputs(draft, formats, blocks)
    matmul_integer.round_inputs(draft, others)


def _split(
    formats: Mapping[str, IntegerFormat], products: Mapping[str, Product]
) -> tuple[dict[str, Product], dict[str, Product]]:
    """The products of weights in blocks, and all others."""
    blocks = {name: product for name, product in products.items() if is_in_blocks(formats[name])}
    return blocks, {name: product for name, product in products.items() if name not in blocks}


def _transposed(network: Network, node: onnx.NodeProto, weight: str) -> bool | None:
    """Whether the node multiplies with the weight's transpose; None where it is no such product."""
    if list(node.input).count(weight) != 1 or node.input[1:2] != [weight]:
        return None
    if node.op_type == "MatMul":
        return False
    given = attributes(node)
    if node.op_type != "Gemm" or given.get("transA", 0) or given.get("alpha", 1) != 1 or given.get("beta", 1) != 1:
        return None
    transposed = bool(given.get("transB", 0))
    if len(node.input) > 2 and node.input[2]:
        bias = network.initializers.get(node.input[2])
        columns = network.initializers[weight].dims[0 if transposed else 1]
        if bias is None or bias.data_type != TensorProto.FLOAT or list(bias.dims) != [columns]:
            return None
    return transposed
