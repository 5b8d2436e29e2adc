"""Einsum with a constant operand, written as a MatMul with that operand as right factor.

A label of the weight is one of three kinds: of a *stack*, where both operands and the output have it; *summed*, where
both operands have it and the output does not; of *rows*, where only the weight and the output have it. The weight
becomes `[*stack, summed, rows]`, the other operand `[*samples, *stack, sample, summed]`:

    bld,dhk->blhk     x [b, l, d]                                w [d, h*k]     Reshape
    bhk,hkd->bd       x [b, h, k]    Reshape [b, h*k]            w [h*k, d]
    becd,edh->bech    x [b, e, c, d]                             w [e, d, h]
    bhk,hkd->bhd      x [b, h, k]    Transpose [h, b, k]         w [h, k, d]    Transpose

The weight is rearranged once. Where others read it otherwise (a head that is tied to the embedding) it is left as it
is, and a Transpose stands before the MatMul, if that is enough. Lengths of the other operand are not looked at, so that
what is free stays free. What is no such product stays as it is.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.convenience import replace_nodes_and_values

from network.errors import ModelInvalid
from network.onnx_graph import graphs, is_standard, nodes, shape_of, shape_skeleton
from network.onnx_graph import label as label_of

_TERM = re.compile(r"[A-Za-z]*(\.\.\.)?[A-Za-z]*")
_ELLIPSIS = "."
_SHOWN = 80
_FIRST_OF_ELLIPSIS = 0xE000  # labels that no equation has


@dataclass(frozen=True, slots=True)
class Equation:
    """The labels of each operand and of the output, a dot in the place of an ellipsis."""

    operands: tuple[str, ...]
    output: str


@dataclass(frozen=True, slots=True)
class NotAnEquation:
    """Why a text is none that Einsum takes."""

    reason: str


def parse(text: str) -> Equation | NotAnEquation:
    """The equation of an Einsum.

    `b...d,dh->b...h` -> operands `b.d` and `dh`, output `b.h`; `ij,jk` -> operands `ij` and `jk`, output `ik`.
    """
    left, arrow, output = text.replace(" ", "").partition("->")
    terms = left.split(",")
    if wrong := next((term for term in (*terms, output) if not _TERM.fullmatch(term)), None):
        return NotAnEquation(f"{wrong[:40]!r} is no term: expected letters, and at most one ellipsis of three dots")
    operands = tuple(term.replace("...", _ELLIPSIS) for term in terms)
    output = output.replace("...", _ELLIPSIS)
    counts = Counter("".join(operands))
    if not arrow:
        ellipsis = _ELLIPSIS if counts.pop(_ELLIPSIS, 0) else ""
        output = ellipsis + "".join(sorted(label for label, count in counts.items() if count == 1))
    for label, count in Counter(output).items():
        if count > 1 or label not in "".join(operands):
            return NotAnEquation(f"the output has {label!r} {count} times, and the operands {counts[label]} times")
    return Equation(operands, output)


def check_equations(model: onnx.ModelProto) -> None:
    """Refuse equations that mean nothing, before anything else reads them: shape inference never ends on some.

    One that a function takes from its call is not looked at before the function is inlined.

    Raises:
        ModelInvalid: an Einsum has one.
    """
    for node in itertools.chain.from_iterable(nodes(holder) for holder in (model.graph, *model.functions)):
        if node.op_type != "Einsum" or not is_standard(node):
            continue
        for attribute in node.attribute:
            if attribute.name == "equation" and not attribute.ref_attr_name:
                text = attribute.s.decode(errors="replace")
                equation = parse(text)
                reason = equation.reason if isinstance(equation, NotAnEquation) else ""
                if isinstance(equation, Equation) and len(equation.operands) != len(node.input):
                    reason = f"it is about {len(equation.operands)} operands, and the node has {len(node.input)}"
                if reason:
                    raise ModelInvalid(
                        f"node {label_of(node)!r}: Einsum cannot have the equation {text[:_SHOWN]!r}: {reason}; "
                        "export the model again"
                    )


def check_ellipses(model: onnx.ModelProto) -> None:
    """Refuse an Einsum whose ellipses stand for different numbers of axes, as far as ranks are known: ONNX Runtime
    takes its process along when it loads one.

    Raises:
        ModelInvalid: names the node.
        onnx.shape_inference.InferenceError: the graph is too broken for inference.
    """
    several = [node for node in nodes(model.graph) if is_standard(node) and _ellipses(node) is not None]
    if not several:
        return
    inferred = onnx.shape_inference.infer_shapes(shape_skeleton(model)).graph
    ranks = {
        value.name: len(shape)
        for graph in graphs(inferred)
        for value in (*graph.input, *graph.value_info, *graph.output)
        if (shape := shape_of(value)) is not None
    }
    ranks |= {tensor.name: len(tensor.dims) for graph in graphs(model.graph) for tensor in graph.initializer}
    for node in several:
        terms = _ellipses(node) or ()
        axes = {
            ranks[name] - len(term) + 1
            for name, term in zip(node.input, terms, strict=False)
            if _ELLIPSIS in term and name in ranks
        }
        if len(axes) > 1:
            raise ModelInvalid(
                f"node {label_of(node)!r}: the ellipses of its Einsum stand for {' and '.join(map(str, sorted(axes)))} "
                "axes; expected the same number in every operand: export the model again"
            )


def _ellipses(node: onnx.NodeProto) -> tuple[str, ...] | None:
    """The terms of an Einsum of which two or more have an ellipsis."""
    text = next((a.s.decode(errors="replace") for a in node.attribute if a.name == "equation"), "")
    equation = parse(text) if node.op_type == "Einsum" else None
    if not isinstance(equation, Equation) or sum(_ELLIPSIS in term for term in equation.operands) < 2:
        return None
    return equation.operands


class EinsumToMatMul(ir.passes.InPlacePass):
    """Every Einsum of a graph, in inner graphs too, that multiplies with an initializer of floats."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(ir.traversal.RecursiveGraphIterator(model.graph)):
            modified |= node.op_type == "Einsum" and node.domain == "" and _split(node)
        products: dict[ir.Value, list[_Product]] = {}
        for node in list(ir.traversal.RecursiveGraphIterator(model.graph)):
            if (product := _product(node)) is not None:
                products.setdefault(product.weight, []).append(product)
        for weight, uses in products.items():
            arranged = _arrange(weight, uses)
            for product in uses:
                if arranged or product.is_turned:
                    product.replace(turned=not (arranged or product.is_as_it_is))
                    modified = True
        return ir.passes.PassResult(model, modified)


@dataclass(frozen=True, slots=True)
class _Labels:
    """`operand` and `out` as strings of labels; those of the weight by kind, in the order in which it is arranged."""

    operand: str
    stack: str
    summed: str
    rows: str
    out: str

    @classmethod
    def of(cls, operand: str, weight: str, out: str) -> _Labels | None:
        """None where it is no product of matrices."""
        if any(len(set(term)) < len(term) for term in (operand, weight, out)):
            return None
        if any((label in operand) + (label in weight) + (label in out) < 2 for label in operand + weight + out):
            return None  # of one operand alone: summed before the product
        stack = "".join(label for label in operand if label in weight and label in out)
        summed = "".join(label for label in operand if label in weight and label not in out)
        rows = "".join(label for label in out if label in weight and label not in operand)
        if not summed or not rows:
            return None
        if len(summed) == len(rows) == 1:  # in the weight's own order, where it may stay as it is
            stack = "".join(label for label in weight if label in stack)
        return cls(operand, stack, summed, rows, out)

    @property
    def weight(self) -> str:
        return self.stack + self.summed + self.rows

    @property
    def samples(self) -> str:
        """Of the other operand alone."""
        return "".join(label for label in self.operand if label not in self.weight)

    @property
    def made(self) -> str:
        """The output before it is transposed."""
        return self.samples[:-1] + self.stack + self.samples[-1:] + self.rows


@dataclass(frozen=True, slots=True)
class _Product:
    """An Einsum that is a product of its input `place` with `weight`, whose axes are to lie in the order `axes`."""

    node: ir.Node
    place: int
    weight: ir.Value
    labels: _Labels
    axes: tuple[int, ...]
    lengths: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the arranged weight."""
        stack, summed = len(self.labels.stack), len(self.labels.summed)
        lengths = [self.lengths[axis] for axis in self.axes]
        return *lengths[:stack], math.prod(lengths[stack : stack + summed]), math.prod(lengths[stack + summed :])

    @property
    def is_as_it_is(self) -> bool:
        return self.axes == tuple(range(len(self.axes))) and self.shape == self.lengths

    @property
    def is_turned(self) -> bool:
        """Whether the weight is as it is but for the order of its axes."""
        return self.shape == tuple(self.lengths[axis] for axis in self.axes)

    def replace(self, *, turned: bool) -> None:
        """Put the MatMul in the place of the Einsum; the weight is arranged, or to be `turned` by a node of its own."""
        operand = self.node.inputs[self.place]  # another by now, where it comes from a product too
        if operand is None or self.node.graph is None:
            raise ValueError(f"{self.node.name} is no node of a graph with an operand")
        labels, nodes = self.labels, _Nodes(operand)
        rows = [self.lengths[axis] for axis in self.axes[len(labels.stack + labels.summed) :]]
        kept = [0] * (len(labels.samples) + len(labels.stack))  # 0 is the length that is there
        nodes.transpose(labels.operand, labels.samples[:-1] + labels.stack + labels.samples[-1:] + labels.summed)
        if len(labels.summed) > 1 or not labels.samples:
            nodes.reshape([*kept, *([] if labels.samples else [1]), self.shape[-2]])
        weight = _Nodes(self.weight)
        if turned:
            weight.add("Transpose", perm=self.axes)
        nodes.all += weight.all
        nodes.add("MatMul", [weight.last])
        nodes.all[-1].name = self.node.name
        nodes.all[-1].metadata_props.update(self.node.metadata_props)
        if len(rows) > 1 or not labels.samples:
            nodes.reshape([*kept, *rows])
        nodes.transpose(labels.made, labels.out)
        nodes.take_the_place_of(self.node, self.node.graph)


class _Nodes:
    """A chain of nodes from a value on."""

    def __init__(self, first: ir.Value) -> None:
        self.last = first
        self.all: list[ir.Node] = []

    def add(self, op_type: str, others: Sequence[ir.Value | None] = (), **attributes: Sequence[int] | str) -> None:
        node = ir.node(op_type, [self.last, *others], attributes=attributes)
        self.last = node.outputs[0]
        self.all.append(node)

    def take_the_place_of(self, node: ir.Node, graph: ir.Graph | ir.Function) -> None:
        replace_nodes_and_values(graph, node, [node], self.all, [node.outputs[0]], [self.last])

    def transpose(self, before: str, after: str) -> None:
        """From axes called `before` to those called `after`, if they differ."""
        if before != after:
            self.add("Transpose", perm=[before.index(label) for label in after])

    def reshape(self, lengths: Sequence[int]) -> None:
        shape = ir.node("Constant", [], attributes={"value": ir.tensor(np.array(lengths, dtype=np.int64))})
        self.all.append(shape)
        self.add("Reshape", [shape.outputs[0]])


def _arrange(weight: ir.Value, products: Sequence[_Product]) -> bool:
    """Give the weight the order that its products need, if they need the same and nobody else reads it."""
    first = products[0]
    readers = {use.node for use in weight.uses()}
    if weight.const_value is None or weight.is_graph_output() or readers != {product.node for product in products}:
        return False
    if any((product.axes, product.shape) != (first.axes, first.shape) for product in products):
        return False
    if not first.is_as_it_is:
        values = weight.const_value.numpy().transpose(first.axes).reshape(first.shape)
        weight.const_value = ir.tensor(np.ascontiguousarray(values), dtype=weight.const_value.dtype, name=weight.name)
        weight.shape = ir.Shape(first.shape)
    return True


def _product(node: ir.Node) -> _Product | None:
    """None where `node` is no Einsum of a value with a weight, or not a product of matrices."""
    if node.op_type != "Einsum" or node.domain != "" or len(node.inputs) != 2:
        return None
    terms = _terms(node)
    if terms is None:
        return None
    first, second = node.inputs
    if first is None or second is None or _is_weight(first) is _is_weight(second):
        return None
    place = 0 if _is_weight(second) else 1
    operand, weight = (second, first) if place else (first, second)
    labels = _Labels.of(terms[place], terms[1 - place], terms[2])
    if labels is None or weight.const_value is None:
        return None
    lengths = tuple(weight.const_value.shape.numpy())
    axes = tuple(terms[1 - place].index(label) for label in labels.weight)
    if 0 in lengths or not _fits(operand, labels, dict(zip(terms[1 - place], lengths, strict=True))):
        return None
    return _Product(node, place, weight, labels, axes, lengths)


def _fits(operand: ir.Value, labels: _Labels, lengths: dict[str, int]) -> bool:
    """Whether both have the same lengths, as far as is known: Einsum repeats what has length 1."""
    shape = operand.shape if operand.shape is not None else [None] * len(labels.operand)
    known = {label: own for label, own in zip(labels.operand, shape, strict=True) if isinstance(own, int)}
    if any(lengths[label] == 1 and label not in known for label in labels.stack + labels.summed):
        return False
    return all(lengths.get(label, own) == own for label, own in known.items())


def _terms(node: ir.Node) -> list[str] | None:
    """The labels of the operands and of the output, a label for each axis; None where an ellipsis stands for an unknown
    number of axes, or for some of a weight, or where the equation does not fit its operands."""
    equation = parse(node.attributes.get_string("equation", ""))
    if isinstance(equation, NotAnEquation) or len(equation.operands) != len(node.inputs):
        return None
    terms, meant = [], ""
    for term, value in zip(equation.operands, node.inputs, strict=True):
        rank = len(value.shape) if value is not None and value.shape is not None else None
        if _ELLIPSIS in term:
            if value is None or rank is None or rank < len(term) - 1:
                return None
            own = "".join(chr(_FIRST_OF_ELLIPSIS + place) for place in range(rank - len(term) + 1))
            if own and (_is_weight(value) or meant):
                return None
            meant = meant or own
            term = term.replace(_ELLIPSIS, own)
        if rank is not None and rank != len(term):
            return None
        terms.append(term)
    return [*terms, equation.output.replace(_ELLIPSIS, meant)]


def _split(node: ir.Node) -> bool:
    """Write an Einsum of one value with several weights as one for each weight, if each then is a product."""
    terms = _terms(node) if len(node.inputs) > 2 else None
    values = [(place, value) for place, value in enumerate(node.inputs) if value is None or not _is_weight(value)]
    if terms is None or len(values) != 1 or node.graph is None:
        return False
    *operands, out = terms
    ((first, value),) = values
    if value is None or any(ord(label) >= _FIRST_OF_ELLIPSIS for label in operands[first]):
        return False
    others = [place for place in range(len(operands)) if place != first]
    term, steps = operands[first], []
    for number, place in enumerate(others):
        needed = set(out).union(*(operands[later] for later in others[number + 1 :]))
        last = number == len(others) - 1
        made = out if last else "".join(label for label in dict.fromkeys(term + operands[place]) if label in needed)
        if _Labels.of(term, operands[place], made) is None:
            return False
        steps.append((place, term, made))
        term = made
    nodes = _Nodes(value)
    for place, before, made in steps:
        nodes.add("Einsum", [node.inputs[place]], equation=f"{before},{operands[place]}->{made}")
    nodes.take_the_place_of(node, node.graph)
    return True


def _is_weight(value: ir.Value) -> bool:
    values = value.const_value if value.is_initializer() else None
    return values is not None and values.dtype.is_floating_point()
