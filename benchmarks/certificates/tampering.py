"""Hands that change the tensors of a file, each giving a changed copy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

Array = NDArray[Any]


def copy_of(model: ModelProto) -> ModelProto:
    return ModelProto.FromString(model.SerializeToString())


def tensor(model: ModelProto, name: str) -> Array:
    """The values of an initializer."""
    return np.array(numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name)))


def with_tensor(model: ModelProto, name: str, change: Callable[[Array], Array]) -> ModelProto:
    """With other values in an initializer, of its type."""
    result = copy_of(model)
    found = next(t for t in result.graph.initializer if t.name == name)
    before = numpy_helper.to_array(found)
    changed = np.asarray(change(np.array(before))).astype(before.dtype)
    found.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(changed), name))
    return result


def with_values(model: ModelProto, name: str, values: Array) -> ModelProto:
    """With a new initializer."""
    result = copy_of(model)
    result.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
    return result


def without_tensors(model: ModelProto, names: list[str]) -> ModelProto:
    result = copy_of(model)
    for found in [t for t in result.graph.initializer if t.name in names]:
        result.graph.initializer.remove(found)
    return result


def node_of(model: ModelProto, operator: str, reads: str) -> NodeProto:
    """The node of an operator that reads a value."""
    return next(node for node in model.graph.node if node.op_type == operator and reads in node.input)


def maker_of(model: ModelProto, name: str) -> NodeProto:
    return next(node for node in model.graph.node if name in node.output)


def tensors_ending(model: ModelProto, ending: str) -> list[str]:
    return [t.name for t in model.graph.initializer if t.name.endswith(ending)]


def reading(model: ModelProto, old: str, new: str) -> ModelProto:
    """With all nodes reading `new` where they read `old`."""
    result = copy_of(model)
    for node in result.graph.node:
        for place, name in enumerate(node.input):
            if name == old:
                node.input[place] = new
    return result


def exchanged(model: ModelProto, first: str, second: str) -> ModelProto:
    """With two outputs made under each other's names; the list of outputs stays as it is."""
    result = copy_of(model)
    other = {first: second, second: first}
    for node in result.graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                names[place] = other.get(name, name)
    return result


def reordered(model: ModelProto) -> ModelProto:
    """With its outputs listed backwards."""
    result = copy_of(model)
    outputs = list(reversed(result.graph.output))
    del result.graph.output[:]
    result.graph.output.extend(outputs)
    return result


def renamed_output(model: ModelProto, old: str, new: str) -> ModelProto:
    result = copy_of(model)
    for node in result.graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                names[place] = new if name == old else name
    for value in result.graph.output:
        value.name = new if value.name == old else value.name
    return result


def in_order(array: Array, order: Array) -> Array:
    """The array with its values in another order."""
    return np.asarray(array.ravel()[order].reshape(array.shape))
