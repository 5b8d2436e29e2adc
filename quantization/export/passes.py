"""Steps of an export: each changes a draft of the model in place, and says what it needs and what holds afterwards."""

from __future__ import annotations

import itertools
import string
from abc import ABC, abstractmethod
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import helper, numpy_helper

from network.onnx_graph import graphs, opset_of
from quantization.activations.kernels import WeightKernel, made_for
from quantization.errors import QuantizationError
from quantization.export.write_fields import GRAPH, INITIALIZER, copy_fields
from quantization.formats import WeightFormat
from quantization.storage.dequantize import FIRST_OPSET
from quantization.storage.packing import NATIVE_OPSET
from quantization.storage.parts import DIGITS, LETTERS, SCALE, storage
from quantization.storage.unpacking import DOMAIN, DOMAIN_VERSION
from quantization.storage.weights import QuantizedWeight

# The names that an export gives: one letter, which says what it is, and a suffix. Those of weights are in `storage`.
KERNEL_LETTER = "i"  # the weight for integer kernels, where others read it too
ACTIVATION_LETTERS = "xyqkrdt"  # scale, zero point, codes, capped codes, values before and behind them; the cap
BIAS_LETTERS = "efg"  # codes, scale, values
SUFFIX_LENGTH = 2
# the first IR versions with model-local functions, and with the types that opset 25 stores
_IR_OF_FUNCTIONS, _IR_OF_NATIVE = 8, 13
_LETTERS = LETTERS + KERNEL_LETTER + ACTIVATION_LETTERS + BIAS_LETTERS
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


def draft_without(
    model: onnx.ModelProto, initializers: Container[str], valueless: Container[str] = frozenset()
) -> onnx.ModelProto:
    """A copy of `model` that lacks some initializers, and the values of those in `valueless`, made without copying
    either."""
    copy = onnx.ModelProto()
    copy_fields(model, copy, lambda number: number != GRAPH)
    copy_fields(model.graph, copy.graph, lambda number: number != INITIALIZER)
    for tensor in model.graph.initializer:
        if tensor.name in valueless:
            copy.graph.initializer.append(without_values(tensor.name, tensor.data_type, tensor.dims))
        elif tensor.name not in initializers:
            copy.graph.initializer.append(tensor)
    return copy


def without_values(name: str, data_type: int, dims: Sequence[int]) -> onnx.TensorProto:
    """A tensor whose values a `quantization.export.write_fields.Payload` gives."""
    return onnx.TensorProto(name=name, data_type=data_type, dims=dims)


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


@dataclass(frozen=True, slots=True)
class StoredAs:
    """A weight of `shape` in a format, its scales along `channel_axis`."""

    format: WeightFormat
    shape: tuple[int, ...]
    channel_axis: int


@dataclass(frozen=True, slots=True)
class Packed:
    """Tensor `place` of `QuantizedWeight.tensors` of the weight called `weight`, and how long its values are."""

    weight: str
    place: int
    size_bytes: int


class StorePacked(Pass):
    """Give the graph tensors for the digits and scale of each weight, and a call that makes it under its own name.

    The tensors lack their values: `packed` says which those are.

    Args:
        weights: by initializer name.
        kernels: which of them integer kernels take, and how (`quantization.activations.kernels.weight_kernels`).
    """

    def __init__(self, weights: Mapping[str, StoredAs], kernels: Mapping[str, WeightKernel]) -> None:
        self._weights = weights
        self._kernels = kernels
        self.packed: dict[str, Packed] = {}
        """By tensor name; filled by `call`."""
        self.kernel_scales: dict[str, str] = {}
        """Names of the scales of the weights that integer kernels take; filled by `call`."""

    def requires(self, draft: onnx.ModelProto) -> None:
        """The draft has the operators that unpacking uses, none of our functions, and none of the weights."""
        if (opset := opset_of(draft)) < FIRST_OPSET:
            raise QuantizationError(
                f"packed weights need opset {FIRST_OPSET}, got a network of opset {opset}; normalise it first"
            )
        if any(o.domain == DOMAIN for o in draft.opset_import):
            raise QuantizationError(f"the network already calls functions of the domain {DOMAIN}; normalise it first")
        if present := self._weights.keys() & {t.name for t in draft.graph.initializer}:
            raise QuantizationError(f"the draft still holds the weights {', '.join(sorted(present))}")

    def call(self, draft: onnx.ModelProto) -> None:
        suffixes, opset = short_names(draft.graph), opset_of(draft)
        calls: list[onnx.NodeProto] = []
        functions: dict[str, bytes] = {}
        for name, weight in self._weights.items():
            suffix = next(suffixes)
            kernel = self._kernels.get(name)
            for number, form in enumerate(made_for(kernel)):
                stored = storage(weight.format, weight.shape, weight.channel_axis, form, opset)
                shared = form is not None and kernel is not None and kernel.others
                own = next(suffixes) if shared else suffix
                names = [part.letter + (suffix if part.letter in DIGITS else own) for part in stored.parts]
                for place, (part, called) in enumerate(zip(stored.parts, names, strict=True)):
                    if number == 0 or part.letter not in DIGITS:
                        draft.graph.initializer.append(without_values(called, part.data_type, part.dims))
                        self.packed[called] = Packed(name, place, part.size_bytes)
                made = KERNEL_LETTER + own if shared else name
                calls.append(stored.call(names, made))
                functions |= stored.function.bodies()
                if form is not None and kernel is not None:
                    self.kernel_scales[name] = SCALE + own
                    read_instead(draft.graph, kernel.nodes, name, made)
        insert_nodes(draft.graph, {-1: calls})
        add_functions(draft, functions)

    def ensures(self, draft: onnx.ModelProto) -> None:
        """Every weight is made once, from tensors that are there, by a function that is there."""
        made = [node.output[0] for node in draft.graph.node if node.domain == DOMAIN]
        tensors = [t.name for t in draft.graph.initializer]
        functions = {f.name for f in draft.functions if f.domain == DOMAIN}
        if not self._weights.keys() <= set(made) or len(made) != len(set(made)) or len(tensors) != len(set(tensors)):
            raise QuantizationError("the draft does not make each of its weights exactly once")
        for node in draft.graph.node:
            if node.domain == DOMAIN and (node.op_type not in functions or not set(node.input) <= set(tensors)):
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


def add_functions(draft: onnx.ModelProto, functions: Mapping[str, bytes]) -> None:
    """Functions by name, in the order of their names, with the import of their domain."""
    if not functions:
        return
    merged = dict(functions) | {f.name: f.SerializeToString(deterministic=True) for f in draft.functions}
    del draft.functions[:]
    draft.functions.extend(onnx.FunctionProto.FromString(merged[name]) for name in sorted(merged))
    if not any(o.domain == DOMAIN for o in draft.opset_import):
        draft.opset_import.append(helper.make_opsetid(DOMAIN, DOMAIN_VERSION))
    draft.ir_version = max(draft.ir_version, _IR_OF_NATIVE if opset_of(draft) >= NATIVE_OPSET else _IR_OF_FUNCTIONS)


def _value_names(graph: onnx.GraphProto) -> set[str]:
    names: set[str] = set()
    for inner in graphs(graph):
        names.update(value.name for value in [*inner.input, *inner.output, *inner.initializer])
        names.update(itertools.chain.from_iterable([*node.input, *node.output] for node in inner.node))
    return names


def short_names(graph: onnx.GraphProto) -> Iterator[str]:
    """Suffixes that are free with every letter that is put before them: two characters, after 3,844 of them three."""
    taken = _value_names(graph)
    for length in itertools.count(SUFFIX_LENGTH):
        for characters in itertools.product(_ALPHABET, repeat=length):
            suffix = "".join(characters)
            if taken.isdisjoint(letter + suffix for letter in _LETTERS):
                yield suffix


def insert_nodes(graph: onnx.GraphProto, behind: Mapping[int, Sequence[onnx.NodeProto]]) -> None:
    """Put nodes behind the one at each index; -1 is before all."""
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend(behind.get(-1, ()))
    for index, node in enumerate(nodes):
        graph.node.append(node)
        graph.node.extend(behind.get(index, ()))


def read_instead(graph: onnx.GraphProto, nodes: Container[str], old: str, new: str) -> None:
    """The nodes of these names read `new` where they read `old`."""
    for node in graph.node:
        if node.name in nodes:
            for place, name in enumerate(node.input):
                if name == old:
                    node.input[place] = new
