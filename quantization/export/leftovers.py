"""What is left in float32 beside the weights, stored as float16: biases, and the parameters of normalisations.

Such a tensor is a float16 initializer and a Cast, which ONNX Runtime folds at load. It loses 2**-11 of a factor, or of
the largest summand, at most: far below what the quantized weights lose, and measured with them. Constants that mean
something else stay as they are: coordinates, masks and the like may need all their digits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from network.graph import Network
from network.onnx_graph import names_read
from network.sites import RECURRENT
from quantization.errors import QuantizationError
from quantization.export.passes import Pass, insert_nodes, short_names, without_values
from quantization.export.write_fields import Payload
from quantization.storage.parts import HALVES

LARGEST = float(np.finfo(np.float16).max)
"""Of the values that float16 holds."""

SMALL = 1 << 16
"""Bytes. The values of larger initializers are not copied into a draft."""

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
    made_by = {name: node.op_type for node in network.proto.graph.node for name in node.output}
    weights = {site.weight for site in network.sites}
    reads = Counter(spec.name for spec in network.outputs)
    parameters: dict[str, list[bool]] = {}
    for node in network.proto.graph.node:
        reads.update(names_read(node))
        for name, is_factor in _parameters(network, node, made_by):
            parameters.setdefault(name, []).append(is_factor)
    return frozenset(
        name
        for name, uses in parameters.items()
        if name not in weights and len(uses) == reads[name] and _fits(network, network.initializers[name], any(uses))
    )


def _parameters(network: Network, node: onnx.NodeProto, made_by: Mapping[str, str]) -> Iterator[tuple[str, bool]]:
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
            if is_vector or (node.op_type == "Add" and made_by.get(other) in _LAYERS):
                yield name, _ELEMENTWISE[node.op_type]


def _fits(network: Network, tensor: TensorProto, is_factor: bool) -> bool:
    """Whether it gets smaller and keeps its digits: each value of a factor, and of summands the largest."""
    if tensor.data_type != TensorProto.FLOAT:
        return False
    stored, cast = _stored(HALVES + "00", tensor), _cast(HALVES + "00", tensor.name)
    if 2 * _elements(tensor) + stored.ByteSize() + cast.ByteSize() + 4 > tensor.ByteSize():
        return False
    magnitudes = np.abs(network.weight(tensor.name))
    largest = float(magnitudes.max())  # which is not finite where a value is not
    least = float(magnitudes.min(initial=largest, where=magnitudes > 0)) if is_factor else largest
    return largest == 0 or (least >= _SMALLEST and largest <= LARGEST)


class StoreHalves(Pass):
    """Store those of `names` that the draft still has as float16, and cast them back under their own names.

    Args:
        tensors: the network's initializers, with their values.
        small: bytes of float32 up to which the draft gets the values; `payloads` has the others.
    """

    def __init__(self, names: Collection[str], tensors: Mapping[str, TensorProto], small: int = SMALL) -> None:
        self._names = names
        self._tensors = tensors
        self._small = small
        self.stored: dict[str, str] = {}
        """The names of the tensors that have float16, by those that they had; filled by `call`."""

    def requires(self, draft: onnx.ModelProto) -> None:
        """All of them are float32, and float16 holds their values."""
        for tensor in draft.graph.initializer:
            if tensor.name in self._names and not np.isfinite(_halves(self._tensors[tensor.name])).all():
                raise QuantizationError(f"{tensor.name} has values that float16 does not hold; store it as float32")

    def call(self, draft: onnx.ModelProto) -> None:
        suffixes, casts = short_names(draft.graph), []
        for tensor in draft.graph.initializer:
            if tensor.name not in self._names:
                continue
            old, new = tensor.name, HALVES + next(suffixes)
            tensor.CopyFrom(_stored(new, tensor))
            if not self._is_large(old):
                tensor.raw_data = _halves(self._tensors[old]).tobytes()
            casts.append(_cast(new, old))
            self.stored[old] = new
        insert_nodes(draft.graph, {-1: casts})

    def ensures(self, draft: onnx.ModelProto) -> None:
        """Each is made by one node of what is stored for it."""
        made = Counter(output for node in draft.graph.node for output in node.output)
        tensors = {tensor.name: tensor.data_type for tensor in draft.graph.initializer}
        for old, new in self.stored.items():
            if made[old] != 1 or old in tensors or tensors.get(new) != TensorProto.FLOAT16:
                raise QuantizationError(f"{old} is not made once of float16")

    def payloads(self) -> dict[str, Payload]:
        """By name of the large tensors, which have no values in the draft."""
        return {
            new: Payload(2 * _elements(self._tensors[old]), partial(_half_bytes, self._tensors[old]))
            for old, new in self.stored.items()
            if self._is_large(old)
        }

    def _is_large(self, name: str) -> bool:
        return len(self._tensors[name].raw_data) > self._small


class RoundHalves(Pass):
    """Give those of `names` that the draft still has the values that `StoreHalves` leaves them, as float32."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names

    def requires(self, draft: onnx.ModelProto) -> None:
        """Nothing."""

    def call(self, draft: onnx.ModelProto) -> None:
        for tensor in draft.graph.initializer:
            if tensor.name in self._names:
                tensor.CopyFrom(numpy_helper.from_array(_halves(tensor).astype(np.float32), tensor.name))

    def ensures(self, draft: onnx.ModelProto) -> None:
        """float16 holds all of their values."""
        for tensor in draft.graph.initializer:
            if tensor.name in self._names and not np.isfinite(numpy_helper.to_array(tensor)).all():
                raise QuantizationError(f"{tensor.name} has values that float16 does not hold; store it as float32")


def _halves(tensor: TensorProto) -> NDArray[Any]:
    with np.errstate(over="ignore"):  # which is looked for
        return numpy_helper.to_array(tensor).astype(np.float16)


def _half_bytes(tensor: TensorProto) -> bytes:
    return _halves(tensor).tobytes()


def _elements(tensor: TensorProto) -> int:
    return int(np.prod(tensor.dims, dtype=np.int64))


def _stored(name: str, tensor: TensorProto) -> TensorProto:
    """`tensor` as float16 under another name, without its values."""
    return without_values(name, TensorProto.FLOAT16, tensor.dims)


def _cast(name: str, output: str) -> onnx.NodeProto:
    return helper.make_node("Cast", [name], [output], to=TensorProto.FLOAT)
