"""What no plan touches: the bytes of float constants that are no site, or whose site stays float, and why; and those of
weights that came quantized."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto

from network.finite import FLOAT_TYPES
from network.graph import Network
from network.onnx_graph import is_standard, label, subgraphs
from network.plain_tables import FEWEST_ELEMENTS, SMALL, NoTable, PlainTables, float_bytes, is_small
from network.quantized_weights import stored_codes
from network.sites import readers_of
from pipeline.reach import unmeasured_sites
from quantization.formats import FloatFormat

KEPT, NOT_WORTH = "kept as requested", "the plan leaves it float"
NOT_MEASURED = "no sample shows what it does"
_NAMED = 20


@dataclass(frozen=True, slots=True)
class _Constant:
    """A float constant of any graph; `tensor` is None where it is no initializer that the main graph could read."""

    name: str
    bytes: int
    is_small: bool
    place: str
    tensor: TensorProto | None = None


def stays_float(
    network: Network, quantized: Collection[str], allowed: Mapping[str, Sequence[str]], unreached: Collection[str] = ()
) -> dict[str, Any]:
    """The float constants that keep their bytes, largest first, each with the reason, and their share of all bytes of
    float constants. What does not pay is one entry, and so is what has one reason behind the first `_NAMED`.

    Args:
        network: the normalised float network; constants in bodies of If, Loop and Scan, in functions and in attributes
            of nodes count.
        quantized: names of the initializers that the plan stores in fewer bits.
        allowed: names of the formats that each site may get.
        unreached: names of sites that no sample reaches.
    """
    constants = [
        replace(own, bytes=own.bytes // 2) if own.name in network.narrow else own for own in _constants(network)
    ]
    kept = [own for own in constants if own.name not in quantized]
    total, left = sum(own.bytes for own in constants), sum(own.bytes for own in kept)
    why = _Reasons(network, allowed, unreached)
    named: list[dict[str, Any]] = []
    rest: dict[str, list[_Constant]] = {}
    for own in sorted(kept, key=lambda own: (-own.bytes, own.name)):
        reason = why.reason(own)
        if reason != SMALL and len(named) < _NAMED:
            named.append({"name": own.name, "bytes": own.bytes, "reason": reason})
        elif own.bytes:
            rest.setdefault(reason, []).append(own)
    named += [
        {"name": f"{len(group)} others", "bytes": sum(own.bytes for own in group), "reason": reason}
        for reason, group in rest.items()
    ]
    return {
        "bytes": left,
        "share": left / total if total else 0.0,
        "tensors": sorted(named, key=lambda entry: -entry["bytes"]),
    }


def stays_quantized(network: Network) -> dict[str, Any]:
    """The weights that came in codes, and stay so, largest first."""
    codes = sorted(stored_codes(network.proto.graph), key=lambda own: -own.size_bytes)
    tensors = [{"name": own.name, "bytes": own.size_bytes} for own in codes[:_NAMED]]
    return {"bytes": sum(own.size_bytes for own in codes), "tensors": tensors}


class _Reasons:
    """Says why constants stay float."""

    def __init__(self, network: Network, allowed: Mapping[str, Sequence[str]], unreached: Collection[str]) -> None:
        graph, unmeasured = network.proto.graph, unmeasured_sites(network).union(unreached)
        # the widest format of a table is the float that it came in
        self._unmeasured = {site.weight for site in network.sites if site.is_table and site.name in unmeasured}
        self._formats = {site.weight: list(allowed[site.name]) for site in network.sites}
        self._tables = PlainTables(graph, readers_of(graph))

    def reason(self, constant: _Constant) -> str:
        if constant.name in self._unmeasured:
            return NOT_MEASURED
        if constant.name in self._formats:
            return KEPT if self._formats[constant.name] == [FloatFormat().name] else NOT_WORTH
        if constant.is_small:
            return SMALL
        if constant.tensor is None:
            return constant.place
        use = self._tables.look_at(constant.tensor)
        return use.reason if isinstance(use, NoTable) else constant.place


def _constants(network: Network) -> Iterator[_Constant]:
    """Every float constant of the network."""
    for tensor in network.proto.graph.initializer:
        if tensor.data_type in FLOAT_TYPES:
            yield _Constant(tensor.name, float_bytes(tensor), is_small(tensor), "a constant", tensor)
    yield from _in_graph(network.proto.graph, "", main=True)
    for function in network.proto.functions:
        yield from _in_nodes(function, f" in the function {function.name}")


def _in_graph(graph: GraphProto, place: str, *, main: bool = False) -> Iterator[_Constant]:
    for tensor in graph.initializer if not main else ():
        if tensor.data_type in FLOAT_TYPES:
            yield _of_tensor(tensor.name, tensor, f"a constant{place}")
    for sparse in graph.sparse_initializer:
        if sparse.values.data_type in FLOAT_TYPES:
            yield _of_tensor(sparse.values.name, sparse.values, f"sparse{place}")
    yield from _in_nodes(graph, place)


def _in_nodes(holder: GraphProto | FunctionProto, place: str) -> Iterator[_Constant]:
    for node in holder.node:
        yield from _in_attributes(node, place)
        for inner in subgraphs(node):
            yield from _in_graph(inner, f" in the body of {node.op_type} {label(node)}")


def _in_attributes(node: NodeProto, place: str) -> Iterator[_Constant]:
    """Constants that a node holds: those of a Constant are called like its output."""
    is_constant = node.op_type == "Constant" and is_standard(node)
    of = f"a constant{place}" if is_constant else f"an attribute of {_called(node)}{place}"
    for attribute in node.attribute:
        name = node.output[0] if is_constant else f"{label(node)}.{attribute.name}"
        match attribute.type:
            case AttributeProto.FLOATS:
                elements = len(attribute.floats)
                yield _Constant(name, 4 * elements, elements < FEWEST_ELEMENTS, of)
            case AttributeProto.TENSOR if attribute.t.data_type in FLOAT_TYPES:
                yield _of_tensor(name, attribute.t, of)
            case AttributeProto.SPARSE_TENSOR if attribute.sparse_tensor.values.data_type in FLOAT_TYPES:
                yield _of_tensor(name, attribute.sparse_tensor.values, of)


def _of_tensor(name: str, tensor: TensorProto, place: str) -> _Constant:
    return _Constant(name, float_bytes(tensor), math.prod(tensor.dims) < FEWEST_ELEMENTS, place)


def _called(node: NodeProto) -> str:
    return str(node.op_type) if is_standard(node) else f"{node.domain}.{node.op_type}"
