"""Element types and shapes of all values of a network, as a run in ONNX Runtime shows them.

Behind every value a node `Shape` reads its lengths, and nothing else leaves the run. ONNX Runtime runs these nodes
before any other that is ready, so that no value lives longer than in a plain run.

A value in the body of If, Loop or Scan may be made many times, or never. There it has a row of numbers: all rows of a
body are one further output of it, which the graph around adds up to the same rows again. So bodies within bodies need
nothing else.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from network.errors import ModelInvalid
from network.onnx_graph import graphs, is_standard, own_inputs, subgraphs
from network.runtime import runtime_errors, session_of
from network.shapes import Observation, Observed
from network.value_types import value_types
from network.weight_folder import WeightFolder

_MOST_AXES = 8
"""Of a value in a body: one with more is not observed."""
_WIDTH = 3 + _MOST_AXES
"""Of a row: how often the value was made, its elements over all times, its number of axes, its longest lengths."""
_ADDED = 2
"""So many numbers at the front of a row add up over all times, of the others the largest counts."""


def observe(proto: ModelProto, feed: Mapping[str, NDArray[np.generic]], threads: int = 1) -> Observed:
    """What one run shows of every tensor that is an input, or that a node of any graph of `proto` makes.

    Not shown are sequences and optional values. Values in bodies that share a name are not told apart and left out, and
    so is everything in bodies if ONNX Runtime does not take a further output of them.

    Args:
        proto: a normalised network; not changed.
        feed: an array for each graph input, of one call.
        threads: of ONNX Runtime within an operator.

    Raises:
        ModelInvalid: ONNX Runtime does not run the network on these arrays.
        ModelTooLarge: that takes more memory than this process may use.
    """
    types = {
        name: int(kind.tensor_type.elem_type)
        for name, kind in value_types(proto).items()
        if kind.WhichOneof("value") == "tensor_type"
    }
    fed = {value.name: Observation.once(types[value.name], feed[value.name].shape) for value in own_inputs(proto.graph)}
    if any(_has_bodies(node) for node in proto.graph.node):
        try:
            return fed | _run(_Probe(proto, types, bodies=True), feed, threads)
        except ModelInvalid:  # bodies of an odd kind: what lies outside of them can be known
            pass
    return fed | _run(_Probe(proto, types, bodies=False), feed, threads)


def _run(probe: _Probe, feed: Mapping[str, NDArray[np.generic]], threads: int) -> dict[str, Observation]:
    with runtime_errors("run"):
        weights = WeightFolder()
        session = session_of(probe.model(weights), threads, optimised=False, shapes_first=True, weights=weights)
        results = session.run(None, dict(feed))
    observed: dict[str, Observation] = {}
    for output, result in zip(probe.outputs, results, strict=True):
        if isinstance(output, _Rows):
            rows = np.asarray(result).reshape(-1, _WIDTH).tolist()
            observed |= {
                name: Observation(probe.types[name], tuple(lengths[:rank]), times, elements)
                for name, (times, elements, rank, *lengths) in zip(output.names, rows, strict=True)
                if rank <= _MOST_AXES
            }
        else:
            observed[output] = Observation.once(probe.types[output], np.asarray(result).tolist())
    return observed


@dataclass(frozen=True, slots=True)
class _Rows:
    """A vector that holds a row for each of the values with these names."""

    names: tuple[str, ...]
    vector: str


class _Probe:
    """A network that returns the lengths of its values in place of its outputs.

    Args:
        proto: the network.
        types: element types of values by name; only these are looked at.
        bodies: whether to look into the bodies of If, Loop and Scan.
    """

    def __init__(self, proto: ModelProto, types: Mapping[str, int], *, bodies: bool) -> None:
        self.proto = proto
        self.types = types
        self.bodies = bodies
        self.outputs: list[str | _Rows] = []
        """In the order in which a run returns them: the name of a value whose shape it is, or rows."""
        made = Counter(name for graph in graphs(self.proto.graph) for name in _made(graph))
        self._shown = {name for name, times in made.items() if times == 1 and name in self.types}
        self._prefix = _free_prefix({*made, *self.types})
        self._count = 0
        self._constants: dict[tuple[str, tuple[int, ...], bytes], TensorProto] = {}
        self._nodes: list[NodeProto] = []
        self._values: list[str] = []
        for node in self.proto.graph.node:
            nodes, rows = self._with_rows(node)
            self._nodes += nodes
            if rows is not None:
                self.outputs.append(rows)
                self._values.append(rows.vector)
            for name in filter(self._shown.__contains__, node.output):
                self._values.append(self._add(self._nodes, "Shape", name))
                self.outputs.append(name)

    def model(self, weights: WeightFolder) -> ModelProto:
        """It, as a file whose large initializers lie in `weights`."""
        source = self.proto.graph
        outputs = [helper.make_tensor_value_info(name, TensorProto.INT64, None) for name in self._values]
        graph = helper.make_graph(self._nodes, "observed", source.input, outputs)
        graph.initializer.extend((*map(weights.placed, source.initializer), *self._constants.values()))
        graph.sparse_initializer.extend(source.sparse_initializer)
        model = helper.make_model(graph, opset_imports=self.proto.opset_import, ir_version=self.proto.ir_version)
        model.functions.extend(self.proto.functions)
        return model

    def _with_rows(self, node: NodeProto) -> tuple[list[NodeProto], _Rows | None]:
        """A node, with the rows of its bodies as a further output and what adds them up behind it."""
        if not self.bodies or not _has_bodies(node):
            return [node], None
        copy = NodeProto()
        copy.CopyFrom(node)
        bodies = list(subgraphs(copy))
        parts = [self._in_body(body) for body in bodies]
        names = tuple(name for rows in parts for part in rows for name in part.names)
        if not names:
            return [node], None
        for body, own in zip(bodies, parts, strict=True):
            # a branch of If has the rows of the other too, as one that did not run
            pieces = [
                part.vector if rows is own else self._constant(np.zeros(len(part.names) * _WIDTH, np.int64))
                for rows in parts
                for part in rows
            ]
            nodes: list[NodeProto] = []
            vector = self._add(nodes, "Concat", *pieces, axis=0)
            body.node.extend(nodes)
            body.output.append(helper.make_tensor_value_info(vector, TensorProto.INT64, [len(names) * _WIDTH]))
        _extend_scans(copy)
        # it may leave out its last outputs, but none before the rows
        there = len(bodies[0].output) - (2 if node.op_type == "Loop" else 1)
        vector = self._name()
        copy.output.extend([*(self._name() for _ in range(there - len(copy.output))), vector])
        after = [copy]
        return after, _Rows(names, vector if node.op_type == "If" else self._over_times(after, vector, len(names)))

    def _in_body(self, graph: GraphProto) -> list[_Rows]:
        """The rows of a body, whose nodes it changes to make them."""
        nodes: list[NodeProto] = []
        rows = [self._row(nodes, value.name) for value in graph.input if value.name in self._shown]
        for node in graph.node:
            made, inner = self._with_rows(node)
            nodes += made
            rows += [] if inner is None else [inner]
            rows += [self._row(nodes, name) for name in node.output if name in self._shown]
        del graph.node[:]
        graph.node.extend(nodes)
        return rows

    def _row(self, nodes: list[NodeProto], name: str) -> _Rows:
        lengths, size = self._add(nodes, "Shape", name), self._add(nodes, "Size", name)
        parts = (
            self._constant(np.ones(1, np.int64)),
            self._add(nodes, "Reshape", size, self._constant(np.ones(1, np.int64))),
            self._add(nodes, "Shape", lengths),
            lengths,
            self._constant(np.zeros(_MOST_AXES, np.int64)),
        )
        whole = self._add(nodes, "Concat", *parts, axis=0)
        ends = (self._constant(np.array([0])), self._constant(np.array([_WIDTH])))
        return _Rows((name,), self._add(nodes, "Slice", whole, *ends))

    def _over_times(self, nodes: list[NodeProto], vectors: str, count: int) -> str:
        """One vector of rows in place of `[times, count * width]`."""
        rows = self._add(nodes, "Reshape", vectors, self._constant(np.array([-1, count * _WIDTH])))
        # of no times at all there is no largest
        rows = self._add(nodes, "Concat", self._constant(np.zeros((1, count * _WIDTH), np.int64)), rows, axis=0)
        first = self._constant(np.array([0]))
        added = self._add(nodes, "ReduceSum", rows, first, keepdims=0)
        largest = self._add(nodes, "ReduceMax", rows, first, keepdims=0)
        return self._add(nodes, "Where", self._constant(np.tile(np.arange(_WIDTH) < _ADDED, count)), added, largest)

    def _add(self, nodes: list[NodeProto], op_type: str, *inputs: str, **given: Any) -> str:
        nodes.append(helper.make_node(op_type, inputs, [self._name()], **given))
        return str(nodes[-1].output[0])

    def _constant(self, values: NDArray[np.generic]) -> str:
        """The name of an initializer of the main graph, which every body sees."""
        key = (values.dtype.str, values.shape, values.tobytes())
        if key not in self._constants:
            self._constants[key] = numpy_helper.from_array(values, self._name())
        return str(self._constants[key].name)

    def _name(self) -> str:
        self._count += 1
        return f"{self._prefix}{self._count}"


def _has_bodies(node: NodeProto) -> bool:
    return is_standard(node) and node.op_type in ("If", "Loop", "Scan")


def _extend_scans(node: NodeProto) -> None:
    """One further output of a Scan is stacked as the others are by default."""
    for attribute in node.attribute:
        if attribute.name in ("scan_output_axes", "scan_output_directions"):
            attribute.ints.append(0)


def _made(graph: GraphProto) -> Iterator[str]:
    yield from (value.name for value in graph.input)
    yield from (name for node in graph.node for name in node.output if name)


def _free_prefix(names: Collection[str]) -> str:
    prefixes = (f"observed{number or ''}_" for number in itertools.count())
    return next(prefix for prefix in prefixes if not any(name.startswith(prefix) for name in names))
