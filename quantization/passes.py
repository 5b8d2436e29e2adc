"""Steps of an export: each changes a draft of the model in place, and says what it needs and what holds afterwards."""

from __future__ import annotations

import itertools
import string
from abc import ABC, abstractmethod
from collections.abc import Container, Iterator, Mapping, Sequence

import onnx
from onnx import helper, numpy_helper

from quantization.dequantize import DOMAIN, DOMAIN_VERSION, FIRST_IR_VERSION, FIRST_OPSET, call, function
from quantization.errors import QuantizationError
from quantization.packing import pack
from quantization.weights import QuantizedWeight

DIGIT_LETTERS = "abc"  # digits, highest first
SCALE_LETTER = "s"
SUFFIX_LENGTH = 2
_ALPHABET = string.digits + string.ascii_letters


class Pass(ABC):
    """One step. `requires` and `ensures` raise `QuantizationError` where the draft is not as they say."""

    @abstractmethod
    def requires(self, draft: onnx.ModelProto) -> None: ...

    @abstractmethod
    def call(self, draft: onnx.ModelProto) -> None: ...

    @abstractmethod
    def ensures(self, draft: onnx.ModelProto) -> None: ...


def apply(draft: onnx.ModelProto, passes: Sequence[Pass]) -> None:
    """Run `passes` on `draft` in order, each with its checks."""
    for step in passes:
        step.requires(draft)
        step.call(draft)
        step.ensures(draft)


def draft_without(model: onnx.ModelProto, initializers: Container[str]) -> onnx.ModelProto:
    """A copy of `model` that lacks some initializers, made without copying them."""
    copy = onnx.ModelProto()
    _copy_fields(model, copy, skip="graph")
    _copy_fields(model.graph, copy.graph, skip="initializer")
    copy.graph.initializer.extend(t for t in model.graph.initializer if t.name not in initializers)
    return copy


def _copy_fields(source: onnx.ModelProto | onnx.GraphProto, target: object, skip: str) -> None:
    for field, value in source.ListFields():
        if field.name == skip:
            continue
        if isinstance(value, (str, bytes, int, float, bool)):
            setattr(target, field.name, value)
        else:
            getattr(target, field.name).MergeFrom(value)


class DropDebris(Pass):
    """Remove what only a person or the exporter needed: inferred shapes, and the documentation of nodes and tensors.

    Names stay, and so do the inputs, the outputs, and the documentation and metadata of the model itself.
    """

    def requires(self, draft: onnx.ModelProto) -> None:
        """Nothing."""

    def call(self, draft: onnx.ModelProto) -> None:
        for graph in graphs(draft.graph):
            graph.ClearField("value_info")
            graph.ClearField("quantization_annotation")
            graph.ClearField("metadata_props")
            for item in [*graph.node, *graph.initializer]:
                item.ClearField("doc_string")
                item.ClearField("metadata_props")
            for node in graph.node:
                for attribute in node.attribute:
                    attribute.ClearField("doc_string")

    def ensures(self, draft: onnx.ModelProto) -> None:
        if any(graph.value_info or graph.metadata_props for graph in graphs(draft.graph)):
            raise QuantizationError("a graph kept its inferred shapes or metadata")


class StorePacked(Pass):
    """Give the graph digits and a scale for each weight, and a call that makes the weight under its own name."""

    def __init__(self, weights: Mapping[str, QuantizedWeight]) -> None:
        self._weights = weights

    def requires(self, draft: onnx.ModelProto) -> None:
        """The draft has the types that packing uses, none of our functions, and none of the weights."""
        if (opset := _opset(draft)) < FIRST_OPSET:
            raise QuantizationError(
                f"packed weights need opset {FIRST_OPSET}, got a network of opset {opset}; normalise it first"
            )
        if any(o.domain == DOMAIN for o in draft.opset_import):
            raise QuantizationError(f"the network already calls functions of the domain {DOMAIN}; normalise it first")
        if present := self._weights.keys() & {t.name for t in draft.graph.initializer}:
            raise QuantizationError(f"the draft still holds the weights {', '.join(sorted(present))}")

    def call(self, draft: onnx.ModelProto) -> None:
        suffixes = _short_names(_value_names(draft.graph))
        calls, functions = [], {}
        for name, weight in self._weights.items():
            bits, suffix = weight.format.bits, next(suffixes)
            tensors = [*pack(weight.codes, bits), numpy_helper.from_array(weight.scale)]
            for letter, tensor in zip([*DIGIT_LETTERS[: len(tensors) - 1], SCALE_LETTER], tensors, strict=True):
                tensor.name = letter + suffix
            draft.graph.initializer.extend(tensors)
            calls.append(call(bits, weight.shape, [tensor.name for tensor in tensors], name))
            functions[calls[-1].op_type] = function(bits, weight.shape, _opset(draft))
        nodes = list(draft.graph.node)
        del draft.graph.node[:]
        draft.graph.node.extend([*calls, *nodes])
        draft.functions.extend(onnx.FunctionProto.FromString(functions[name]) for name in sorted(functions))
        if self._weights:
            draft.opset_import.append(helper.make_opsetid(DOMAIN, DOMAIN_VERSION))
            draft.ir_version = max(draft.ir_version, FIRST_IR_VERSION)

    def ensures(self, draft: onnx.ModelProto) -> None:
        """Every weight is made once, from tensors that are there, by a function that is there."""
        made = {node.output[0]: node for node in draft.graph.node if node.domain == DOMAIN}
        tensors = [t.name for t in draft.graph.initializer]
        functions = {f.name for f in draft.functions if f.domain == DOMAIN}
        if made.keys() != self._weights.keys() or len(tensors) != len(set(tensors)):
            raise QuantizationError("the draft does not make each of its weights exactly once")
        for node in made.values():
            if node.op_type not in functions or not set(node.input) <= set(tensors):
                raise QuantizationError(f"weight {node.output[0]} lacks its function or one of its tensors")


class StoreFloats(Pass):
    """Give the graph the values that `StorePacked` stands for, as float32 initializers."""

    def __init__(self, weights: Mapping[str, QuantizedWeight]) -> None:
        self._weights = weights

    def requires(self, draft: onnx.ModelProto) -> None:
        """None of the weights is there."""
        if present := self._weights.keys() & {t.name for t in draft.graph.initializer}:
            raise QuantizationError(f"the draft still holds the weights {', '.join(sorted(present))}")

    def call(self, draft: onnx.ModelProto) -> None:
        draft.graph.initializer.extend(numpy_helper.from_array(w.dequantize(), n) for n, w in self._weights.items())

    def ensures(self, draft: onnx.ModelProto) -> None:
        """All of them are."""
        if missing := self._weights.keys() - {t.name for t in draft.graph.initializer}:
            raise QuantizationError(f"the draft lacks the weights {', '.join(sorted(missing))}")


class AddMetadata(Pass):
    """Set entries of the model's metadata, over entries of the same key."""

    def __init__(self, metadata: Mapping[str, str]) -> None:
        self._metadata = metadata

    def requires(self, draft: onnx.ModelProto) -> None:
        """Nothing."""

    def call(self, draft: onnx.ModelProto) -> None:
        kept = [entry for entry in draft.metadata_props if entry.key not in self._metadata]
        del draft.metadata_props[:]
        draft.metadata_props.extend(kept)
        draft.metadata_props.extend(onnx.StringStringEntryProto(key=k, value=v) for k, v in self._metadata.items())

    def ensures(self, draft: onnx.ModelProto) -> None:
        """Every entry is there, once."""
        found = [(e.key, e.value) for e in draft.metadata_props if e.key in self._metadata]
        if dict(found) != dict(self._metadata) or len(found) != len(self._metadata):
            raise QuantizationError("the draft's metadata is not what was asked for")


def _opset(draft: onnx.ModelProto) -> int:
    return next((o.version for o in draft.opset_import if o.domain in ("", "ai.onnx")), 0)


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """`graph` and every graph within its nodes (If, Loop, Scan)."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                yield from graphs(inner)


def _value_names(graph: onnx.GraphProto) -> set[str]:
    names: set[str] = set()
    for inner in graphs(graph):
        names.update(value.name for value in [*inner.input, *inner.output, *inner.initializer])
        names.update(itertools.chain.from_iterable([*node.input, *node.output] for node in inner.node))
    return names


def _short_names(taken: set[str]) -> Iterator[str]:
    """Suffixes that are free with every letter that we put before them: two characters, after 3,844 of them three."""
    for length in itertools.count(SUFFIX_LENGTH):
        for characters in itertools.product(_ALPHABET, repeat=length):
            suffix = "".join(characters)
            if taken.isdisjoint(letter + suffix for letter in [*DIGIT_LETTERS, SCALE_LETTER]):
                yield suffix
