"""Parts of a network run in ONNX Runtime: from the inputs up to a node, and from a node on to the outputs.

A change in one weight reaches only what comes behind its first use. Whoever tries many values of one weight runs the
part before it once (`Segment` from node 0) and only the rest for each value.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from network.graph import Network, Site

Values = dict[str, NDArray[np.generic]]


class SegmentedNetwork:
    """The nodes of a network in graph order, cut where a caller wants.

    Args:
        network: the network; its nodes are in topological order.
        threads: threads of ONNX Runtime within an operator.
    """

    def __init__(self, network: Network, threads: int) -> None:
        self._network = network
        self._threads = threads
        self._nodes = list(network.proto.graph.node)
        self._types = _element_types(network.proto)
        self._outputs = [output.name for output in network.outputs]

    def first_use(self, site: Site) -> int:
        """Index of the first node that reads the site's weight."""
        return next(index for index, node in enumerate(self._nodes) if site.weight in node.input)

    def live_values(self, cut: int) -> list[str]:
        """Values that exist before node `cut` and are needed from there on: graph inputs and node outputs."""
        known = [value.name for value in self._network.inputs]
        known += [name for node in self._nodes[:cut] for name in node.output if name]
        needed = {name for node in self._nodes[cut:] for name in node.input} | set(self._outputs)
        return [name for name in known if name in needed]

    def between(self, start: int, stop: int) -> Segment:
        """Nodes `start` to `stop - 1`: from the values live at `start` to those live at `stop`."""
        computed = {name for node in self._nodes[start:stop] for name in node.output}
        inputs, outputs = self.live_values(start), self.live_values(stop)
        return self._segment(start, stop, inputs, [name for name in outputs if name in computed], outputs, None)

    def after(self, start: int, weight: str) -> Segment:
        """Nodes from `start` to the end, with `weight` as one more input; gives the graph outputs, in graph order."""
        computed = {name for node in self._nodes[start:] for name in node.output}
        inputs = self.live_values(start)
        made = [name for name in self._outputs if name in computed]
        return self._segment(start, len(self._nodes), inputs, made, self._outputs, weight)

    def _segment(
        self, start: int, stop: int, inputs: list[str], computed: list[str], outputs: list[str], weight: str | None
    ) -> Segment:
        nodes = self._nodes[start:stop]
        used = {name for node in nodes for name in node.input}
        fed = [name for name in inputs if name in used] + ([weight] if weight else [])
        initializers = [t for t in self._network.proto.graph.initializer if t.name in used and t.name != weight]
        graph = onnx.helper.make_graph(
            nodes,
            "segment",
            [onnx.helper.make_tensor_value_info(name, self._types[name], None) for name in fed],
            [onnx.helper.make_tensor_value_info(name, self._types[name], None) for name in computed],
            initializers,
        )
        model = onnx.helper.make_model(
            graph, opset_imports=self._network.proto.opset_import, ir_version=self._network.proto.ir_version
        )
        session = _session(model.SerializeToString(), self._threads) if computed else None
        return Segment(session, fed, computed, outputs)


class Segment:
    """One part of a network, ready to run."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession | None,
        fed: list[str],
        computed: list[str],
        outputs: list[str],
    ) -> None:
        self._session = session
        self._fed = fed
        self._computed = computed
        self._outputs = outputs

    def run(self, values: Mapping[str, NDArray[np.generic]]) -> Values:
        """The segment's outputs; one that the segment only passes on is taken from `values`."""
        results: Values = {}
        if self._session is not None:
            arrays = self._session.run(self._computed, {name: values[name] for name in self._fed})
            results = dict(zip(self._computed, arrays, strict=True))
        return {name: results[name] if name in results else values[name] for name in self._outputs}


def _session(model: bytes, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only: it warns of every initializer that folding makes unused
    # Spinning threads of many short-lived sessions take the cores from each other.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _element_types(proto: onnx.ModelProto) -> dict[str, int]:
    """ONNX element type of every value and initializer."""
    inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*inferred.input, *inferred.value_info, *inferred.output)}
    return types | {t.name: t.data_type for t in proto.graph.initializer}
