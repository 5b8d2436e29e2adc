"""A normalised network under an older opset.

From opset 18 to 25 nearly every operator of ONNX changed only in the element types that it takes, so that the same node
under an older number means the same. What else changed is written down here:

- operators that are new, and `GroupNormalization`, whose scale was one for each group before opset 21;
  `network.expansion` writes some of them, and of those that follow, as older ones;
- attributes that are new: one that says what was always so is removed, any other stands in the way;
- pooling with `ceil_mode`: before opset 22 a window that starts behind the input counts (`_starts_behind_the_input`);
- `Attention`: before opset 24 the mask is as long as the keys; `Resize` and `Pad`: a mode each is new in opset 19;
- `GridSample`: before opset 20 the modes have other names, and there are two spatial axes;
- `DFT`: before opset 20 the axis is an attribute.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.defs import OpSchema

from network.errors import OpsetNotReachable, listing
from network.expansion import Expansion, expand
from network.onnx_graph import attributes, graphs, is_standard, label, shape_of, standard_imports, subgraphs

TARGET_OPSET = 25
"""Of normalised networks: the first with int2 and uint2, which packed weights are stored in."""

NEWEST_OPSET = 26
"""Of normalised networks: the newest that ONNX Runtime runs, for those that have operators which are new in it."""

OLDEST_OPSET = 18
"""The oldest that a network is lowered to. The IR version that belongs to it, 8, is the first with functions."""

# They say how to cast to floats of 8 bits, which no version of an operator without the attribute takes.
_OF_FLOAT8 = ("saturate", "round_mode")
# The attribute that an output's element type is read from: a number, or the type of a tensor.
_TYPED_BY = {"Cast": "to", "Constant": "value", "ConstantOfShape": "value"}
_GRID_SAMPLE_MODES = {b"linear": b"bilinear", b"cubic": b"bicubic"}
_DFT_AXIS = -2


@dataclass(frozen=True, slots=True)
class _Values:
    """What is known of the values that a graph reads: its own and those of the graphs around it, all of one opset."""

    opset: int
    types: dict[str, int] = field(default_factory=dict)
    shapes: dict[str, tuple[int | None, ...]] = field(default_factory=dict)
    constants: dict[str, TensorProto] = field(default_factory=dict)

    def copy(self) -> _Values:
        return _Values(self.opset, dict(self.types), dict(self.shapes), dict(self.constants))

    def of(self, graph: GraphProto) -> _Values:
        """With those of `graph`, which lies within this one."""
        known = self.copy()
        for value in (*graph.input, *graph.value_info, *graph.output):
            known.types[value.name] = value.type.tensor_type.elem_type
            if (shape := shape_of(value)) is not None:
                known.shapes[value.name] = shape
        for tensor in graph.initializer:
            known.add(tensor.name, tensor)
        for node in graph.node:
            for attribute in node.attribute:
                if not is_standard(node) or attribute.name != _TYPED_BY.get(node.op_type):
                    continue
                if node.op_type == "Constant":
                    known.add(node.output[0], attribute.t)
                else:
                    known.types[node.output[0]] = attribute.i if node.op_type == "Cast" else attribute.t.data_type
        return known

    def add(self, name: str, tensor: TensorProto) -> None:
        """A constant."""
        self.types[name] = tensor.data_type
        self.shapes[name] = tuple(tensor.dims)
        self.constants[name] = tensor


def lower(proto: ModelProto, opset: int) -> None:
    """Give a normalised `proto` an older opset, and the IR version that belongs to it, in place.

    Every node computes what it did; one that the opset does not have becomes several (`network.expansion`), whose names
    and values begin with its name, and whose last ones have its outputs. Nodes of other domains stay as they are, and
    so does `proto` where an error is raised.

    Args:
        proto: a network of an opset up to `NEWEST_OPSET`.
        opset: from `OLDEST_OPSET` to that of `proto`.

    Raises:
        OpsetNotReachable: there are nodes that no older opset has, or that mean something else there; the text names
            them and the oldest opset that would do.
        ValueError: `opset` or that of `proto` is outside of this range.
    """
    imported = standard_imports(proto)
    versions = [entry.version for entry in imported]
    newest = versions[0] if len(versions) == 1 else 0
    if not OLDEST_OPSET <= opset <= newest <= NEWEST_OPSET:
        raise ValueError(
            f"got opset {opset} for a network of opset {versions}; expected {OLDEST_OPSET} to "
            f"{NEWEST_OPSET} for a normalised network of that opset or a newer one"
        )
    if opset == newest:
        return
    known = _Values(newest)
    nodes = [(node, known) for node, known in _nodes(proto.graph, known) if is_standard(node)]
    blocked = [(node, known) for node, known in nodes if _at(node, known, opset, "") is None]
    if blocked:
        raise _unreachable(blocked, opset)
    _rewrite(proto.graph, known, opset, _names(proto.graph))
    imported[0].version = opset
    proto.ir_version = helper.find_min_ir_version_for([helper.make_opsetid("", opset)])


def _nodes(graph: GraphProto, around: _Values) -> Iterator[tuple[NodeProto, _Values]]:
    """Every node, with what is known where it stands, in subgraphs too."""
    known = around.of(graph)
    for node in graph.node:
        yield node, known
        for inner in subgraphs(node):
            yield from _nodes(inner, known)


def _names(graph: GraphProto) -> set[str]:
    """Every name of a node or a value, in subgraphs too."""
    names: set[str] = set()
    for inner in graphs(graph):
        names.update(value.name for value in (*inner.input, *inner.initializer))
        names.update(itertools.chain(*((node.name, *node.output) for node in inner.node)))
    return names


def _at(node: NodeProto, known: _Values, opset: int, prefix: str) -> Expansion | None:
    """What computes at `opset` what the node does: itself or, in names that begin with `prefix`, others; or nothing."""
    if not _obstacle(node, known, opset):
        return Expansion((node,), ())
    expansion = expand(node, known.types, known.shapes, prefix, known.opset)
    if expansion is None:
        return None
    inside = known.copy()
    for tensor in expansion.constants:
        inside.add(tensor.name, tensor)
    parts = [_at(inner, inside, opset, f"{inner.name}/") for inner in expansion.nodes]
    whole = [part for part in parts if part is not None]
    if len(whole) < len(parts):
        return None
    constants = itertools.chain(expansion.constants, *(part.constants for part in whole))
    return Expansion(tuple(itertools.chain(*(part.nodes for part in whole))), tuple(constants))


def _rewrite(graph: GraphProto, around: _Values, opset: int, taken: set[str]) -> None:
    """Give the nodes of a graph, and of those within it, the older opset. `taken` are the names of the whole model."""
    known, nodes = around.of(graph), []
    for node in graph.node:
        for inner in subgraphs(node):
            _rewrite(inner, known, opset, taken)
        if not is_standard(node):
            nodes.append(node)
            continue
        prefix = _free_prefix(node, taken) if _obstacle(node, known, opset) else ""
        expansion = _at(node, known, opset, prefix) or Expansion((node,), ())
        for new in expansion.nodes:
            _relabel(new, known, opset)
        nodes.extend(expansion.nodes)
        graph.initializer.extend(expansion.constants)
        taken.update(tensor.name for tensor in expansion.constants)
        taken.update(itertools.chain(*((new.name, *new.output) for new in expansion.nodes)))
    if len(nodes) > len(graph.node):
        copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)


def _free_prefix(node: NodeProto, taken: set[str]) -> str:
    """The name of the node, or what makes it differ from all names, and a slash."""
    name = label(node)
    prefixes = itertools.chain([f"{name}/"], (f"{name}_{number}/" for number in itertools.count(2)))
    return next(prefix for prefix in prefixes if not any(other.startswith(prefix) for other in taken))


def _unreachable(blocked: Sequence[tuple[NodeProto, _Values]], opset: int) -> OpsetNotReachable:
    """What stands in the way."""
    users: dict[str, list[str]] = {}
    for node, known in blocked:
        users.setdefault(f"{node.op_type} {_obstacle(node, known, opset)}", []).append(repr(label(node)))
    newer = range(opset + 1, blocked[0][1].opset + 1)
    oldest = max(next(o for o in newer if _at(node, known, o, "")) for node, known in blocked)
    obstacles = "; ".join(
        f"{what} ({'node' if len(names) == 1 else 'nodes'} {listing(names)})" for what, names in users.items()
    )
    return OpsetNotReachable(
        f"the network cannot have opset {opset}: {obstacles}. The oldest opset that it can have is {oldest}: set opset "
        f"to {oldest} or above, with a target that takes it, or export the network without these operators"
    )


def _obstacle(node: NodeProto, known: _Values, opset: int) -> str | None:
    """Why a node does not mean the same at `opset`, as what follows its operator's name; None if it does."""
    newest, older = _schema(node.op_type, known.opset), _schema(node.op_type, opset)
    if newest is None or (older is not None and older.since_version == newest.since_version):
        return None
    if older is None or older.deprecated:
        before = "has another meaning before" if older is not None else "is new in"
        first = next(
            o for o in range(opset + 1, known.opset + 1) if (s := _schema(node.op_type, o)) and not s.deprecated
        )
        return f"{before} opset {first}"
    for attribute in node.attribute:
        if attribute.name not in older.attributes and not _is_default(node, attribute, known, newest):
            return f"with {attribute.name} = {_shown(attribute)}"
    first, changed = _CHANGED.get(node.op_type, (0, None))
    if changed is not None and opset < first <= known.opset and (why := changed(node, known)):
        return why
    # the third input of DFT becomes an attribute
    room = older.max_input + (node.op_type == "DFT" and opset < first <= known.opset)
    if len(_given(node.input)) > room:
        return f"with {len(_given(node.input))} inputs, {older.max_input} at most"
    return _unknown_type(node, known, older)


def _relabel(node: NodeProto, known: _Values, opset: int) -> None:
    """What `_obstacle` has nothing against, as it is written at `opset`."""
    older = _schema(node.op_type, opset)
    if older is None:
        return
    for attribute in [a for a in node.attribute if a.name not in older.attributes]:
        node.attribute.remove(attribute)
    if node.op_type == "GridSample" and opset < _CHANGED["GridSample"][0] <= known.opset:
        for attribute in node.attribute:
            if attribute.name == "mode":
                attribute.s = _GRID_SAMPLE_MODES.get(attribute.s, attribute.s)
    if node.op_type == "DFT" and opset < _CHANGED["DFT"][0] <= known.opset:
        node.attribute.append(helper.make_attribute("axis", _dft_axis(node, known)))
        kept = _given(node.input[:2])
        del node.input[:]
        node.input.extend(kept)


@cache
def _schema(op_type: str, opset: int) -> OpSchema | None:
    return onnx.defs.get_schema(op_type, opset, "") if onnx.defs.has(op_type, opset, "") else None


def _given(names: Sequence[str]) -> list[str]:
    """Without those that are left out at the end."""
    last = max((index for index, name in enumerate(names) if name), default=-1)
    return list(names[: last + 1])


def _is_default(node: NodeProto, attribute: AttributeProto, known: _Values, newest: OpSchema) -> bool:
    """Whether an attribute that only newer versions know says what older ones do."""
    if attribute.name in _OF_FLOAT8:
        return True
    if attribute.name == "dilations":
        return set(attribute.ints) <= {1}
    default = newest.attributes[attribute.name].default_value
    if default.type != AttributeProto.UNDEFINED and _shown(attribute) == _shown(default):
        return True
    if attribute.name == "output_dtype" and node.op_type == "QuantizeLinear":
        # with a zero point it has to be that one's
        return len(_given(node.input)) > 2 or attribute.i == TensorProto.UINT8
    # the precision of QuantizeLinear and the output of DequantizeLinear are those of the scale
    return attribute.name in ("output_dtype", "precision") and known.types.get(node.input[1]) == attribute.i


def _shown(attribute: AttributeProto) -> str:
    value = helper.get_attribute_value(attribute)
    return value.decode() if isinstance(value, bytes) else str(value)


def _unknown_type(node: NodeProto, known: _Values, older: OpSchema) -> str | None:
    """An input or output whose element type the older version does not take, of those that are known."""
    variables: dict[str, int] = {}
    for parameters, names in ((older.inputs, node.input), (older.outputs, node.output)):
        for position, name in enumerate(names):
            if not parameters or not (type_ := known.types.get(name, 0)):
                continue
            parameter = parameters[min(position, len(parameters) - 1)]
            written = TensorProto.DataType.Name(type_).lower()
            if f"tensor({written})" not in parameter.types:
                return f"with {name!r} of type {written}"
            same = variables.setdefault(parameter.type_str, type_) if parameter.is_homogeneous else type_
            if same != type_:
                return f"with {name!r} of type {written} and others of type {TensorProto.DataType.Name(same).lower()}"
    return None


def _has_mode(name: str, mode: bytes) -> Callable[[NodeProto, _Values], str | None]:
    def refuses(node: NodeProto, _known: _Values) -> str | None:
        return f"with {name} = {mode.decode()}" if attributes(node).get(name) == mode else None

    return refuses


def _starts_behind_the_input(node: NodeProto, _known: _Values) -> str | None:
    """Where the last window of `ceil_mode` may start in the padding at the end, or after it.

    Opset 22 leaves that window out, the versions before count it. Windows of `extent` elements begin every `stride`,
    the first that does not lie within the padded input ends at most `stride` behind it: it starts in the input if
    padding at the end + stride <= extent. `auto_pad` pads so much that the last window ends with the padding.
    """
    given = attributes(node)
    if not given.get("ceil_mode"):
        return None
    kernel = given["kernel_shape"]
    strides, dilations = (given.get(name, [1] * len(kernel)) for name in ("strides", "dilations"))
    pads = [0] * len(kernel)
    if "pads" in given and given.get("auto_pad", b"NOTSET") == b"NOTSET":
        pads = given["pads"][len(kernel) :]
    axes = zip(kernel, strides, dilations, pads, strict=True)
    late = any(pad + stride > dilation * (size - 1) + 1 for size, stride, dilation, pad in axes)
    return "with ceil_mode = 1 and windows that may start behind the input" if late else None


def _has_other_rank(node: NodeProto, known: _Values) -> str | None:
    rank = next((len(known.shapes[name]) for name in node.input if name in known.shapes), None)
    return None if rank == 4 else f"of {'unknown rank' if rank is None else f'{rank - 2} spatial axes'}"


def _has_short_mask(node: NodeProto, known: _Values) -> str | None:
    """A mask of another length than the keys, which opset 24 extends."""
    mask, past = (node.input[i] if i < len(node.input) else "" for i in (3, 4))
    lengths = [known.shapes.get(name, (None, None))[-2] for name in (node.input[1], past) if name]
    of_mask = known.shapes.get(mask, (None,))[-1:]
    if None in (*lengths, *of_mask) or of_mask == (sum(length or 0 for length in lengths),):
        return None
    return "with a mask that is shorter than the keys"


def _has_computed_axis(node: NodeProto, known: _Values) -> str | None:
    return "with an axis that is computed" if _dft_axis(node, known) is None else None


def _dft_axis(node: NodeProto, known: _Values) -> int | None:
    """The axis of a DFT of opset 20, None if it is no constant."""
    name = node.input[2] if len(node.input) > 2 else ""
    if not name:
        return _DFT_AXIS
    return int(numpy_helper.to_array(known.constants[name]).item()) if name in known.constants else None


def newer_meaning(node: NodeProto, opset: int) -> str | None:
    """Why a node of `opset` does not mean the same at `TARGET_OPSET`, as what follows its operator's name; None if it
    does, or if its operator has two versions that differ in form."""
    first, changed = _CHANGED.get(node.op_type, (0, None))
    return changed(node, _Values(opset)) if changed is _starts_behind_the_input and opset < first else None


_Refusal = Callable[[NodeProto, _Values], str | None]

_CHANGED: Mapping[str, tuple[int, _Refusal | None]] = {
    "Pad": (19, _has_mode("mode", b"wrap")),
    "Resize": (19, _has_mode("coordinate_transformation_mode", b"half_pixel_symmetric")),
    "DFT": (20, _has_computed_axis),
    "GridSample": (20, _has_other_rank),
    "AveragePool": (22, _starts_behind_the_input),
    "LpPool": (22, _starts_behind_the_input),
    "MaxPool": (22, _starts_behind_the_input),
    "Attention": (24, _has_short_mask),
}
"""Meanings that changed without the schema telling it: from which opset on, and what has no older counterpart."""
