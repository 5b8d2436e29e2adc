"""Steps of an export: each changes a draft of the model in place, and returns the names that it gave.

They work on protobufs, because a file has to have the same bytes every time: `onnx_ir` orders and drops fields in its
own way. That a file stores what it should is checked where it is read back (`quantization.export.audit`).
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import onnx
from onnx import helper, numpy_helper

from network.graph import ChannelAxis
from network.onnx_graph import graphs, opset_of
from quantization.activations.kernels import WeightKernel, made_for
from quantization.errors import QuantizationError
from quantization.export.messages import without_values
from quantization.formats import WeightFormat
from quantization.storage.dequantize import FIRST_OPSET
from quantization.storage.packing import NATIVE_OPSET
from quantization.storage.parts import DIGITS, LETTERS, SCALE, storage
from quantization.storage.unpacking import DOMAIN, DOMAIN_VERSION
from quantization.storage.weights import QuantizedWeight

# The names that an export gives: one letter, which says what it is, and a suffix. Those of weights are in `storage`.
_KERNEL_LETTER = "i"  # the weight for integer kernels, where others read it too
ACTIVATION_LETTERS = "xyqkrdt"  # scale, zero point, codes, capped codes, values before and behind them; the cap
BIAS_LETTERS = "efg"  # codes, scale, values
SUFFIX_LENGTH = 2
# the first IR versions with model-local functions, and with the types that opset 25 stores
_IR_OF_FUNCTIONS, _IR_OF_NATIVE = 8, 13
_LETTERS = LETTERS + _KERNEL_LETTER + ACTIVATION_LETTERS + BIAS_LETTERS
_ALPHABET = string.digits + string.ascii_letters


@dataclass(frozen=True, slots=True)
class StoredAs:
    """A weight of `shape` in a format, its scales along `channel_axis`."""

    format: WeightFormat
    shape: tuple[int, ...]
    channel_axis: ChannelAxis


@dataclass(frozen=True, slots=True)
class Missing:
    """Values that a draft lacks: `size_bytes` of them, of tensor `place` among those that store `initializer`."""

    initializer: str
    place: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class PackedWeights:
    """What `store_packed` added: values that are missing, by tensor name, and the names of the scales of the weights
    that integer kernels take, by initializer name."""

    missing: dict[str, Missing] = field(default_factory=dict)
    kernel_scales: dict[str, str] = field(default_factory=dict)


def drop_debris(draft: onnx.ModelProto) -> None:
    """Remove what only a person or the exporter needed: inferred shapes, and the documentation of nodes and tensors.

    Names stay, and so do the inputs, the outputs, and the documentation and metadata of the model itself.
    """
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


def store_packed(
    draft: onnx.ModelProto, weights: Mapping[str, StoredAs], kernels: Mapping[str, WeightKernel]
) -> PackedWeights:
    """Give the graph tensors for the digits and scale of each weight, and a call that makes it under its own name.

    Args:
        draft: without the weights.
        weights: by initializer name.
        kernels: which of them integer kernels take, and how (`quantization.activations.kernels.weight_kernels`).

    Raises:
        QuantizationError: the draft lacks the operators that unpacking uses, or has functions of ours already.
    """
    if (opset := opset_of(draft)) < FIRST_OPSET:
        raise QuantizationError(
            f"packed weights need opset {FIRST_OPSET}, got a network of opset {opset}; normalise it first"
        )
    if any(o.domain == DOMAIN for o in draft.opset_import):
        raise QuantizationError(f"the network already calls functions of the domain {DOMAIN}; normalise it first")
    suffixes = short_names(draft.graph)
    calls: list[onnx.NodeProto] = []
    functions: dict[str, bytes] = {}
    packed = PackedWeights()
    for name, weight in weights.items():
        suffix = next(suffixes)
        kernel = kernels.get(name)
        for number, form in enumerate(made_for(kernel)):
            copies = 1 if form is None or kernel is None else kernel.copies(weight.format.bits)
            stored = storage(weight.format, weight.shape, weight.channel_axis, form, opset, copies)
            shared = form is not None and kernel is not None and kernel.others
            own = next(suffixes) if shared else suffix
            names = [part.letter + (suffix if part.letter in DIGITS else own) for part in stored.parts]
            for place, (part, called) in enumerate(zip(stored.parts, names, strict=True)):
                if number == 0 or part.letter not in DIGITS:
                    draft.graph.initializer.append(without_values(called, part.data_type, part.dims))
                    packed.missing[called] = Missing(name, place, part.size_bytes)
            made = [_KERNEL_LETTER + own if shared else name]
            made += [_KERNEL_LETTER + next(suffixes) for _ in range(copies - 1)]
            calls.append(stored.call(names, made))
            functions |= stored.function.bodies()
            if form is not None and kernel is not None:
                packed.kernel_scales[name] = SCALE + own
                readers = [node.name for node in draft.graph.node if node.name in kernel.nodes]
                for reader, read in zip(readers, itertools.cycle(made), strict=False):
                    rename_reads(draft.graph, name, read, (reader,))
    insert_nodes(draft.graph, {-1: calls})
    add_functions(draft, functions)
    return packed


def store_floats(draft: onnx.ModelProto, weights: Mapping[str, QuantizedWeight]) -> None:
    """Give the graph the values that `store_packed` stands for, as float32 initializers."""
    draft.graph.initializer.extend(numpy_helper.from_array(w.dequantize(), n) for n, w in weights.items())


def add_metadata(draft: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    """Set entries of the model's metadata, over entries of the same key."""
    kept = [entry for entry in draft.metadata_props if entry.key not in metadata]
    del draft.metadata_props[:]
    draft.metadata_props.extend(kept)
    draft.metadata_props.extend(onnx.StringStringEntryProto(key=k, value=v) for k, v in metadata.items())


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


def short_names(graph: onnx.GraphProto) -> Iterator[str]:
    """Suffixes that are free with every letter that is put before them: two characters, after 3,844 of them three."""
    taken: set[str] = set()
    for inner in graphs(graph):
        taken.update(value.name for value in [*inner.input, *inner.output, *inner.initializer])
        taken.update(itertools.chain.from_iterable([*node.input, *node.output] for node in inner.node))
    for length in itertools.count(SUFFIX_LENGTH):
        for characters in itertools.product(_ALPHABET, repeat=length):
            suffix = "".join(characters)
            if taken.isdisjoint(letter + suffix for letter in _LETTERS):
                yield suffix


def insert_nodes(graph: onnx.GraphProto, behind: Mapping[int, Sequence[onnx.NodeProto]]) -> None:
    """Put nodes behind the one at each index; -1 is before all."""
    if not any(behind.values()):
        return
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend(behind.get(-1, ()))
    for index, node in enumerate(nodes):
        graph.node.append(node)
        graph.node.extend(behind.get(index, ()))


def rename_reads(graph: onnx.GraphProto, old: str, new: str, nodes: Container[str] | None = None) -> None:
    """Nodes read `new` where they read `old`: those of the graph with these names, or all, in inner graphs too."""
    for inner in graphs(graph) if nodes is None else (graph,):
        for node in inner.node:
            if nodes is None or node.name in nodes:
                for place, name in enumerate(node.input):
                    if name == old:
                        node.input[place] = new
