"""Products that ONNX Runtime computes from packed weights: its operator `com.microsoft.MatMulNBits`.

A weight in blocks is usually turned into float32 when the file is loaded. This operator reads it as it is stored at
every run instead, and multiplies on integers: at accuracy level 4 it rounds every row of its input to int8 codes, with
one scale for each of the weight's blocks (`round_inputs`). Plain ONNX knows no such operator; the file needs ONNX
Runtime.

    B            uint8 [columns, blocks, block * bits / 8]   code + 2**(bits-1), the first in the lowest bits
    scales       float32 [columns * blocks]                  may be negative, like ours
    zero points  uint8 [columns * bytes]                     packed per column, plus 2**(bits-1); none where symmetric

Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.MatMulNBits
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from quantization.export.messages import without_values
from quantization.export.passes import Missing, insert_nodes, short_names
from quantization.export.product import Product
from quantization.formats import IntegerFormat
from quantization.storage.packing import pack_unsigned
from quantization.storage.parts import SCALE, ZERO_POINT, Part
from quantization.storage.weights import IntegerWeight

DOMAIN = "com.microsoft"
OPERATOR = "MatMulNBits"
WEIGHT = ""  # what the names of B begin with: it has the weight's own name
BITS = (2, 4, 8)
"""Of weights that are multiplied packed."""
BLOCKS_OF_TWO_BITS = (32, 64, 128)
"""ONNX Runtime 1.31 has no kernel for 2 bits in other blocks: it makes the whole weight at every run, at 50 times the
time."""
ACCURACY_LEVEL = 4
"""Sums of int8 codes. At lower levels, in floats, 2 and 8 bits are 12 to 16 times slower than a float weight."""
LARGEST_CODE = 127
"""Of what a row of the input is rounded to."""
_LEAST = 1e-30  # of the largest value of a block, so that one of zeros is not divided by zero


def has_product(format_: IntegerFormat) -> bool:
    """Whether the operator multiplies weights of this format, one in blocks, on integers."""
    return format_.bits in BITS and (format_.bits > 2 or format_.block in BLOCKS_OF_TWO_BITS)


def product_parts(format_: IntegerFormat, rows: int, columns: int) -> tuple[Part, ...]:
    """What the file holds of a weight, in the order of the operator's inputs.

    Raises:
        ValueError: the format has no blocks, or the rows do not divide into them.
    """
    if not format_.block or rows % format_.block:
        raise ValueError(f"a weight of {rows} rows does not divide into the blocks of {format_.name}")
    blocks, width = rows // format_.block, format_.block * format_.bits // 8
    parts = [
        Part(WEIGHT, TensorProto.UINT8, (columns, blocks, width), columns * blocks * width),
        Part(SCALE, TensorProto.FLOAT, (columns * blocks,), 4 * columns * blocks),
    ]
    if not format_.symmetric:
        size = columns * math.ceil(blocks * format_.bits / 8)
        parts.append(Part(ZERO_POINT, TensorProto.UINT8, (size,), size))
    return tuple(parts)


def product_values(weight: IntegerWeight, product: Product) -> list[bytes]:
    """The values of `product_parts`."""
    by_column = (lambda array: array) if product.transposed else np.transpose
    bits = weight.format.bits
    shares = (product.columns, -1) if product.transposed else (-1, product.columns)
    values = [_packed(by_column(weight.codes), bits), by_column(weight.scale.reshape(shares)).tobytes()]
    if weight.zero_point is not None:
        values.append(_packed(by_column(weight.zero_point.reshape(shares)), bits))
    return values


def _packed(codes: NDArray[np.int8], bits: int) -> bytes:
    """`[columns, n]` codes from 0 on, each column in whole bytes."""
    from_zero = codes.view(np.uint8) + np.uint8(1 << (bits - 1))  # modulo 256
    from_zero &= np.uint8((1 << bits) - 1)
    padding = -codes.shape[1] % (8 // bits)
    if padding:
        from_zero = np.pad(from_zero, ((0, 0), (0, padding)))
    return pack_unsigned(np.ascontiguousarray(from_zero).reshape(-1), bits)


def store_products(
    draft: onnx.ModelProto, formats: Mapping[str, IntegerFormat], products: Mapping[str, Product]
) -> dict[str, Missing]:
    """Give the graph tensors for weights that are multiplied packed, and turn their layers into the operator.

    Args:
        draft: without the weights.
        formats: by initializer name, of the weights of `products`.
        products: by initializer name.

    Returns:
        What is missing of the tensors, by their names (`product_values`).
    """
    suffixes, missing = short_names(draft.graph), {}
    for weight, product in products.items():
        suffix = next(suffixes)
        names = []
        for place, part in enumerate(product_parts(formats[weight], product.rows, product.columns)):
            names.append(part.letter + suffix if part.letter else weight)
            draft.graph.initializer.append(without_values(names[-1], part.data_type, part.dims))
            missing[names[-1]] = Missing(weight, place, part.size_bytes)
        for node in draft.graph.node:
            if node.name in product.nodes:
                node.CopyFrom(operator(node, product, formats[weight], names))
    if products and not any(o.domain == DOMAIN for o in draft.opset_import):
        draft.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return missing


def operator(node: onnx.NodeProto, product: Product, format_: IntegerFormat, names: Sequence[str]) -> onnx.NodeProto:
    """The operator in place of a layer, with the tensors called `names`."""
    bias = node.input[2] if len(node.input) > 2 else ""
    inputs = [node.input[0], *names, *([""] if format_.symmetric else []), "", bias]  # "": no indices of groups
    while not inputs[-1]:
        inputs.pop()
    return helper.make_node(
        OPERATOR,
        inputs,
        list(node.output),
        name=node.name,
        domain=DOMAIN,
        K=product.rows,
        N=product.columns,
        bits=format_.bits,
        block_size=format_.block,
        accuracy_level=ACCURACY_LEVEL,
    )


def round_inputs(draft: onnx.ModelProto, formats: Mapping[str, IntegerFormat], products: Mapping[str, Product]) -> None:
    """Let layers that multiply packed read what the operator rounds their input to, in operators of plain ONNX:

        values = round(x * 127 / largest) * largest / 127,    largest = max |x| over each block of a row

    Args:
        draft: with the layers as MatMul and Gemm.
        formats: by initializer name, of the weights of `products`.
        products: by initializer name.
    """
    suffixes, behind = short_names(draft.graph), dict[int, list[onnx.NodeProto]]()
    for weight, product in products.items():
        for index, node in enumerate(draft.graph.node):
            if node.name in product.nodes:
                nodes = _rounding(draft.graph, node.input[0], product.rows, formats[weight].block, suffixes)
                behind.setdefault(index - 1, []).extend(nodes)
                node.input[0] = nodes[-1].output[0]
    insert_nodes(draft.graph, behind)


def _rounding(
    graph: onnx.GraphProto, values: str, rows: int, block: int, suffixes: Iterator[str]
) -> list[onnx.NodeProto]:
    """Nodes that round `values`, whose last axis has so many `rows` of the weight."""
    nodes: list[onnx.NodeProto] = []

    def constant(array: NDArray[np.generic]) -> str:
        name = SCALE + next(suffixes)
        graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def made(operator: str, *inputs: str) -> str:
        name = SCALE + next(suffixes)
        nodes.append(helper.make_node(operator, list(inputs), [name]))
        return name

    top, least = (constant(np.array(value, dtype=np.float32)) for value in (LARGEST_CODE, _LEAST))
    shape, blocks = made("Shape", values), constant(np.array([-1, rows // block, block]))
    shares = made("Reshape", values, blocks)
    largest = made("ReduceMax", made("Abs", shares), constant(np.array([-1])))
    codes = made("Round", made("Mul", shares, made("Div", top, made("Max", largest, least))))
    made("Reshape", made("Mul", codes, made("Div", largest, top)), shape)
    return nodes
