"""Products of a weight of 8 bits per output channel with an input that is rounded at every call, in standard ONNX:

    codes, scale, zero = DynamicQuantizeLinear(x)        uint8, one scale for the whole input of a call
    sums               = MatMulInteger(codes, B, zero, points)
    y                  = Cast(sums) * (scale * scales)   and for a Gemm its bias behind

    B        int8 [rows, columns]     codes of the weight
    scales   float32 [columns]        may be negative, like ours
    points   int8 [columns]           zeros

Layers that read one tensor share its codes. ONNX Runtime makes one DynamicQuantizeMatMul of all of this, or a
MatMulIntegerToFloat where codes are shared, with a vector that is added. Zero points are stored although they are
zeros: asked for exact kernels on x86 without VNNI (`quantization.activations.kernels`) it turns codes into uint8, and
has then to turn zero points, too.

Sources: https://onnx.ai/onnx/operators/onnx__DynamicQuantizeLinear.html and
https://onnx.ai/onnx/operators/onnx__MatMulInteger.html
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from network.onnx_graph import attributes
from quantization.errors import FileNotAudited
from quantization.export.messages import without_values
from quantization.export.passes import ACTIVATION_LETTERS, Missing, short_names
from quantization.export.product import Product
from quantization.formats import IntegerFormat
from quantization.storage.parts import SCALE, ZERO_POINT, Part
from quantization.storage.weights import IntegerWeight

ROUNDING, OPERATOR = "DynamicQuantizeLinear", "MatMulInteger"
FORMAT = IntegerFormat(8)
"""Of the weights: those of fewer bits would be as slow, and take as many bytes where they are multiplied."""
WEIGHT = ""  # what the names of B begin with: it has the weight's own name
_INPUT_SCALE, _INPUT_ZERO, _CODES, _SUMS, _FLOATS, _PRODUCT, _FACTOR = tuple(ACTIVATION_LETTERS)


def product_parts(rows: int, columns: int) -> tuple[Part, ...]:
    """What the file holds of a weight: B, scales, zero points."""
    return (
        Part(WEIGHT, TensorProto.INT8, (rows, columns), rows * columns),
        Part(SCALE, TensorProto.FLOAT, (columns,), 4 * columns),
        Part(ZERO_POINT, TensorProto.INT8, (columns,), columns),
    )


def product_values(weight: IntegerWeight, product: Product) -> list[bytes]:
    """The values of `product_parts`."""
    codes: NDArray[np.int8] = weight.codes.T if product.transposed else weight.codes
    scales = weight.scale.astype(np.float32).reshape(product.columns)
    return [np.ascontiguousarray(codes).tobytes(), scales.tobytes(), bytes(product.columns)]


def store_products(draft: onnx.ModelProto, products: Mapping[str, Product]) -> dict[str, Missing]:
    """Give the graph tensors for the weights, and turn their layers into the operators.

    Args:
        draft: without the weights.
        products: by initializer name.

    Returns:
        What is missing of the tensors, by their names (`product_values`).
    """
    if not products:
        return {}
    suffixes, missing = short_names(draft.graph), {}
    stored: dict[str, tuple[list[str], str]] = {}
    for weight, product in products.items():
        suffix, names = next(suffixes), list[str]()
        for place, part in enumerate(product_parts(product.rows, product.columns)):
            names.append(part.letter + suffix if part.letter else weight)
            draft.graph.initializer.append(without_values(names[-1], part.data_type, part.dims))
            missing[names[-1]] = Missing(weight, place, part.size_bytes)
        stored.update((node, (names, suffix)) for node in product.nodes)
    rounded: dict[str, str] = {}
    nodes = list(draft.graph.node)
    del draft.graph.node[:]
    for node in nodes:
        if node.name not in stored:
            draft.graph.node.append(node)
            continue
        names, suffix = stored[node.name]
        if (read := node.input[0]) not in rounded:
            rounded[read] = suffix
            draft.graph.node.extend(rounding(read, suffix))
        draft.graph.node.extend(operators(node, names, suffix, rounded[read]))
    return missing


def rounding(values: str, suffix: str) -> list[onnx.NodeProto]:
    """What rounds the input of layers: codes, scale and zero point get names with this suffix."""
    made = [letter + suffix for letter in (_CODES, _INPUT_SCALE, _INPUT_ZERO)]
    return [helper.make_node(ROUNDING, [values], made)]


def operators(node: onnx.NodeProto, names: Sequence[str], suffix: str, read: str) -> list[onnx.NodeProto]:
    """The operators in place of a layer.

    Args:
        node: the MatMul or Gemm.
        names: of the tensors of its weight.
        suffix: of the names that are given.
        read: the suffix of what its input was rounded to (`rounding`).
    """
    codes, scales, zero_points = names
    bias = node.input[2] if len(node.input) > 2 else ""
    sums, floats, factor, product = (letter + suffix for letter in (_SUMS, _FLOATS, _FACTOR, _PRODUCT))
    output = node.output[0]
    made = [
        helper.make_node(OPERATOR, [_CODES + read, codes, _INPUT_ZERO + read, zero_points], [sums], name=node.name),
        helper.make_node("Cast", [sums], [floats], to=TensorProto.FLOAT),
        helper.make_node("Mul", [_INPUT_SCALE + read, scales], [factor]),
        helper.make_node("Mul", [floats, factor], [product if bias else output]),
    ]
    return [*made, helper.make_node("Add", [product, bias], [output])] if bias else made


def round_inputs(draft: onnx.ModelProto, products: Mapping[str, Product]) -> None:
    """Let the layers read what their input is rounded to, in floats: `(code - zero point) * scale`.

    Args:
        draft: with the layers as MatMul and Gemm.
        products: by initializer name.
    """
    if not products:
        return
    suffixes, rounded = short_names(draft.graph), dict[str, str]()
    layers = {node for product in products.values() for node in product.nodes}
    nodes = list(draft.graph.node)
    del draft.graph.node[:]
    for node in nodes:
        if node.name in layers:
            if (read := node.input[0]) not in rounded:
                made = [*_rounded_values(read, suffixes)]
                rounded[read] = made[-1].output[0]
                draft.graph.node.extend(made)
            node.input[0] = rounded[read]
        draft.graph.node.append(node)


def _rounded_values(values: str, suffixes: Iterator[str]) -> Iterator[onnx.NodeProto]:
    """Nodes that round `values`. A DequantizeLinear would let ONNX Runtime round the weights of a float layer, too."""
    suffix = next(suffixes)
    codes, scale, zero, floats, other, product, shifted = (letter + suffix for letter in ACTIVATION_LETTERS)
    yield helper.make_node(ROUNDING, [values], [codes, scale, zero])
    yield helper.make_node("Cast", [codes], [floats], to=TensorProto.FLOAT)
    yield helper.make_node("Cast", [zero], [other], to=TensorProto.FLOAT)
    yield helper.make_node("Sub", [floats, other], [shifted])
    yield helper.make_node("Mul", [shifted, scale], [product])


def stored_product(
    node: onnx.NodeProto,
    tensors: Mapping[str, onnx.TensorProto],
    makers: Mapping[str, onnx.NodeProto],
    readers: Mapping[str, Sequence[onnx.NodeProto]],
) -> tuple[tuple[str, ...], tuple[Part, ...]]:
    """The tensors of the weight of a MatMulInteger that we wrote, by name, and what they hold.

    Args:
        node: it.
        tensors: the initializers of its graph, by name.
        makers: the nodes of the graph that make a value, by its name.
        readers: those that read it.

    Raises:
        FileNotAudited: it multiplies something else than what DynamicQuantizeLinear makes, or its sums are not scaled
            as they have to be, or a tensor does not hold what its type and shape say.
    """
    name, reads = node.input[1], [*node.input, "", ""]

    def only_reader(value: str, operator: str) -> onnx.NodeProto | None:
        """The node that alone reads a value, if it is such an operator."""
        found = readers.get(value, [])
        return found[0] if [reader.op_type for reader in found] == [operator] else None

    def refused(why: str) -> FileNotAudited:
        return FileNotAudited(f"weight {name}: {node.name} {why}")

    rounds = makers.get(reads[0])
    if rounds is None or rounds.op_type != ROUNDING or [rounds.output[0], rounds.output[2]] != [reads[0], reads[2]]:
        raise refused(f"multiplies what no {ROUNDING} makes")
    cast = only_reader(node.output[0], "Cast")
    scaled = None if cast is None else only_reader(cast.output[0], "Mul")
    if cast is None or scaled is None or attributes(cast).get("to") != TensorProto.FLOAT:
        raise refused("makes sums that are not scaled, or read by others")
    factor = next((made for made in scaled.input if made != cast.output[0]), "")
    product = makers.get(factor)
    if product is None or product.op_type != "Mul" or product.input[0] != rounds.output[1]:
        raise refused("makes sums that are not scaled by the scale of its input")
    given = (name, product.input[1], reads[3])
    if missing := [part for part in given if part not in tensors]:
        raise refused(
            f"reads {', '.join(part or 'no zero points' for part in missing)}, which is no tensor of the file"
        )
    dims = tuple(tensors[name].dims)
    if len(dims) != 2:
        raise refused(f"reads {name} of shape {dims}, expected rows and columns")
    parts = product_parts(*dims)
    for part, called in zip(parts, given, strict=True):
        stored = (tensors[called].data_type, tuple(tensors[called].dims), len(tensors[called].raw_data))
        if stored != (part.data_type, part.dims, part.size_bytes):
            raise FileNotAudited(
                f"weight {name}: {called} is of type {stored[0]}, shape {stored[1]} and {stored[2]} bytes, expected "
                f"{part.data_type}, {part.dims} and {part.size_bytes}"
            )
    if any(tensors[given[2]].raw_data):
        raise refused(f"reads zero points {given[2]} that are not zero")
    return given, parts
