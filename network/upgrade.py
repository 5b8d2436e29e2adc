"""A network of an old opset as the same network of opset 18.

Until opset 18 many operators got another form, and some another meaning under the same form. Every operator
that changed at all stands here: in `_SAME` where only element types, negative axes or new attributes with the old
meaning as their default came along, else in `_FORMS` with what writes the old form as a new one. An operator that
stands in neither is refused, and so is what ONNX Runtime has never run. Operators that were never more than an
experiment stand in `network.experimental`. Subgraphs are upgraded like the graph around them.

What the standard leaves open is as ONNX Runtime has it, which is what people measured their old files with: Resize of
opset 10 takes the nearest element before where it enlarges, behind where it shrinks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from network.batched_scan import write_batched_scan
from network.errors import ModelNotTaken, ModelTooNew, listing
from network.experimental import EXPERIMENTAL
from network.old_nodes import UPGRADED_OPSET, Known, OldNode
from network.onnx_graph import (
    graphs,
    is_standard,
    label,
    nodes,
    opset_of,
    shape_skeleton,
    standard_imports,
    subgraphs,
)
from network.operator_sets import is_of_runtime_alone
from network.opset import NEWEST_OPSET

FIRST_OPSET = 7
"""The oldest that ONNX Runtime promises to run. Of older ones it runs the operators that have not changed since, which
is all that is upgraded of them, and `Reshape`."""

_IR_VERSION = 8  # the one that belongs to opset 18


def upgrade(model: ModelProto) -> None:
    """Give `model` opset 18 in place, unless it has that or a newer one.

    Raises:
        ModelNotTaken: an operator of its opset has no newer form; the text names the nodes. `model` may then be half
            upgraded.
        ModelTooNew: its opset is newer than what ONNX Runtime runs.
    """
    require_forms(model)
    opset = opset_of(model)
    if opset >= UPGRADED_OPSET:
        return
    taken = {value.name for graph in graphs(model.graph) for value in (*graph.input, *graph.initializer)}
    taken.update(name for node in nodes(model.graph) for name in (node.name, *node.output))
    inferred = onnx.shape_inference.infer_shapes(shape_skeleton(model), data_prop=True).graph
    _upgrade(model.graph, inferred, opset, Known.of(model), taken)
    standard_imports(model)[0].version = UPGRADED_OPSET
    model.ir_version = max(model.ir_version, _IR_VERSION)


def require_forms(model: ModelProto) -> None:
    """Refuse operators of an old opset that have no newer form, and opsets that are too new.

    Raises:
        ModelNotTaken: names the nodes, and says whether ONNX Runtime runs networks of such an opset at all.
        ModelTooNew: it does not, because the opset is newer.
    """
    opset = opset_of(model)
    if opset > NEWEST_OPSET:
        raise ModelTooNew(
            f"opset {opset} is newer than what ONNX Runtime runs ({FIRST_OPSET} to {NEWEST_OPSET}); export the model "
            f"with opset {NEWEST_OPSET} or older"
        )
    if opset >= UPGRADED_OPSET:
        return
    unknown = [f"{label(node)} ({node.op_type})" for node in nodes(model.graph) if not _has_form(node, opset)]
    if not unknown:
        return
    if opset < FIRST_OPSET:
        raise ModelNotTaken(
            f"opset {opset} is older than what ONNX Runtime runs ({FIRST_OPSET} to {NEWEST_OPSET}): it has nothing for "
            f"{listing(unknown)}; convert the model with onnx.version_converter, or export it with opset "
            f"{UPGRADED_OPSET} or newer"
        )
    raise ModelNotTaken(
        f"opset {opset} cannot be converted to {UPGRADED_OPSET} with {listing(unknown)}; export the model with a "
        f"newer opset ({UPGRADED_OPSET} or above)"
    )


def _has_form(node: NodeProto, opset: int) -> bool:
    if not is_standard(node):
        return True
    since = _since(node.op_type, opset)
    if since is None:
        until, _ = EXPERIMENTAL.get(node.op_type, (0, None))
        return opset < until or (not until and is_of_runtime_alone(node, opset))
    if since == _since(node.op_type, UPGRADED_OPSET):
        return True
    if opset < FIRST_OPSET and node.op_type != "Reshape" and since != _since(node.op_type, FIRST_OPSET):
        return False
    return node.op_type in _FORMS or max(opset, FIRST_OPSET) >= _SAME.get(node.op_type, UPGRADED_OPSET)


def _since(op_type: str, opset: int) -> int | None:
    """The version of an operator at `opset`; None where there is none, 0 where it is deprecated, which is never what it
    was before."""
    if not onnx.defs.has(op_type, opset, ""):
        return None
    schema = onnx.defs.get_schema(op_type, opset, "")
    return 0 if schema.deprecated else int(schema.since_version)


def _upgrade(graph: GraphProto, inferred: GraphProto, opset: int, around: Known, taken: set[str]) -> None:
    """`inferred`: the same graph with the types and shapes of its values."""
    known = around.inside(graph, inferred)
    upgraded: list[NodeProto] = []
    for node, with_shapes in zip(graph.node, inferred.node, strict=True):
        for inner, inner_with_shapes in zip(subgraphs(node), subgraphs(with_shapes), strict=True):
            _upgrade(inner, inner_with_shapes, opset, known, taken)
        write = _form(node, opset)
        if write is None:
            upgraded.append(node)
            continue
        old = OldNode(node, opset, known, taken)
        write(old)
        upgraded.extend(old.new)
    copies = [NodeProto.FromString(node.SerializeToString()) for node in upgraded]
    del graph.node[:]
    graph.node.extend(copies)


def _form(node: NodeProto, opset: int) -> Callable[[OldNode], None] | None:
    """What writes the node in a newer form, None where it stays."""
    if not is_standard(node):
        return None
    for forms in (EXPERIMENTAL, _FORMS):
        until, write = forms.get(node.op_type, (0, None))
        if write is not None and opset < until:
            return write
    return None


def _batch_normalization(old: OldNode) -> None:
    """Before opset 9 every element may have statistics of its own, `[C, *spatial]`."""
    x, scale, bias, mean, variance = old.node.input[:5]
    if old.given.get("spatial", 1):
        return old.end("BatchNormalization", x, scale, bias, mean, variance, **old.without("spatial", "is_test"))
    root = old.add("Sqrt", old.add("Add", variance, old.made_like(old.given.get("epsilon", 1e-5), variance)))
    normal = old.add("Div", old.add("Sub", x, mean), root)
    return old.end("Add", old.add("Mul", normal, scale), bias)


def _clip(old: OldNode) -> None:
    x = old.input(0)
    bounds = [old.made_like(old.given[name], x) if name in old.given else "" for name in ("min", "max")]
    old.end("Clip", x, *bounds[: 2 if bounds[1] else 1])


def _coerced(old: OldNode) -> None:
    """Before opset 13 the axes from `axis` on are one."""
    x, axis = old.input(0), old.given.get("axis", 1)
    rank = old.rank(x)
    if rank is not None and axis % rank == rank - 1:
        return old.end(old.node.op_type, x, axis=-1)
    rows = old.add(old.node.op_type, old.add("Flatten", x, axis=axis), axis=-1)
    return old.end("Reshape", rows, old.add("Shape", x))


def _dropout(old: OldNode) -> None:
    """Exporters named its mask where nothing read it. Before opset 12 ONNX Runtime fills it with zeros; before opset 10
    it has the type of the data."""
    x = old.input(0)
    for mask in [name for name in old.node.output[1:] if old.is_read(name)]:
        zero = old.made(0, TensorProto.BOOL) if old.opset >= 10 else old.made_like(0, x)
        old.give(mask, "Expand", zero, old.add("Shape", x))
    del old.node.output[1:]
    old.end("Dropout", x)


def _pad(old: OldNode) -> None:
    x = old.input(0)
    value = [old.made_like(old.given["value"], x)] if "value" in old.given else []
    mode = {"mode": old.given["mode"]} if "mode" in old.given else {}
    old.end("Pad", x, old.made(old.given["pads"]), *value, **mode)


def _axes_as_input(old: OldNode) -> None:
    axes = old.given.get("axes")
    inputs = [old.input(0), old.made(axes)] if axes else [old.input(0)]
    old.end(old.node.op_type, *inputs, **old.without("axes"))


def _renamed(op_type: str, old: OldNode) -> None:
    old.end(op_type, *old.node.input, **old.given)


def _reshape(old: OldNode) -> None:
    """Before opset 5 the shape is an attribute."""
    old.end("Reshape", old.input(0), old.made(old.given["shape"]))


def _slice(old: OldNode) -> None:
    starts, ends = old.given["starts"], old.given["ends"]
    axes = old.given.get("axes", list(range(len(starts))))
    old.end("Slice", old.input(0), *(old.made(values) for values in (starts, ends, axes)))


def _split(old: OldNode) -> None:
    """Before opset 18 without lengths: as many equal parts as outputs."""
    lengths = old.given.get("split")
    given = old.without("split")
    if lengths:
        old.end("Split", old.input(0), old.made(lengths), **given)
    elif old.input(1):
        old.end("Split", *old.node.input, **given)
    else:
        old.end("Split", old.input(0), num_outputs=len(old.node.output), **given)


def _top_k(old: OldNode) -> None:
    k = old.made([old.given["k"]]) if "k" in old.given else old.input(1)
    old.end("TopK", old.input(0), k, **old.without("k"))


def _upsample(old: OldNode) -> None:
    scales = old.made(old.given["scales"], TensorProto.FLOAT) if "scales" in old.given else old.input(1)
    _resize_by(old, old.input(0), scales, old.given.get("mode", b"nearest"))


# The coordinates of TensorFlow are half a pixel more: floor(c + 1/2) is the nearest to c, whose half rounds up, and the
# nearest to c + 1/2, whose half rounds down, is ceil(c).
_OF_HALF_PIXEL = {b"floor": "round_prefer_ceil", b"round_prefer_floor": "ceil"}


def _resize(old: OldNode) -> None:
    """Of opset 10 without any choice of coordinates; of opset 11 with one that opset 13 lacks."""
    mode = old.given.get("mode", b"nearest")
    if old.opset < 11:
        return _resize_by(old, old.input(0), old.input(1), mode)
    if old.given.get("coordinate_transformation_mode") != b"tf_half_pixel_for_nn":
        roi = old.input(1) if old.given.get("coordinate_transformation_mode") == b"tf_crop_and_resize" else ""
        # opset 11 says "no scales" by an empty tensor where there are sizes
        scales, sizes = old.input(2), old.input(3)
        return old.end("Resize", old.input(0), roi, *(["", sizes] if sizes else [scales]), **old.given)
    rounding = _OF_HALF_PIXEL.get(old.given.get("nearest_mode", b"round_prefer_floor"))
    if mode != b"nearest" or rounding is None:
        raise old.refuse("has the coordinates tf_half_pixel_for_nn with another rounding than down, or to the nearest")
    given = old.without("coordinate_transformation_mode", "nearest_mode")
    inputs = [old.input(0), "", "", old.input(3)] if old.input(3) else [old.input(0), "", old.input(2)]
    return old.end("Resize", *inputs, coordinate_transformation_mode="half_pixel", nearest_mode=rounding, **given)


def _resize_by(old: OldNode, x: str, scales: str, mode: bytes) -> None:
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


def _roi_align(old: OldNode) -> None:
    """Before opset 16 without the shift by half a pixel."""
    old.end("RoiAlign", *old.node.input, coordinate_transformation_mode="output_half_pixel", **old.given)


_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")

_FORMS: Mapping[str, tuple[int, Callable[[OldNode], None]]] = {
    "BatchNormalization": (9, _batch_normalization),
    "Clip": (11, _clip),
    "Dropout": (12, _dropout),
    "Hardmax": (13, _coerced),
    "LogSoftmax": (13, _coerced),
    "Pad": (11, _pad),
    "ReduceSum": (13, _axes_as_input),
    "Reshape": (5, _reshape),
    "Resize": (13, _resize),
    "RoiAlign": (16, _roi_align),
    "Scan": (9, write_batched_scan),
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
    "OptionalGetElement OptionalHasElement PRelu Pow QuantizeLinear RNN Reciprocal Relu ScatterElements "
    "ScatterND Shape Sigmoid Sign Size SoftmaxCrossEntropyLoss SpaceToDepth Sqrt Sub Sum Tanh Tile Transpose Where"
)
_SAME: Mapping[str, int] = dict.fromkeys(_ALWAYS.split(), FIRST_OPSET)
"""Operators that mean at opset 18 what they meant before: from which opset on."""
