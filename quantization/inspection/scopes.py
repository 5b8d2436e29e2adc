"""Constants of a graph: which values depend on nothing that is fed, and what they are.

A file may keep a weight as it likes: as an initializer, in a Constant node, behind DequantizeLinear, behind arithmetic
of its own making (Cast, Sub, Mul, Gather from a table, shifts of bits). All of these are values that depend on tensors
of the file alone. ONNX Runtime computes them, without optimisations, so that no dialect has to be known here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, inliner, numpy_helper

from network.onnx_graph import names_read, own_inputs, subgraphs

Array = NDArray[Any]

_RANDOM = frozenset({"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial"})


class Scope:
    """One graph with what it sees of those around it."""

    def __init__(self, model: ModelProto, graph: GraphProto, outer: Scope | None = None, path: str = "") -> None:
        self.graph = graph
        self.path = path
        self._model = model
        self.tensors: dict[str, TensorProto] = dict(outer.tensors) if outer else {}
        self.makers: dict[str, NodeProto] = dict(outer.makers) if outer else {}
        self.readers: dict[str, list[NodeProto]] = {}
        self.outputs = {value.name for value in graph.output}
        self._constant: dict[str, bool] = {}
        for value in own_inputs(graph):
            self.tensors.pop(value.name, None)
            self.makers.pop(value.name, None)
        self.tensors.update((tensor.name, tensor) for tensor in graph.initializer)
        for node in graph.node:
            for name in filter(None, node.output):
                self.makers[name] = node
            if node.op_type == "Constant" and node.output and node.attribute and node.attribute[0].name == "value":
                self.tensors[node.output[0]] = node.attribute[0].t
            for name in set(names_read(node)):
                self.readers.setdefault(name, []).append(node)

    def inner(self) -> Iterator[Scope]:
        """This scope and those within it, in graph order."""
        yield self
        for node in self.graph.node:
            for place, graph in enumerate(subgraphs(node)):
                yield from Scope(self._model, graph, self, f"{self.path}{node.name or node.op_type}/{place}/").inner()

    def is_constant(self, name: str) -> bool:
        """Whether the value depends on tensors of the file alone."""
        stack: list[str] = [name]
        opened: set[str] = set()
        while stack:  # no recursion: chains of nodes are as long as a file likes
            current = stack[-1]
            node = self.makers.get(current)
            if current in self._constant:
                stack.pop()
            elif current in self.tensors or node is None or not _is_plain(node):
                self._constant[stack.pop()] = current in self.tensors
            elif current in opened:
                self._constant[stack.pop()] = all(self._constant.get(part, False) for part in node.input if part)
            else:
                opened.add(current)
                stack.extend(str(part) for part in node.input if part and part not in opened)
        return self._constant[name]

    def sources(self, name: str) -> tuple[list[NodeProto], list[str]]:
        """The nodes that make a constant, each after those it reads, and the names of the tensors that they read."""
        nodes: list[NodeProto] = []
        tensors: dict[str, None] = {}
        seen: set[int] = set()
        stack: list[tuple[str, bool]] = [(name, False)]
        while stack:
            current, is_left = stack.pop()
            node = self.makers.get(current)
            if is_left and node is not None:
                nodes.append(node)
            elif current in self.tensors:
                tensors[current] = None
            elif node is not None and id(node) not in seen:
                seen.add(id(node))
                stack.append((current, True))
                stack.extend((part, False) for part in reversed(node.input) if part)
        return nodes, list(tensors)

    def value(self, name: str) -> Array | None:
        """A constant, None where the name is empty or stands for no constant, or ONNX Runtime cannot compute it."""
        if not name or not self.is_constant(name):
            return None
        return self.values([name])[0]

    def values(
        self, names: Sequence[str], replaced: Mapping[str, TensorProto] | None = None, extra: Sequence[NodeProto] = ()
    ) -> list[Array | None]:
        """Constants by name, some tensors `replaced`, with `extra` nodes over them."""
        replaced = replaced or {}
        made = {name for node in extra for name in node.output}
        plain = {name: _array(replaced.get(name, self.tensors[name])) for name in names if name in self.tensors}
        wanted = [name for name in names if name not in self.tensors]
        computed = self._run(wanted, replaced, [node for node in extra if made & set(wanted)])
        return [plain[name] if name in plain else computed.get(name) for name in names]

    def _run(
        self, wanted: Sequence[str], replaced: Mapping[str, TensorProto], extra: Sequence[NodeProto]
    ) -> dict[str, Array | None]:
        if not wanted:
            return {}
        made = {name for node in extra for name in node.output}
        read = [name for node in extra for name in node.input if name and name not in made]
        nodes: dict[int, NodeProto] = {}
        tensors: dict[str, None] = {}
        for name in (*read, *(name for name in wanted if name not in made)):
            own, needed = self.sources(name)
            nodes.update((id(node), node) for node in own)
            tensors.update(dict.fromkeys(needed))
        model = ModelProto(ir_version=max(self._model.ir_version, 4))
        model.opset_import.extend(self._model.opset_import)
        model.graph.name = "constants"
        model.graph.node.extend((*nodes.values(), *extra))
        for name in tensors:
            model.graph.initializer.add().CopyFrom(replaced.get(name, self.tensors[name]))
            model.graph.initializer[-1].name = name
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
        try:
            return dict(zip(wanted, _unoptimised(model).run(list(wanted), {}), strict=True))
        except Exception:  # noqa: BLE001  (ONNX Runtime raises half a dozen classes, for any file)
            if len(wanted) == 1:
                return {wanted[0]: None}
        return {name: self._run([name], replaced, extra).get(name) for name in wanted}


def _is_plain(node: NodeProto) -> bool:
    return node.op_type not in _RANDOM and not any(True for _ in subgraphs(node)) and bool(node.output)


def _array(tensor: TensorProto) -> Array | None:
    try:
        values = numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError):  # it does not hold what type and shape say
        return None
    return np.asarray(values)


def _unoptimised(model: ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def without_functions(model: ModelProto) -> ModelProto:
    """The model with calls of its own functions written out."""
    if not model.functions:
        return model
    inlined: ModelProto = inliner.inline_local_functions(model, convert_version=False)
    return inlined
