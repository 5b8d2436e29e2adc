"""Parts of a network run in ONNX Runtime: from the inputs up to a node, and from a node on to the outputs.

A change in one weight reaches only what comes behind its first use, a change in one activation only what comes behind
the node that makes it. Whoever tries many such changes runs the part before once (`Segment` from node 0) and only the
rest for each. A cut at `k` lies before node `k` of the graph: nodes `0 .. k-1` have run.

What goes into a segment that begins at 0 are the inputs of a call (`Batching.call`).

A caller that needs only some outputs names them: nodes that lead to no other output do not run then.

Nodes with inner graphs (If, Loop, Scan) are never cut themselves; the outer values that their inner graphs read by name
count as inputs of the node.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from network.batching import Batching
from network.graph import Network
from network.onnx_graph import names_read
from network.runtime import session_of
from network.value_types import value_types

Values = dict[str, NDArray[np.generic]]

_NONE: Mapping[str, NDArray[np.float32]] = MappingProxyType({})


class SegmentedNetwork:
    """The nodes of a network in graph order, cut where a caller wants.

    Args:
        network: the network; its nodes are in topological order.
        threads: threads of ONNX Runtime within an operator.
        outputs: names of the outputs to compute; None for all.
    """

    def __init__(self, network: Network, threads: int, outputs: Collection[str] | None = None) -> None:
        self._network = network
        self._threads = threads
        self._nodes = list(network.proto.graph.node)
        self._reads = [set(names_read(node)) for node in self._nodes]
        self._inputs = [value.name for value in network.inputs]
        self._outputs = [x.name for x in network.outputs if outputs is None or x.name in outputs]
        self._all_outputs = [output.name for output in network.outputs]
        self._types = value_types(network.proto)

    def first_use(self, initializer: str) -> int:
        """The last cut before anything reads `initializer`: the index of the first node that does.

        Raises:
            ValueError: it is no initializer, or no node reads it.
        """
        uses = (index for index, names in enumerate(self._reads) if initializer in names)
        cut = next(uses, None)
        if cut is None or initializer not in self._network.initializers:
            raise ValueError(f"no node reads an initializer {initializer!r}; expected the name of one that is used")
        return cut

    def made_at(self, value: str) -> int:
        """The first cut at which `value` exists: 0 for a graph input, else just behind the node that makes it.

        Raises:
            ValueError: neither an input nor a node of the outermost graph makes it, or nothing reads it afterwards.
        """
        makers = (index + 1 for index, node in enumerate(self._nodes) if value in node.output)
        cut = 0 if value in self._inputs else next(makers, None)
        if cut is None:
            raise ValueError(
                f"no node makes a value {value!r}; expected a graph input or the output of a node that lies in no "
                "inner graph (of If, Loop or Scan)"
            )
        if value not in {*self._all_outputs}.union(*self._reads[cut:]):
            raise ValueError(f"nothing reads the value {value!r}; expected one that the outputs depend on")
        return cut

    def live_values(self, cut: int) -> list[str]:
        """Values that exist at `cut` and are needed from there on: graph inputs and node outputs."""
        known = [*self._inputs, *(name for node in self._nodes[:cut] for name in node.output if name)]
        needed = set(self._outputs).union(*(self._reads[k] for k in self._leading_to(self._outputs, cut)))
        return [name for name in known if name in needed]

    def between(self, start: int, stop: int, replaced: Mapping[str, NDArray[np.float32]] = _NONE) -> Segment:
        """Nodes `start` to `stop - 1`: from the values live at `start` to those live at `stop`.

        The initializers that are named in `replaced` have the values given there.
        """
        return self._segment(start, stop, self.live_values(stop), (), replaced)

    def after(
        self, start: int, weights: Collection[str] = (), replaced: Mapping[str, NDArray[np.float32]] = _NONE
    ) -> Segment:
        """Nodes from `start` to the end: from the values live at `start` to the graph outputs, in graph order, with
        the samples along their first axis.

        The initializers that are named in `weights` are inputs too; those in `replaced` have the values given there.
        """
        segment = self._segment(start, len(self._nodes), self._outputs, weights, replaced)
        return dataclasses.replace(segment, batching=self._network.batching)

    def _leading_to(self, values: Collection[str], start: int, stop: int | None = None) -> list[int]:
        """The nodes from `start` to `stop - 1` that these values depend on, in graph order."""
        needed, leading = set(values), []
        for index in reversed(range(start, len(self._nodes) if stop is None else stop)):
            if needed.intersection(self._nodes[index].output):
                needed |= self._reads[index]
                leading.append(index)
        return leading[::-1]

    def _segment(
        self,
        start: int,
        stop: int,
        outputs: Sequence[str],
        weights: Collection[str],
        replaced: Mapping[str, NDArray[np.float32]],
    ) -> Segment:
        leading = self._leading_to(outputs, start, stop)
        nodes = [self._nodes[index] for index in leading]
        used = set[str]().union(*(self._reads[index] for index in leading))
        fed = [name for name in (*self.live_values(start), *weights) if name in used]
        initializers = {name: t for name, t in self._network.initializers.items() if name not in weights}
        made = {name for node in nodes for name in node.output} | initializers.keys()
        computed = [name for name in outputs if name in made]
        if not computed:
            return Segment(None, fed, computed, outputs)
        kept = {name: tensor for name, tensor in initializers.items() if name in used or name in computed}
        graph = onnx.helper.make_graph(
            nodes,
            "segment",
            [onnx.helper.make_value_info(name, self._types[name]) for name in fed],
            [onnx.helper.make_value_info(name, self._types[name]) for name in computed],
        )
        model = onnx.helper.make_model(
            graph, opset_imports=self._network.proto.opset_import, ir_version=self._network.proto.ir_version
        )
        folder = self._network.weight_folder
        with folder.replacing((name, replaced[name]) for name in kept if name in replaced) as other:
            model.graph.initializer.extend(other.get(name) or folder.placed(own) for name, own in kept.items())
            return Segment(session_of(model, self._threads, weights=folder), fed, computed, outputs)


@dataclass(frozen=True, slots=True)
class Segment:
    """One part of a network, ready to run: `session` makes `computed` from `fed`; it is None where there is nothing to
    compute. With `batching` the outputs are those of a network, and get the samples along their first axis."""

    session: onnxruntime.InferenceSession | None
    fed: Sequence[str]
    computed: Sequence[str]
    outputs: Sequence[str]
    batching: Batching | None = None

    def run(self, values: Mapping[str, NDArray[np.generic]]) -> Values:
        """The segment's outputs; one that the segment only passes on is taken from `values`."""
        results: Values = {}
        if self.session is not None:
            arrays = self.session.run(self.computed, {name: values[name] for name in self.fed})
            results = dict(zip(self.computed, arrays, strict=True))
        outputs = {name: results[name] if name in results else values[name] for name in self.outputs}
        if self.batching is None:
            return outputs
        return {name: self.batching.by_sample(name, value) for name, value in outputs.items()}
