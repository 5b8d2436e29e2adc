"""What is left in float32 beside the weights, stored as float16: biases, and the parameters of normalisations.

Such a tensor is a float16 initializer and a Cast, which ONNX Runtime folds at load. It loses 2**-11 of a factor, or of
the largest summand, at most: far below what the quantized weights lose, and measured with them. Constants that mean
something else stay as they are: coordinates, masks and the like may need all their digits.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from network.graph import Network
from network.sites import RECURRENT
from quantization.errors import QuantizationError
from quantization.export.messages import without_values
from quantization.export.passes import Missing, insert_nodes, short_names
from quantization.storage.parts import HALVES

LARGEST = float(np.finfo(np.float16).max)
"""Of the values that float16 holds."""

# inputs of these operators that are parameters: that are added, and that multiply
_ADDED: Mapping[str, int] = {
    "Conv": 2,
    "ConvTranspose": 2,
    "Gemm": 2,
    "LayerNormalization": 2,
    "InstanceNormalization": 2,
    "GroupNormalization": 2,
    "BatchNormalization": 2,
} | dict.fromkeys(RECURRENT, 3)
_FACTORS: Mapping[str, int] = dict.fromkeys(
    ("LayerNormalization", "InstanceNormalization", "GroupNormalization", "BatchNormalization", "RMSNormalization"), 1
) | {"PRelu": 1}
# of these any that is a vector, and summands of what a layer makes
_ELEMENTWISE = {"Add": False, "Sub": False, "Mul": True, "Div": True}
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Gather")
_SMALLEST = 2.0**-14  # below it float16 has fewer digits, and at last none


def leftovers(network: Network) -> frozenset[str]:
    """The float32 initializers that a file may store as float16, by name: parameters of the network that are no weight
    of a site, that float16 can hold, and that are smaller so."""
    weights = {site.weight for site in network.sites}
    outputs = {spec.name for spec in network.outputs}
    parameters: dict[str, list[bool]] = {}
    for node in network.proto.graph.node:
        for name, is_factor in _parameters(network, node):
            parameters.setdefault(name, []).append(is_factor)
    return frozenset(
        name
        for name, uses in parameters.items()
        if name not in weights | outputs
        and len(uses) == len(network.readers[name])
        and _fits(network, network.initializers[name], any(uses))
    )


def narrow_leftovers(network: Network) -> frozenset[str]:
    """The float32 initializers of a network whose weights had 16 bits that are float16 in a file without any loss, by
    name: those that are no weight of a site and that are smaller so, whatever they mean."""
    others = network.narrow - {site.weight for site in network.sites} - {spec.name for spec in network.outputs}
    return frozenset(name for name in others if _is_smaller(network.initializers[name]))


def _parameters(network: Network, node: onnx.NodeProto) -> Iterator[tuple[str, bool]]:
    """The initializers that the node takes as parameters, and whether they multiply or divide."""
    tensors = network.initializers
    for places, is_factor in ((_ADDED, False), (_FACTORS, True)):
        place = places.get(node.op_type, len(node.input))
        if place < len(node.input) and node.input[place] in tensors:
            yield node.input[place], is_factor
    if node.op_type not in _ELEMENTWISE:
        return
    for name, other in ((node.input[0], node.input[1]), (node.input[1], node.input[0])):
        if name in tensors and other not in tensors:
            is_vector = sum(length > 1 for length in tensors[name].dims) == 1
            if is_vector or (
                node.op_type == "Add" and other in network.makers and network.makers[other].op_type in _LAYERS
            ):
                yield name, _ELEMENTWISE[node.op_type]


def _fits(network: Network, tensor: TensorProto, is_factor: bool) -> bool:
    """Whether it gets smaller and keeps its digits: each value of a factor, and of summands the largest."""
    if tensor.data_type != TensorProto.FLOAT:
        return False
    if not _is_smaller(tensor):
        return False
    magnitudes = np.abs(network.weight(tensor.name))
    largest = float(magnitudes.max())  # which is not finite where a value is not
    least = float(magnitudes.min(initial=largest, where=magnitudes > 0)) if is_factor else largest
    return largest == 0 or (least >= _SMALLEST and largest <= LARGEST)


def _is_smaller(tensor: TensorProto) -> bool:
    """Whether a float32 tensor takes fewer bytes as float16, with its Cast."""
    stored = without_values(HALVES + "00", TensorProto.FLOAT16, tensor.dims)
    cast = _cast(HALVES + "00", tensor.name)
    return bool(2 * math.prod(tensor.dims) + stored.ByteSize() + cast.ByteSize() + 4 <= tensor.ByteSize())


def store_halves(draft: onnx.ModelProto, names: Collection[str]) -> dict[str, Missing]:
    """Store those of `names` that the draft still has as float16, and cast them back under their own names.

    Returns:
        What is missing of the tensors, by their names (`halves`).
    """
    suffixes, casts, missing = short_names(draft.graph), [], {}
    for tensor in draft.graph.initializer:
        if tensor.name in names:
            old, new = tensor.name, HALVES + next(suffixes)
            tensor.CopyFrom(without_values(new, TensorProto.FLOAT16, tensor.dims))
            casts.append(_cast(new, old))
            missing[new] = Missing(old, 0, 2 * math.prod(tensor.dims))
    insert_nodes(draft.graph, {-1: casts})
    return missing


def round_halves(draft: onnx.ModelProto, names: Collection[str]) -> None:
    """Give those of `names` that the draft still has the values that `store_halves` leaves them, as float32.

    Raises:
        QuantizationError: as `halves`.
    """
    for tensor in draft.graph.initializer:
        if tensor.name in names:
            tensor.CopyFrom(numpy_helper.from_array(halves(tensor).astype(np.float32), tensor.name))


def halves(tensor: TensorProto) -> NDArray[np.float16]:
    """The values of a tensor as float16.

    Raises:
        QuantizationError: float16 does not hold them.
    """
    floats = numpy_helper.to_array(tensor)
    with np.errstate(over="ignore"):  # which is looked for
        values = floats.astype(np.float16)
    if (np.isfinite(floats) & ~np.isfinite(values)).any():
        raise QuantizationError(f"{tensor.name} has values that float16 does not hold; store it as float32")
    return values


def _cast(name: str, output: str) -> onnx.NodeProto:
    return helper.make_node("Cast", [name], [output], to=TensorProto.FLOAT)
