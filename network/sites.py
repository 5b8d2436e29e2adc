"""The sites of a normalised graph: which weights may be quantized, which layers use them, and what they cost."""

from __future__ import annotations

import ast
import itertools
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import onnx

from network.expansion import is_expanded
from network.finite import is_finite
from network.graph import ChannelAxis, Layer, Site
from network.onnx_graph import attributes, is_standard, label, nodes, subgraphs
from network.plain_tables import PlainTables, TableUse
from network.shapes import NOTHING, Observed
from network.tables import table_product

RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
"""Operators with two weights, inputs 1 and 2: one for the inputs of a step, one for the hidden states before it."""

_SCOPES_KEY = "pkg.torch.onnx.name_scopes"
# Names that an exporter made up: `val_12`, `onnx::MatMul_31`, `const_5`, `fn_2`, `21`.
_MADE_UP = re.compile(r"^(onnx::\w+|val|const|t|fn|_val)?_*\d+$")


def find_sites(
    proto: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]], batch: int = 1, observed: Observed = NOTHING
) -> tuple[Site, ...]:
    """All sites of the normalised graph, in the order of their first use; `shapes` are those of values for so many
    samples, as far as they are known, and `observed` says how often bodies of If, Loop and Scan run.

    A weight that several nodes use is one site, also where some read it transposed or from within a body of If, Loop or
    Scan; one without numbers, or with infinities (a table of masks), is none. So is a large table that no layer
    multiplies (`network.plain_tables`), in the place of its first use. A site is called like its weight without
    `.weight`; where the exporter made the weight's name up, like the module it says the node came from, else like the
    node. The two weights of a recurrent node are distinguished by `.W` (of the inputs) and `.R` (of the hidden states)
    behind that.
    """
    graph = proto.graph
    floats = (tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT)
    weights = {tensor.name: tuple(tensor.dims) for tensor in floats if 0 not in tensor.dims and is_finite(tensor)}
    views = _views(graph, weights)
    read = weights | {name: view.shape for name, view in views.items()}
    uses: dict[str, list[tuple[onnx.NodeProto, Layer]]] = {}
    readers = readers_of(graph)
    for node, inner in _nodes(graph):
        for layer in _counted(node, read, shapes, readers, batch):
            own = _in_body(layer, node, shapes, observed) if inner else layer
            if own.weight in views:
                own = views[own.weight].seen_by(own)
            uses.setdefault(own.weight, []).append((node, own))
    for node, table in _tables(graph, weights.keys() - uses.keys(), readers, shapes, batch):
        uses[table.weight] = [(node, table)]
    order = {label(node): place for place, (node, _) in enumerate(_nodes(graph))}
    sites: list[Site] = []
    taken: set[str] = set()
    for weight, own_uses in sorted(uses.items(), key=lambda item: order[label(item[1][0][0])]):
        layers = tuple(layer for _, layer in own_uses)
        name = next(name for name in _site_names(weight, own_uses[0][0]) if name not in taken)
        taken.add(name)
        sites.append(Site(name, weight, layers, weights[weight], _scaled_axes(layers[0], len(weights[weight]))))
    return tuple(sites)


def _scaled_axes(layer: Layer, rank: int) -> ChannelAxis:
    return (*range(rank - 2), layer.channel_axis) if layer.stacked else layer.channel_axis


def _tables(
    graph: onnx.GraphProto, names: Collection[str], readers: _Readers, shapes: _Shapes, batch: int
) -> Iterator[tuple[onnx.NodeProto, Layer]]:
    """The tables among the initializers with these names, each with the node that reads it first."""
    tables, outer = PlainTables(graph, readers), {label(node) for node in graph.node}
    for tensor in graph.initializer:
        if tensor.name in names and isinstance(use := tables.look_at(tensor), TableUse):
            node, inner = use.node, label(use.node) not in outer
            counts = [
                None if label(product) not in outer else _product_macs(product, part, shapes)
                for product, part in use.products
            ]
            known = None not in counts
            macs = -(-sum(filter(None, counts)) // batch) if known else math.prod(tensor.dims)
            layer = Layer(node.name, node.op_type, tensor.name, use.channel_axis, macs, macs_known=known)
            yield node, replace(layer, inner=inner, is_table=True)


def _product_macs(node: onnx.NodeProto, part: str, shapes: _Shapes) -> int | None:
    """What a product with a value that is no initializer takes; None where that is not known."""
    left = shapes.get(node.input[0])
    if node.output[0] not in shapes or left is None or part not in shapes:
        return None
    made = math.prod(shapes[node.output[0]])
    if node.op_type == "MatMul":
        return made * left[-1]
    if node.op_type == "Gemm":
        return made * left[0 if attributes(node).get("transA", 0) else 1]
    if node.op_type == "Conv" and part == node.input[1]:
        return made * math.prod(shapes[part][1:])
    return None


def readers_of(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that read a value, by its name, in inner graphs too."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node, _ in _nodes(graph):
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers


def _nodes(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, bool]]:
    """Every node, each before those of its inner graphs, and whether it lies in an inner graph."""
    for node in graph.node:
        yield node, False
        for inner in subgraphs(node):
            yield from ((other, True) for other in nodes(inner))


@dataclass(frozen=True, slots=True)
class _View:
    """A value that is an initializer with its axes in another order."""

    name: str
    weight: str
    order: tuple[int, ...]
    shape: tuple[int, ...]

    def seen_by(self, layer: Layer) -> Layer:
        """A layer that reads the view, in terms of the initializer."""
        return replace(
            layer,
            weight=self.weight,
            channel_axis=self.order[layer.channel_axis],
            stacked=layer.stacked and self.order[:-2] == tuple(range(len(self.order) - 2)),
            view=self.name,
            order=self.order,
        )


def _views(graph: onnx.GraphProto, weights: Mapping[str, tuple[int, ...]]) -> dict[str, _View]:
    """The transposed and the passed on weights by name; folding left those of weights that others read, too."""
    views: dict[str, _View] = {}
    for node in nodes(graph):
        source = node.input[0] if node.input else ""
        if node.op_type not in ("Transpose", "Identity") or not is_standard(node):
            continue
        if source not in weights and source not in views:
            continue
        base = views.get(source) or _View(source, source, tuple(range(len(weights[source]))), weights[source])
        rank = len(base.shape)
        moved = tuple(range(rank))
        if node.op_type == "Transpose":
            moved = tuple(attributes(node).get("perm") or reversed(moved))
        order, shape = tuple(base.order[axis] for axis in moved), tuple(base.shape[axis] for axis in moved)
        views[node.output[0]] = _View(node.output[0], base.weight, order, shape)
    return views


def _site_names(weight: str, node: onnx.NodeProto) -> Iterator[str]:
    """Names for a site, the best one first, without end."""
    if not _MADE_UP.match(weight):
        yield weight.removesuffix(".weight")
    else:
        part = "" if node.op_type not in RECURRENT else ".W" if weight == node.input[1] else ".R"
        if module := _module(node):
            yield module + part
        if node.name and (part or not module):
            yield node.name + part
    yield weight
    yield from (f"{weight}_{number}" for number in itertools.count(2))


def _module(node: onnx.NodeProto) -> str:
    """The module that the exporter says the node came from; empty where it says nothing."""
    scopes = next((p.value for p in node.metadata_props if p.key == _SCOPES_KEY), None)
    if scopes is None:
        return ""
    try:
        names = ast.literal_eval(scopes)
    except (ValueError, SyntaxError):
        return ""
    return str(names[-2]) if isinstance(names, list) and len(names) > 1 else ""


_Weights = Mapping[str, tuple[int, ...]]
_Shapes = Mapping[str, tuple[int, ...]]
_Readers = Mapping[str, list[onnx.NodeProto]]


def _counted(
    node: onnx.NodeProto, weights: _Weights, shapes: _Shapes, readers: _Readers, batch: int
) -> Iterator[Layer]:
    """The layers of a node, with what they take of one sample of the batch."""
    asked = _Asked(shapes)
    for layer in _layers(node, weights, asked, readers):
        if asked.unknown:
            yield replace(layer, macs=math.prod(weights[layer.weight]), macs_known=False)
        else:
            yield replace(layer, macs=-(-layer.macs // batch))


def _in_body(layer: Layer, node: onnx.NodeProto, shapes: _Shapes, observed: Observed) -> Layer:
    """A layer that was counted for one time of its body, at the largest lengths, over all times that this runs."""
    made = next(filter(None, node.output))
    if made not in observed:
        return replace(layer, inner=True, macs_known=False)
    if not observed[made].times:
        return replace(layer, inner=True, macs=0, macs_known=True)
    largest = max(math.prod(shapes[made]), 1)
    return replace(layer, inner=True, macs=layer.macs * observed[made].elements // largest)


class _Asked(Mapping[str, tuple[int, ...]]):
    """Shapes, of which it knows whether anyone asked for one that is not known."""

    def __init__(self, shapes: _Shapes) -> None:
        self._shapes = shapes
        self.unknown = False

    def __getitem__(self, name: str) -> tuple[int, ...]:
        self.unknown = self.unknown or name not in self._shapes
        return self._shapes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def _layers(node: onnx.NodeProto, weights: _Weights, shapes: _Shapes, readers: _Readers) -> tuple[Layer, ...]:
    if not is_standard(node) or is_expanded(node):
        return ()
    if node.op_type in RECURRENT:
        return _recurrent(node, weights, shapes)
    if node.op_type == "Gather":
        layer = _gather(node, weights, shapes, readers)
    else:
        rule = _RULES.get(node.op_type)
        layer = rule(node, weights, shapes) if rule else None
    return () if layer is None else (layer,)


def _elements(shapes: _Shapes, name: str) -> int:
    """Elements of a value; of one that is not known any number, which does not count."""
    return math.prod(shapes.get(name, (1,)))


def _convolution(node: onnx.NodeProto, weights: _Weights, shapes: _Shapes) -> Layer | None:
    weight = node.input[1]
    if weight not in weights:
        return None
    # Conv has [C_out, C_in / group, *kernel], ConvTranspose [C_in, C_out / group, *kernel]
    channel_axis, positions = (0, node.output[0]) if node.op_type == "Conv" else (1, node.input[0])
    macs = _elements(shapes, positions) * math.prod(weights[weight][1:])
    return Layer(node.name, node.op_type, weight, channel_axis, macs, attributes(node).get("group", 1))


def _gemm(node: onnx.NodeProto, weights: _Weights, shapes: _Shapes) -> Layer | None:
    weight = node.input[1]
    if weight not in weights:
        return None
    transposed = bool(attributes(node).get("transB", 0))
    reduction = weights[weight][1 if transposed else 0]
    macs = _elements(shapes, node.output[0]) * reduction
    return Layer(node.name, node.op_type, weight, 0 if transposed else 1, macs)


def _matmul(node: onnx.NodeProto, weights: _Weights, shapes: _Shapes) -> Layer | None:
    left, right = node.input
    weight = right if right in weights else left
    if weight not in weights or len(weights[weight]) < 2 or (left in weights and right in weights):
        return None
    rank = len(weights[weight])
    reduction_axis, channel_axis = (rank - 2, rank - 1) if weight == right else (rank - 1, rank - 2)
    macs = _elements(shapes, node.output[0]) * weights[weight][reduction_axis]
    stacked = math.prod(weights[weight][:-2]) > 1
    return Layer(node.name, node.op_type, weight, channel_axis, macs, stacked=stacked)


def _gather(node: onnx.NodeProto, weights: _Weights, shapes: _Shapes, readers: _Readers) -> Layer | None:
    """A row that is picked has a scale of its own, as a whole where it lies along the first axis; where a matrix is
    picked and multiplied, each of its output channels."""
    table, shape = node.input[0], weights.get(node.input[0], ())
    if len(shape) < 2:
        return None
    axis, stacked = attributes(node).get("axis", 0) % len(shape), math.prod(shape[:-2]) > 1
    product = table_product(node, shape, readers, shapes)
    if product is not None:
        macs = _elements(shapes, product.output) * shape[product.reduced_axis]
        return Layer(node.name, node.op_type, table, len(shape) - 3 - product.reduced_axis, macs, stacked=stacked)
    if axis == 0:
        return Layer(node.name, node.op_type, table, 0, 0)
    return Layer(node.name, node.op_type, table, len(shape) - (1 if axis == len(shape) - 1 else 2), 0, stacked=stacked)


def _recurrent(node: onnx.NodeProto, weights: _Weights, shapes: _Shapes) -> tuple[Layer, ...]:
    """W `[directions, gates * hidden, inputs]` and R `[directions, gates * hidden, hidden]`, each a layer of the node.

    Every step of X `[steps, samples, inputs]` takes every weight once.
    """
    inputs = shapes.get(node.input[0], (1, 1, 1))
    steps = math.prod(inputs[:2])
    return tuple(
        Layer(node.name, node.op_type, name, 1, steps * math.prod(weights[name]))
        for name in node.input[1:3]
        if name in weights
    )


_RULES: Mapping[str, Callable[[onnx.NodeProto, _Weights, _Shapes], Layer | None]] = {
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "Gemm": _gemm,
    "MatMul": _matmul,
}
