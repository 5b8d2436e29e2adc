"""Sound files changed in one place or a few: bits and pieces of the file, or fields of the graph."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

NUMBERS = (0, 1, -1, 2, 3, 7, 18, 64, 255, 65_536, 1 << 31, -(1 << 31), 1 << 40, (1 << 63) - 1, -(1 << 63))
WORDS = ("", "x", "y", "W", "a\0b", "../x", "=1+1", "Relu", "Loop", "N", "\u202eabc", "x" * 5000, "<b>", "$(id)")
OPERATORS = (
    *("Relu", "Conv", "MatMul", "Gemm", "Reshape", "Transpose", "Gather", "Concat", "Split", "Slice", "Pad", "Resize"),
    *("ConvTranspose", "LSTM", "GRU", "RNN", "Einsum", "TopK", "Where", "Cast", "Expand", "Tile", "ConstantOfShape"),
    *("Softmax", "LayerNormalization", "BatchNormalization", "MaxPool", "AveragePool", "ReduceMean", "CumSum"),
    *("QuantizeLinear", "DequantizeLinear", "MatMulInteger", "NonZero", "ScatterND", "GatherND", "GatherElements"),
    *("OneHot", "Range", "Shape", "Size", "Identity", "Dropout", "If", "Loop", "Scan", "SequenceAt", "SplitToSequence"),
    *("Trilu", "EyeLike", "DepthToSpace", "SpaceToDepth", "GridSample", "NonMaxSuppression", "RoiAlign", "STFT", "DFT"),
    *("Attention", "RotaryEmbedding", "RMSNormalization", "Gelu", "Clip", "Compress", "Unique", "BitShift", "Mod"),
)


def flipped(raw: bytes, chance: random.Random) -> bytes:
    """Some bits turned over."""
    data = bytearray(raw)
    for _ in range(chance.randint(1, 8)):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


def cut(raw: bytes, chance: random.Random) -> bytes:
    """The end missing."""
    return raw[: chance.randrange(len(raw))]


def spliced(raw: bytes, chance: random.Random) -> bytes:
    """A piece left out, repeated, or overwritten with another."""
    start = chance.randrange(len(raw))
    stop = min(len(raw), start + chance.randint(1, 60))
    piece = raw[start:stop]
    other = chance.randrange(len(raw))
    put = chance.choice((b"", piece * 2, piece * 50, raw[other : other + len(piece)], bytes(len(piece))))
    return raw[:start] + put + raw[stop:]


def _messages(model: ModelProto) -> list[Any]:
    found: list[Any] = []
    stack: list[Any] = [model]
    while stack:
        found.append(stack.pop())
        for field, content in found[-1].ListFields():
            if field.type == field.TYPE_MESSAGE:
                stack.extend(content if field.is_repeated else (content,))
    return found


def _graphs(model: ModelProto) -> list[GraphProto]:
    return [message for message in _messages(model) if isinstance(message, GraphProto)]


def _nodes(model: ModelProto) -> list[NodeProto]:
    return [message for message in _messages(model) if isinstance(message, NodeProto)]


def _any_field(model: ModelProto, chance: random.Random) -> None:
    """One field somewhere: cleared, another number or word, or a copy of a part from elsewhere in the model."""
    holder = chance.choice(_messages(model))
    fields = [field for field, _ in holder.ListFields()]
    field = chance.choice(fields if fields and chance.random() < 0.7 else list(holder.DESCRIPTOR.fields))
    content = getattr(holder, field.name)
    if chance.random() < 0.15:
        holder.ClearField(field.name)
    elif field.is_repeated and content and chance.random() < 0.3:
        del content[chance.randrange(len(content))]
    elif field.type == field.TYPE_MESSAGE:
        donors = [part for part in _messages(model) if part.DESCRIPTOR is field.message_type]
        donated = chance.choice(donors).SerializePartialToString() if donors else b""
        (content.add() if field.is_repeated else content).ParseFromString(donated)
    else:
        word = chance.choice(WORDS)
        value = {field.TYPE_STRING: word, field.TYPE_BYTES: word.encode(), field.TYPE_FLOAT: float("nan")}.get(
            field.type, chance.choice(NUMBERS)
        )
        try:
            if field.is_repeated:
                content.append(value)
            else:
                setattr(holder, field.name, value)
        except (ValueError, OverflowError):
            return  # a number that this field does not hold


def _types(model: ModelProto, chance: random.Random) -> None:
    """Another element type of a tensor or a value."""
    holders = [part for part in _messages(model) if isinstance(part, TensorProto | onnx.TypeProto.Tensor)]
    part = chance.choice(holders)
    kind = chance.choice((*range(27), 99, -1))
    setattr(part, "data_type" if isinstance(part, TensorProto) else "elem_type", kind)


def _lengths(model: ModelProto, chance: random.Random) -> None:
    """A length of a tensor or of a declared shape: negative, huge, one more, one axis more or less."""
    tensors = [part for part in _messages(model) if isinstance(part, TensorProto)]
    shapes = [part for part in _messages(model) if isinstance(part, onnx.TensorShapeProto)]
    if tensors and (chance.random() < 0.5 or not shapes):
        dims = chance.choice(tensors).dims
        number = chance.choice((*NUMBERS, *(length + 1 for length in dims)))
        if dims and chance.random() < 0.7:
            dims[chance.randrange(len(dims))] = number
        else:
            dims.append(number)
    elif shapes:
        shape = chance.choice(shapes)
        if shape.dim and chance.random() < 0.7:
            chance.choice(list(shape.dim)).dim_value = chance.choice(NUMBERS)
        elif shape.dim and chance.random() < 0.5:
            del shape.dim[chance.randrange(len(shape.dim))]
        else:
            shape.dim.add().dim_value = chance.choice(NUMBERS)


def _attributes(model: ModelProto, chance: random.Random) -> None:
    """Numbers, words or types of an attribute; or one less, or one that does not belong there."""
    node = chance.choice(_nodes(model))
    if not node.attribute or chance.random() < 0.2:
        name = chance.choice(("axis", "group", "to", "perm", "pads", "strides", "equation", "k", "hidden_size", "mode"))
        value = chance.choice((chance.choice(NUMBERS), [chance.choice(NUMBERS) for _ in range(4)], "abc", 0.5))
        node.attribute.append(helper.make_attribute(name, value))
        return
    attribute = chance.choice(list(node.attribute))
    if chance.random() < 0.15:
        node.attribute.remove(attribute)
    elif attribute.type == AttributeProto.INT:
        attribute.i = chance.choice(NUMBERS)
    elif attribute.type == AttributeProto.INTS and attribute.ints:
        attribute.ints[chance.randrange(len(attribute.ints))] = chance.choice(NUMBERS)
    elif attribute.type == AttributeProto.FLOAT:
        attribute.f = chance.choice((float("nan"), float("inf"), -1.0, 0.0, 1e38))
    elif attribute.type == AttributeProto.STRING:
        attribute.s = chance.choice(WORDS).encode()
    else:
        attribute.type = chance.randrange(15)


def _wires(model: ModelProto, chance: random.Random) -> None:
    """An input or output of a node: another value, a later one (a cycle), one that nobody makes, none at all."""
    nodes = _nodes(model)
    node = chance.choice(nodes)
    names = [name for other in nodes for name in (*other.input, *other.output)] + ["nobody", ""]
    ends = node.input if node.input and chance.random() < 0.7 else node.output
    if ends and chance.random() < 0.8:
        ends[chance.randrange(len(ends))] = chance.choice(names)
    elif chance.random() < 0.5:
        ends.append(chance.choice(names))
    elif ends:
        del ends[-1]


def _order(model: ModelProto, chance: random.Random) -> None:
    """Nodes, inputs, outputs or initializers in another order, twice, or missing."""
    graph = chance.choice(_graphs(model))
    parts = chance.choice((graph.node, graph.input, graph.output, graph.initializer))
    if not parts:
        return
    copies = list(parts)
    which = chance.randrange(len(copies))
    way = chance.randrange(4)
    if way == 0:
        chance.shuffle(copies)
    elif way == 1:
        copies.append(copies[which])
    elif way == 2:
        del copies[which]
    else:
        copies[which], copies[0] = copies[0], copies[which]
    copies = [type(part).FromString(part.SerializePartialToString()) for part in copies]
    del parts[:]
    parts.extend(copies)


def _operators(model: ModelProto, chance: random.Random) -> None:
    """Another operator, with the inputs and attributes that there are."""
    node = chance.choice(_nodes(model))
    node.op_type = chance.choice(OPERATORS)
    if chance.random() < 0.2:
        node.domain = chance.choice(("", "ai.onnx", "com.microsoft", "ai.onnx.ml", "own", "ai.onnx.preview.training"))


def _constants(model: ModelProto, chance: random.Random) -> None:
    """A number of a constant: of a shape or an index the extremes, of a weight what is not finite."""
    tensors = [part for part in _messages(model) if isinstance(part, TensorProto)]
    chance.shuffle(tensors)
    for tensor in tensors:
        try:
            array = numpy_helper.to_array(tensor).copy()
        except (ValueError, TypeError):
            continue
        if not array.size or array.dtype.kind not in "iuf":
            continue
        place = chance.randrange(array.size)
        if array.dtype.kind == "f":
            array.flat[place] = chance.choice((np.nan, np.inf, -np.inf, 0, 1e30 if array.itemsize > 2 else 1e4, 1e-45))
            if chance.random() < 0.3:
                array[...] = array.flat[place]
        else:
            limits = np.iinfo(array.dtype)
            array.flat[place] = chance.choice([n for n in NUMBERS if limits.min <= n <= limits.max])
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        return


def _versions(model: ModelProto, chance: random.Random) -> None:
    """Versions of ONNX and of operator sets."""
    if chance.random() < 0.3:
        model.ir_version = chance.choice((0, 1, 3, 13, 99, -1, (1 << 63) - 1))
    elif model.opset_import and chance.random() < 0.7:
        chance.choice(list(model.opset_import)).version = chance.choice((0, 1, 6, 9, 13, 18, 21, 26, 99, -1))
    else:
        model.opset_import.append(helper.make_opsetid(chance.choice(("", "own", "com.microsoft")), 7))


def _functions(model: ModelProto, chance: random.Random) -> None:
    """A function that calls itself, or takes the place of an operator."""
    node = chance.choice(_nodes(model))
    body = [helper.make_node(node.op_type, list(node.input)[:1], ["b"], domain=node.domain)]
    opsets = list(model.opset_import) or [helper.make_opsetid("", 18)]
    name = chance.choice((node.op_type, "F"))
    domain = chance.choice((node.domain, "own"))
    model.functions.append(helper.make_function(domain, name, list(node.input)[:1], ["b"], body, opsets))
    if chance.random() < 0.5:
        node.domain, node.op_type = domain, name


def _words(model: ModelProto, chance: random.Random) -> None:
    """A name of anything: huge, with control characters, a path, markup, twice the same."""
    word = chance.choice(WORDS)
    graph = chance.choice(_graphs(model))
    parts = [part for part in (*graph.node, *graph.input, *graph.output, *graph.initializer) if part.name]
    if parts and chance.random() < 0.8:
        chance.choice(parts).name = word
    else:
        entry = model.metadata_props.add()
        entry.key, entry.value = word, word * 9


GRAPH_CHANGES: Mapping[str, Callable[[ModelProto, random.Random], None]] = {
    "field": _any_field,
    "type": _types,
    "length": _lengths,
    "attribute": _attributes,
    "wire": _wires,
    "order": _order,
    "operator": _operators,
    "constant": _constants,
    "version": _versions,
    "function": _functions,
    "word": _words,
}
FILE_CHANGES: Mapping[str, Callable[[bytes, random.Random], bytes]] = {"bits": flipped, "cut": cut, "piece": spliced}
KINDS = (*GRAPH_CHANGES, *FILE_CHANGES)


def mutated(raw: bytes, kind: str, chance: random.Random) -> bytes:
    """The file with one to three changes of that kind."""
    if kind in FILE_CHANGES:
        return FILE_CHANGES[kind](raw, chance)
    model = ModelProto.FromString(raw)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        GRAPH_CHANGES[kind](model, chance)
    return bytes(model.SerializePartialToString())
