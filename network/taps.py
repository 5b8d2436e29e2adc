"""Values inside a network, streamed: run it in ONNX Runtime and look at named tensors batch by batch.

Nothing is kept from one batch to the next, and what no tapped tensor depends on does not run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from network.graph import Network
from network.onnx_graph import names_read
from network.runtime import session_of
from network.segments import Segment

Visit = Callable[[str, NDArray[np.generic]], None]


class Taps:
    """A network that shows the values of some of its tensors, and computes no more than these need.

    All of them are alive while a batch is looked at: bound the batch by their number, not by the peak of a plain run.

    Args:
        network: any network that ONNX Runtime runs.
        tensors: graph inputs, or outputs of nodes of the main graph (`output_name`).
        threads: threads of ONNX Runtime within an operator.

    Raises:
        ValueError: a name is no such tensor, or none is given.
    """

    def __init__(self, network: Network, tensors: Sequence[str], threads: int) -> None:
        made = {name for node in network.proto.graph.node for name in _output_names(node)}
        given = {spec.name for spec in network.inputs}
        if unknown := [name for name in tensors if not name or name not in made | given]:
            raise ValueError(f"expected graph inputs and outputs of nodes, got {', '.join(map(repr, unknown))}")
        if not tensors:
            raise ValueError("expected at least one tensor to look at, got none")
        shown = list(dict.fromkeys(tensors))
        computed = [name for name in shown if name in made]
        model = _cut(network, computed)
        session = session_of(model, threads, weights=network.weight_folder) if computed else None
        self._batching = network.batching
        self._part = Segment(session, [value.name for value in model.graph.input], computed, shown)

    def run(self, inputs: Mapping[str, NDArray[np.generic]], visit: Visit) -> None:
        """One batch: `visit(name, values)` for every tensor, in the order in which they were named.

        Args:
            inputs: arrays `[samples, ...]` by graph input name, of samples that may share a call.
        """
        values = self._part.run(self._batching.call(inputs))
        for name in list(values):
            visit(name, values.pop(name))  # so that each may be freed after its visit


def output_name(node: onnx.NodeProto, place: int) -> str:
    """How `Taps` calls an output of `node`: by its name, or by one made up for an output that the node leaves out."""
    return node.output[place] or f"{node.name}, output {place}"


def _output_names(node: onnx.NodeProto) -> list[str]:
    return [output_name(node, place) for place in range(len(node.output))]


def _cut(network: Network, outputs: Sequence[str]) -> onnx.ModelProto:
    """The part of the graph that `outputs` need, with them as its outputs, and its weights in their folder."""
    proto, place = network.proto, network.weight_folder.placed
    needed, nodes = set(outputs), []
    for node in reversed(proto.graph.node):
        shown = [name if name in node.output or name in needed else "" for name in _output_names(node)]
        if needed.intersection(shown):
            nodes.append(node if shown == list(node.output) else _with_outputs(node, shown))
            needed.update(names_read(node))
    graph = onnx.helper.make_graph(
        nodes[::-1],
        "taps",
        [value for value in proto.graph.input if value.name in needed],
        [onnx.ValueInfoProto(name=name) for name in outputs],  # ONNX Runtime infers their types
        [place(tensor) for tensor in proto.graph.initializer if tensor.name in needed],
    )
    model = onnx.helper.make_model(graph, opset_imports=proto.opset_import, ir_version=proto.ir_version)
    model.functions.extend(proto.functions)
    return model


def _with_outputs(node: onnx.NodeProto, names: Sequence[str]) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.output[:] = names
    return copy
