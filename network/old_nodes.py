"""A node of an old opset, what is known of the values around it, and the newer nodes that are written in its place."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from network.errors import ModelNotTaken
from network.onnx_graph import attributes, graphs, is_standard, label, nodes, shape_of

UPGRADED_OPSET = 18
"""What a network of an older opset is written in."""


class OldNode:
    """A node of an old opset, what is known of the values it reads, and the nodes that stand for it."""

    def __init__(self, node: NodeProto, opset: int, known: Known, taken: set[str]) -> None:
        self.node, self.opset, self._known, self._taken = node, opset, known, taken
        self.given = attributes(node)
        self.new: list[NodeProto] = []

    def rank(self, name: str) -> int | None:
        shape = self._known.shapes.get(name)
        return None if shape is None else len(shape)

    def constant(self, name: str) -> np.ndarray[Any, Any] | None:
        tensor = self._known.constants.get(name)
        return None if tensor is None else np.asarray(numpy_helper.to_array(tensor))

    def input(self, index: int) -> str:
        return self.node.input[index] if index < len(self.node.input) else ""

    def is_read(self, name: str) -> bool:
        """Whether a node reads the value, or a graph returns it."""
        return name in self._known.read

    def made(self, values: ArrayLike, kind: int = TensorProto.INT64) -> str:
        """A constant of that element type."""
        array = np.asarray(values, helper.tensor_dtype_to_np_dtype(kind))
        return self.add("Constant", value=numpy_helper.from_array(array))

    def made_like(self, value: float, name: str) -> str:
        """A constant of the element type of the value `name`, float32 where it is not known."""
        return self.made(value, self.type_of(name) or TensorProto.FLOAT)

    def free_name(self) -> str:
        """A name that nothing in the model has."""
        numbered = (f"{label(self.node)}/upgraded_{number}" for number in itertools.count(1))
        name = next(name for name in numbered if name not in self._taken)
        self._taken.add(name)
        return name

    def type_of(self, name: str) -> int:
        """The element type, 0 where it is not known."""
        return self._known.types.get(name, 0)

    def add(self, op_type: str, *inputs: str, **given: Any) -> str:
        """A new node; returns its output."""
        name = self.free_name()
        self.new.append(helper.make_node(op_type, list(inputs), [name], name, **given))
        return name

    def give(self, output: str, op_type: str, *inputs: str, **given: Any) -> None:
        """A new node that makes the value `output`."""
        self.new.append(helper.make_node(op_type, list(inputs), [output], self.free_name(), **given))

    def end(self, op_type: str, *inputs: str, **given: Any) -> None:
        """The new node that has the name and the outputs of the old one."""
        last = helper.make_node(op_type, list(inputs), list(self.node.output), self.node.name, **given)
        last.doc_string = self.node.doc_string
        last.metadata_props.extend(self.node.metadata_props)
        self.new.append(last)

    def without(self, *names: str) -> dict[str, Any]:
        """The attributes but for these."""
        return {name: value for name, value in self.given.items() if name not in names}

    def refuse(self, what: str) -> ModelNotTaken:
        return ModelNotTaken(
            f"node {label(self.node)!r} ({self.node.op_type} of opset {self.opset}) {what}, which newer opsets cannot "
            f"say; export the model with opset {UPGRADED_OPSET} or newer"
        )


class Known:
    """Element types, shapes and constants of the values that the nodes of one graph may read, by name, and the names
    that anything in the model reads."""

    def __init__(self, read: frozenset[str], around: Known | None = None) -> None:
        self.read = read
        self.types: dict[str, int] = dict(around.types) if around else {}
        self.shapes: dict[str, tuple[int | None, ...]] = dict(around.shapes) if around else {}
        self.constants: dict[str, TensorProto] = dict(around.constants) if around else {}

    @classmethod
    def of(cls, model: ModelProto) -> Known:
        """What is known outside of the model's graph: nothing but the names that are read."""
        read = {name for node in nodes(model.graph) for name in node.input}
        read.update(value.name for graph in graphs(model.graph) for value in graph.output)
        return cls(frozenset(read))

    def inside(self, graph: GraphProto, inferred: GraphProto) -> Known:
        """With what is known of `graph`, which lies within this one; a name of its own hides one of the same outside.

        Args:
            graph: as it is.
            inferred: with the types and shapes of its values.
        """
        known = Known(self.read, self)
        for name in (name for node in graph.node for name in node.output):
            for table in (known.types, known.shapes, known.constants):
                table.pop(name, None)
        for value in (*inferred.input, *inferred.value_info, *inferred.output):
            if (shape := shape_of(value)) is not None:
                known.shapes[value.name] = shape
            known.types[value.name] = value.type.tensor_type.elem_type
        for tensor in graph.initializer:
            known._add(tensor.name, tensor)
        for node in graph.node:
            if node.op_type == "Constant" and is_standard(node) and "value" in (given := attributes(node)):
                known._add(node.output[0], given["value"])
        return known

    def _add(self, name: str, tensor: TensorProto) -> None:
        self.types[name], self.shapes[name] = tensor.data_type, tuple(tensor.dims)
        self.constants[name] = tensor
