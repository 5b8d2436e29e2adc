"""A network of an old opset as the same network of opset 18.

Between opsets 7 and 18 many operators got another form, and some another meaning under the same form. Every operator
that changed at all stands here: in `_SAME` where only element types, negative axes or new attributes with the old
meaning as their default came along, else in `_FORMS` with what writes the old form as a new one. An operator that
stands in neither is refused. Subgraphs are upgraded like the graph around them.

What the standard leaves open is as ONNX Runtime has it, which is what people measured their old files with: Resize of
opset 10 takes the nearest element before where it enlarges, behind where it shrinks.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from network.errors import ModelNotTaken, listing
from network.onnx_graph import (
    attributes,
    graphs,
    is_standard,
    label,
    nodes,
    opset_of,
    shape_of,
    shape_skeleton,
    standard_imports,
    subgraphs,
)
from network.operator_sets import is_of_runtime_alone

FIRST_OPSET = 7
"""The oldest that is upgraded, and the oldest that ONNX Runtime runs."""

UPGRADED_OPSET = 18
_IR_VERSION = 8  # the one that belongs to it


class _Old:
    """A node of an old opset, what is known of the values it reads, and the nodes that stand for it."""

    def __init__(self, node: NodeProto, opset: int, known: _Known, taken: set[str]) -> None:
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
        return self.made(value, self._known.types.get(name) or TensorProto.FLOAT)

    def add(self, op_type: str, *inputs: str, **given: Any) -> str:
        """A new node; returns its output."""
        name = next(
            name
            for number in itertools.count(1)
            if (name := f"{label(self.node)}/upgraded_{number}") not in self._taken
        )
        self._taken.add(name)
        self.new.append(helper.make_node(op_type, list(inputs), [name], name, **given))
        return name

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


class _Known:
    """Element types, shapes and constants by name, and the names that are read; names are those of the whole model, as
    ONNX has them unique."""

    def __init__(self, model: ModelProto) -> None:
        self.types: dict[str, int] = {}
        self.shapes: dict[str, tuple[int | None, ...]] = {}
        self.constants: dict[str, TensorProto] = {}
        self.read = {name for node in nodes(model.graph) for name in node.input}
        self.read.update(value.name for graph in graphs(model.graph) for value in graph.output)
        skeleton = shape_skeleton(model)
        inferred = onnx.shape_inference.infer_shapes(skeleton, data_prop=True).graph
        for graph in graphs(inferred):
            for value in (*graph.input, *graph.value_info, *graph.output):
                if (shape := shape_of(value)) is not None:
                    self.shapes[value.name] = shape
                self.types[value.name] = value.type.tensor_type.elem_type
        for graph in graphs(model.graph):
            for tensor in graph.initializer:
                self._add(tensor.name, tensor)
            for node in graph.node:
                if node.op_type == "Constant" and is_standard(node) and "value" in (given := attributes(node)):
                    self._add(node.output[0], given["value"])

    def _add(self, name: str, tensor: TensorProto) -> None:
        self.types[name], self.shapes[name] = tensor.data_type, tuple(tensor.dims)
        self.constants[name] = tensor


def upgrade(model: ModelProto) -> None:
    """Give `model` opset 18 in place, unless it has that or a newer one.

    Raises:
        ModelNotTaken: an operator of its opset has no newer form; the text names the nodes. `model` may then be half
            upgraded.
    """
    opset = opset_of(model)
    if opset >= UPGRADED_OPSET:
        return
    unknown = [f"{label(node)} ({node.op_type})" for node in nodes(model.graph) if not _has_form(node, opset)]
    if unknown:
        raise ModelNotTaken(
            f"opset {opset} cannot be converted to {UPGRADED_OPSET} with {listing(unknown)}; export the model with a "
            f"newer opset ({UPGRADED_OPSET} or above)"
        )
    taken = {value.name for graph in graphs(model.graph) for value in (*graph.input, *graph.initializer)}
    taken.update(name for node in nodes(model.graph) for name in (node.name, *node.output))
    _upgrade(model.graph, opset, _Known(model), taken)
    standard_imports(model)[0].version = UPGRADED_OPSET
    model.ir_version = max(model.ir_version, _IR_VERSION)


def _has_form(node: NodeProto, opset: int) -> bool:
    if not is_standard(node) or is_of_runtime_alone(node):
        return True
    if _since(node.op_type, opset) == _since(node.op_type, UPGRADED_OPSET):
        return True
    if opset < FIRST_OPSET and _since(node.op_type, opset) != _since(node.op_type, FIRST_OPSET):
        return False
    return node.op_type in _FORMS or max(opset, FIRST_OPSET) >= _SAME.get(node.op_type, UPGRADED_OPSET)


def _since(op_type: str, opset: int) -> int:
    """The version of an operator at `opset`; 0 where it is deprecated, which is never what it was before."""
    schema = onnx.defs.get_schema(op_type, opset, "")
    return 0 if schema.deprecated else int(schema.since_version)


def _upgrade(graph: GraphProto, opset: int, known: _Known, taken: set[str]) -> None:
    upgraded: list[NodeProto] = []
    for node in graph.node:
        for inner in subgraphs(node):
            _upgrade(inner, opset, known, taken)
        until, write = _FORMS.get(node.op_type, (0, None)) if is_standard(node) else (0, None)
        if write is None or opset >= until:
            upgraded.append(node)
            continue
        old = _Old(node, opset, known, taken)
        write(old)
        upgraded.extend(old.new)
    copies = [NodeProto.FromString(node.SerializeToString()) for node in upgraded]
    del graph.node[:]
    graph.node.extend(copies)


def _batch_normalization(old: _Old) -> None:
    """Before opset 9 every element may have statistics of its own, `[C, *spatial]`."""
    x, scale, bias, mean, variance = old.node.input[:5]
    if old.given.get("spatial", 1):
        return old.end("BatchNormalization", x, scale, bias, mean, variance, **old.without("spatial", "is_test"))
    root = old.add("Sqrt", old.add("Add", variance, old.made_like(old.given.get("epsilon", 1e-5), variance)))
    normal = old.add("Div", old.add("Sub", x, mean), root)
    return old.end("Add", old.add("Mul", normal, scale), bias)


def _clip(old: _Old) -> None:
    x = old.input(0)
    bounds = [old.made_like(old.given[name], x) if name in old.given else "" for name in ("min", "max")]
    old.end("Clip", x, *bounds[: 2 if bounds[1] else 1])


def _coerced(old: _Old) -> None:
    """Before opset 13 the axes from `axis` on are one."""
    x, axis = old.input(0), old.given.get("axis", 1)
    rank = old.rank(x)
    if rank is not None and axis % rank == rank - 1:
        return old.end(old.node.op_type, x, axis=-1)
    rows = old.add(old.node.op_type, old.add("Flatten", x, axis=axis), axis=-1)
    return old.end("Reshape", rows, old.add("Shape", x))


def _dropout(old: _Old) -> None:
    """Before opset 10 its mask held floats; exporters of that time named it where nothing read it."""
    mask = [name for name in old.node.output[1:] if old.is_read(name)]
    if mask and old.opset < 10:
        raise old.refuse("returns its mask as floats")
    del old.node.output[1 + len(mask) :]
    old.end("Dropout", old.input(0))


def _pad(old: _Old) -> None:
    x = old.input(0)
    value = [old.made_like(old.given["value"], x)] if "value" in old.given else []
    mode = {"mode": old.given["mode"]} if "mode" in old.given else {}
    old.end("Pad", x, old.made(old.given["pads"]), *value, **mode)


def _axes_as_input(old: _Old) -> None:
    axes = old.given.get("axes")
    inputs = [old.input(0), old.made(axes)] if axes else [old.input(0)]
    old.end(old.node.op_type, *inputs, **old.without("axes"))


def _renamed(op_type: str, old: _Old) -> None:
    old.end(op_type, *old.node.input, **old.given)


def _slice(old: _Old) -> None:
    starts, ends = old.given["starts"], old.given["ends"]
    axes = old.given.get("axes", list(range(len(starts))))
    old.end("Slice", old.input(0), *(old.made(values) for values in (starts, ends, axes)))


def _split(old: _Old) -> None:
    """Before opset 18 without lengths: as many equal parts as outputs."""
    lengths = old.given.get("split")
    given = old.without("split")
    if lengths:
        old.end("Split", old.input(0), old.made(lengths), **given)
    elif old.input(1):
        old.end("Split", *old.node.input, **given)
    else:
        old.end("Split", old.input(0), num_outputs=len(old.node.output), **given)


def _top_k(old: _Old) -> None:
    k = old.made([old.given["k"]]) if "k" in old.given else old.input(1)
    old.end("TopK", old.input(0), k, **old.without("k"))


def _upsample(old: _Old) -> None:
    scales = old.made(old.given["scales"], TensorProto.FLOAT) if "scales" in old.given else old.input(1)
    _resize_by(old, old.input(0), scales, old.given.get("mode", b"nearest"))


def _resize(old: _Old) -> None:
    """Of opset 10 without any choice of coordinates; of opset 11 with one that opset 13 lacks."""
    mode = old.given.get("mode", b"nearest")
    if old.opset < 11:
        return _resize_by(old, old.input(0), old.input(1), mode)
    if old.given.get("coordinate_transformation_mode") != b"tf_half_pixel_for_nn":
        roi = old.input(1) if old.given.get("coordinate_transformation_mode") == b"tf_crop_and_resize" else ""
        # opset 11 says "no scales" by an empty tensor where there are sizes
        scales, sizes = old.input(2), old.input(3)
        return old.end("Resize", old.input(0), roi, *(["", sizes] if sizes else [scales]), **old.given)
    if mode != b"nearest" or old.given.get("nearest_mode", b"round_prefer_floor") != b"floor":
        raise old.refuse("has the coordinates tf_half_pixel_for_nn with another rounding than floor")
    # floor(c + 1/2) of the coordinate c, whose half rounds up
    given = old.without("coordinate_transformation_mode", "nearest_mode")
    inputs = [old.input(0), "", "", old.input(3)] if old.input(3) else [old.input(0), "", old.input(2)]
    return old.end(
        "Resize", *inputs, coordinate_transformation_mode="half_pixel", nearest_mode="round_prefer_ceil", **given
    )


def _resize_by(old: _Old, x: str, scales: str, mode: bytes) -> None:
    """Coordinates are those of the output divided by the scale; the nearest element is that before, but behind on axes
    that shrink, which are a second Resize where there are others too."""
    given: dict[str, Any] = {"coordinate_transformation_mode": "asymmetric", "mode": mode}
    known = np.asarray(old.given["scales"], np.float32) if "scales" in old.given else old.constant(scales)
    if mode != b"nearest" or old.opset < 10 or known is None or (known >= 1).all():
        nearest = {"nearest_mode": "floor"} if mode == b"nearest" else {}
        return old.end("Resize", x, "", scales, **given, **nearest)
    if not (known <= 1).all():
        larger = old.made(np.maximum(known, 1), TensorProto.FLOAT)
        x = old.add("Resize", x, "", larger, **given, nearest_mode="floor")
    smaller = old.made(np.minimum(known, 1), TensorProto.FLOAT)
    return old.end("Resize", x, "", smaller, **given, nearest_mode="ceil")


def _roi_align(old: _Old) -> None:
    """Before opset 16 without the shift by half a pixel."""
    old.end("RoiAlign", *old.node.input, coordinate_transformation_mode="output_half_pixel", **old.given)


_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")

_FORMS: Mapping[str, tuple[int, Callable[[_Old], None]]] = {
    "BatchNormalization": (9, _batch_normalization),
    "Clip": (11, _clip),
    "Dropout": (12, _dropout),
    "Hardmax": (13, _coerced),
    "LogSoftmax": (13, _coerced),
    "Pad": (11, _pad),
    "ReduceSum": (13, _axes_as_input),
    "Resize": (13, _resize),
    "RoiAlign": (16, _roi_align),
    "Scatter": (UPGRADED_OPSET, partial(_renamed, "ScatterElements")),
    "Slice": (10, _slice),
    "Softmax": (13, _coerced),
    "Split": (18, _split),
    "Squeeze": (13, _axes_as_input),
    "TopK": (10, _top_k),
    "Unsqueeze": (13, _axes_as_input),
    "Upsample": (UPGRADED_OPSET, _upsample),
    **{f"Reduce{name}": (18, _axes_as_input) for name in _REDUCTIONS},
}
"""Operators whose form changed: from which opset on it is the one of opset 18, and what writes it."""

_ALWAYS = (
    "Abs Add ArgMax ArgMin AveragePool Cast Ceil Compress Concat Constant Conv ConvTranspose CumSum DepthToSpace "
    "DequantizeLinear Div Equal Erf Exp Expand Flatten Floor GRU Gather GatherElements GatherND Gemm Greater "
    "GreaterOrEqual Identity If IsNaN LRN LSTM LeakyRelu Less LessOrEqual Log Loop LpPool MatMul Max MaxPool MaxUnpool "
    "Mean MeanVarianceNormalization Min Mod Mul Neg NegativeLogLikelihoodLoss NonMaxSuppression NonZero OneHot "
    "OptionalGetElement OptionalHasElement PRelu Pow QuantizeLinear RNN Reciprocal Relu Reshape ScatterElements "
    "ScatterND Shape Sigmoid Sign Size SoftmaxCrossEntropyLoss SpaceToDepth Sqrt Sub Sum Tanh Tile Transpose Where"
)
_SAME: Mapping[str, int] = {**dict.fromkeys(_ALWAYS.split(), FIRST_OPSET), "Scan": 9}
"""Operators that mean at opset 18 what they meant before: from which opset on. Scan had a batch axis of its own."""
