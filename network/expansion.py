"""Operators written as other ones, for opsets that do not have them.

ONNX defines most operators that came after opset 18 by a function: a graph of operators that were there before.
`expand` gives such nodes in place of one node. The form is written here where ONNX Runtime turns it back into its one
kernel, or where it is much shorter than ONNX's own:

    Gelu                x * 0.5 * (1 + erf(x / sqrt(2))), or the form with tanh
    Swish               x * sigmoid(alpha * x)
    RMSNormalization    x / sqrt(mean(x^2) + epsilon) * scale
    GroupNormalization  InstanceNormalization of [N, groups, rest], then scale and bias
    Attention           softmax(q k') v, in its plain form

Attention with masks, past keys or a window, and RotaryEmbedding, are ONNX's functions. AffineGrid is left out: ONNX's
function of it fails for a single sample.

Every new node is marked in its metadata (`is_expanded`). What looks for weights or activations to quantize passes
over marked nodes, so that it finds the same at every opset.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import zip_longest
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import AttributeProto, FunctionProto, NodeProto, TensorProto, helper, numpy_helper

MARK = "expanded_from"
"""Key of the metadata of a new node; the value is the operator that it is a part of."""

_Shape = tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Expansion:
    """Nodes that compute what one node did, in topological order, and the initializers that they read."""

    nodes: tuple[NodeProto, ...]
    constants: tuple[TensorProto, ...]


def is_expanded(node: NodeProto) -> bool:
    """Whether the node is a part of an operator that the network's opset does not have."""
    return any(entry.key == MARK for entry in node.metadata_props)


def expand(
    node: NodeProto, types: Mapping[str, int], shapes: Mapping[str, _Shape], prefix: str, opset: int
) -> Expansion | None:
    """Other nodes that compute the same, None where none are known.

    Args:
        node: of the standard domain, with the meaning that its operator has at `opset`.
        types: element types of values, by name, as far as they are known.
        shapes: shapes of values, by name, as far as they are known.
        prefix: of the names of all new nodes and values; no other name may begin with it.
        opset: which the network has. The new nodes have the same meaning there as at the opset of ONNX's function.
    """
    write = _FORMS.get(node.op_type)
    expansion = write(_Draft(node, types, shapes, prefix, opset)) if write else None
    for new in expansion.nodes if expansion is not None else ():
        new.metadata_props.add(key=MARK, value=node.op_type)
    return expansion


@dataclass
class _Draft:
    """The nodes that stand for `node`, while they are written."""

    node: NodeProto
    types: Mapping[str, int]
    shapes: Mapping[str, _Shape]
    prefix: str
    opset: int
    nodes: list[NodeProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)

    @property
    def inputs(self) -> list[str]:
        return list(self.node.input)

    @cached_property
    def attributes(self) -> dict[str, AttributeProto]:
        """By name, with the defaults of those that the node leaves out."""
        declared = onnx.defs.get_schema(self.node.op_type, self.opset, "").attributes
        defaults = {name: a.default_value for name, a in declared.items() if a.default_value.type}
        return defaults | {attribute.name: attribute for attribute in self.node.attribute}

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute of the node; the operator's default where the node has none."""
        attribute = self.attributes.get(name)
        return default if attribute is None else helper.get_attribute_value(attribute)

    def __call__(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """One more node; the name of its output."""
        name = f"{self.prefix}{op_type}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], name, **attributes))
        return name

    def integers(self, *values: int) -> str:
        """A constant of 64-bit integers, one axis."""
        return self._constant(np.array(values, dtype=np.int64))

    def number(self, value: ArrayLike, like: str) -> str:
        """A constant of the element type that `like` has."""
        type_ = self.types.get(like, 0)
        single = self._constant(np.asarray(value, dtype=np.float32), type_ or TensorProto.FLOAT)
        return single if type_ else self("CastLike", single, like)

    def cast(self, value: str, type_: int, from_type: int = 0) -> str:
        """`value` with another element type; itself where it is known to have that one."""
        return value if (from_type or self.types.get(value)) == type_ else self("Cast", value, to=type_)

    def cast_like(self, value: str, type_: int, like: str) -> str:
        """`value`, which has the element type `type_`, with that of `like`."""
        if not (target := self.types.get(like, 0)):
            return self("CastLike", value, like)
        return self.cast(value, target, type_)

    def typed(self, value: ArrayLike, type_: int) -> str:
        """A constant of this element type."""
        return self._constant(np.asarray(value, dtype=np.float32), type_)

    def done(self) -> Expansion:
        """With the last node's output as that of the node."""
        self.nodes[-1].output[0] = self.node.output[0]
        return Expansion(tuple(self.nodes), tuple(self.constants))

    def _constant(self, values: NDArray[Any], type_: int = 0) -> str:
        name = f"{self.prefix}constant_{len(self.constants)}"
        values = values.astype(helper.tensor_dtype_to_np_dtype(type_)) if type_ else values
        self.constants.append(numpy_helper.from_array(values, name))
        return name


def _gelu(draft: _Draft) -> Expansion:
    """The first form is the one that ONNX Runtime fuses, back to one Gelu: x / sqrt(2) as a Div, and the factor 0.5 at
    x or at the end. It has a fused kernel for the form with tanh too, but makes none of it on a CPU."""
    x = draft.inputs[0]
    one, half = draft.number(1, x), draft.number(0.5, x)
    if draft.get("approximate") == b"tanh":
        cube = draft("Mul", draft("Pow", x, draft.number(3, x)), draft.number(0.044715, x))
        inner = draft("Mul", draft("Add", x, cube), draft.number(math.sqrt(2 / math.pi), x))
        weight = draft("Add", draft("Tanh", inner), one)
    else:
        weight = draft("Add", draft("Erf", draft("Div", x, draft.number(math.sqrt(2), x))), one)
    draft("Mul", draft("Mul", x, half), weight)
    return draft.done()


def _swish(draft: _Draft) -> Expansion:
    """ONNX Runtime fuses it to QuickGelu."""
    x, alpha = draft.inputs[0], draft.get("alpha")
    draft("Mul", x, draft("Sigmoid", x if alpha == 1 else draft("Mul", x, draft.number(alpha, x))))
    return draft.done()


def _rms_normalization(draft: _Draft) -> Expansion:
    """In the form that ONNX Runtime fuses, to SimplifiedLayerNormalization: Pow, not Mul, and Div, not Reciprocal."""
    x, scale = draft.inputs[:2]
    axis, stash, rank = draft.get("axis"), draft.get("stash_type"), len(draft.shapes.get(x, ()))
    if axis >= 0 and x not in draft.shapes:
        end = draft("Size", draft("Shape", x))
        first, one = (draft("Squeeze", draft.integers(number)) for number in (axis, 1))
        axes = draft("Range", first, end, one)
    else:
        axes = draft.integers(*range(axis - rank if axis >= 0 else axis, 0))
    x = draft.cast(x, stash)
    square = draft("ReduceMean", draft("Pow", x, draft.typed(2, stash)), axes, keepdims=1)
    root = draft("Sqrt", draft("Add", square, draft.typed(draft.get("epsilon"), stash)))
    draft("Mul", draft.cast_like(draft("Div", x, root), stash, scale), scale)
    return draft.done()


def _group_normalization(draft: _Draft) -> Expansion:
    """As networks for older opsets have it. ONNX's own function takes the variance from E x^2 - (E x)^2, which loses
    digits where the mean is large."""
    x, scale, bias = draft.inputs[:3]
    groups, stash = draft.get("num_groups"), draft.get("stash_type")
    shape, channels_first = draft("Shape", x), draft.integers(0, 0, -1)
    grouped = draft("Reshape", draft.cast(x, stash), draft.integers(0, groups, -1))
    ones, zeros = (draft.typed(np.full(groups, value), stash) for value in (1, 0))
    normal = draft("InstanceNormalization", grouped, ones, zeros, epsilon=draft.get("epsilon"))
    normal = draft("Reshape", draft("Reshape", draft.cast_like(normal, stash, x), shape), channels_first)
    per_channel = draft.integers(-1, 1)
    scaled = draft("Mul", normal, draft("Reshape", scale, per_channel))
    draft("Reshape", draft("Add", scaled, draft("Reshape", bias, per_channel)), shape)
    return draft.done()


def _attention(draft: _Draft) -> Expansion | None:
    """softmax(q k' * scale) v with as many heads of queries as of keys; ONNX's function for any other form.

    q [B, H, L, D], k [B, H, S, D], v [B, H, S, Dv], or [B, L, H * D] and so on, with the number of heads as attributes.
    """
    q, k, v = draft.inputs[:3]
    if _returns_masked_products(draft):
        return None
    heads, size, packed = _plain_heads(draft)
    scale = draft.get("scale", 1 / math.sqrt(size) if size else 0)
    single = draft.types.get(q) == draft.types.get(v) == draft.get("softmax_precision", 1) == TensorProto.FLOAT
    extra = any(draft.inputs[3:]) or any(draft.node.output[1:]) or draft.get("is_causal") or draft.get("softcap")
    windows = any(draft.get(f"{side}_window_size", -1) >= 0 for side in ("left", "right"))
    if not heads or extra or windows or not single or scale <= 0:
        return _by_function(draft)
    heads_first = (0, 2, 1, 3)
    if packed:
        split = draft.integers(0, 0, heads, -1)
        q, k, v = (draft("Reshape", value, split) for value in (q, k, v))
        q, v = (draft("Transpose", value, perm=heads_first) for value in (q, v))
    k = draft("Transpose", k, perm=(0, 2, 3, 1) if packed else (0, 1, 3, 2))
    # half of the scale on each side, as ONNX says, keeps the products small
    root = draft.typed(math.sqrt(scale), TensorProto.FLOAT)
    scores = draft("MatMul", draft("Mul", q, root), draft("Mul", k, root))
    y = draft("MatMul", draft("Softmax", scores, axis=-1), v)
    if packed:
        draft("Reshape", draft("Transpose", y, perm=heads_first), draft.integers(0, 0, -1))
    return draft.done()


_BEHIND_SOFTCAP = 2  # of `qk_matmul_output_mode`


def _returns_masked_products(draft: _Draft) -> bool:
    """Whether it returns products that are hidden from the softmax: ONNX's function has -inf there, ONNX Runtime's
    kernel the lowest finite number. A mask of numbers is only added."""
    returned = len(draft.node.output) > 3 and draft.node.output[3]
    mask = draft.inputs[3] if len(draft.inputs) > 3 else ""
    numbers = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
    hidden = draft.get("is_causal") or (mask and draft.types.get(mask) not in numbers)
    return bool(returned and hidden and draft.get("qk_matmul_output_mode") == _BEHIND_SOFTCAP)


def _plain_heads(draft: _Draft) -> tuple[int, int, bool]:
    """How many heads there are, their size, and whether they lie beside each other in one axis; zeros where queries
    and keys differ in them, or not all is known."""
    query, key = (draft.shapes.get(name, ()) for name in draft.inputs[:2])
    packed = len(query) == 3
    if packed:
        numbers = draft.get("q_num_heads"), draft.get("kv_num_heads")
    else:
        numbers = (query[1], key[1]) if len(query) == len(key) == 4 else (None, None)
    heads, width = numbers[0], query[-1] if query else None
    if not heads or not width or heads != numbers[1]:
        return 0, 0, packed
    return heads, width // heads if packed else width, packed


def _by_function(draft: _Draft) -> Expansion | None:
    """ONNX's own function with the node's names in it, constants as initializers, and without what nothing reads.

    None where ONNX needs types or shapes for it that are not known.
    """
    function, node = _function(draft), draft.node
    if function is None:
        return None
    names = dict.fromkeys(function.input, "") | dict(zip(function.input, node.input, strict=False)) | {"": ""}
    outputs = {inner: outer for inner, outer in zip(function.output, node.output, strict=False) if outer}
    names |= outputs
    nodes, constants = [], {}
    for position, inner in enumerate(function.node):
        if inner.op_type == "Identity" and inner.output[0] not in outputs:
            names[inner.output[0]] = names[inner.input[0]]
            continue
        for name in inner.output:
            names.setdefault(name, draft.prefix + name)
        new = NodeProto(op_type=inner.op_type, name=f"{draft.prefix}{inner.op_type}_{position}")
        new.input.extend(names[name] for name in inner.input)
        new.output.extend(names[name] for name in inner.output)
        new.attribute.extend(_resolved(inner.attribute, draft.attributes))
        if new.op_type == "Constant":
            constants[new.output[0]] = _constant(new)
        else:
            nodes.append(new)
    kept = _needed(nodes, outputs.values())
    read = {name for inner in kept for name in inner.input}
    return Expansion(tuple(kept), tuple(tensor for name, tensor in constants.items() if name in read))


def _function(draft: _Draft) -> FunctionProto | None:
    node = draft.node
    schema: Any = onnx.defs.get_schema(node.op_type, draft.opset, "")  # its stubs lack what follows
    known = {name: type_ for name in node.input if (type_ := draft.types.get(name))}
    types = [
        helper.make_tensor_type_proto(known[name], draft.shapes.get(name)) if name in known else onnx.TypeProto()
        for name in node.input
    ]
    version = max(schema.context_dependent_function_opset_versions)
    whole = NodeProto()
    whole.CopyFrom(node)
    if any(node.output[1:3]):  # of Attention's present keys and values ONNX gives both or no function at all
        whole.output[1:3] = [name or output.name for name, output in zip_longest(node.output[1:3], schema.outputs[1:3])]
    try:
        function = schema.get_context_dependent_function_with_opset_version(
            version, whole.SerializeToString(), [type_.SerializeToString() for type_ in types]
        )
    except RuntimeError:
        return None
    return FunctionProto.FromString(function) if function else None


def _resolved(attributes: Iterable[AttributeProto], outer: Mapping[str, AttributeProto]) -> Iterable[AttributeProto]:
    """With the values of those that stand for an attribute of the node; without those that it leaves out."""
    for attribute in attributes:
        if not attribute.ref_attr_name:
            yield attribute
        elif attribute.ref_attr_name in outer:
            value = AttributeProto()
            value.CopyFrom(outer[attribute.ref_attr_name])
            value.name = attribute.name
            yield value


def _constant(node: NodeProto) -> TensorProto:
    """What a Constant node makes, by that name."""
    [attribute] = node.attribute
    if attribute.name == "value":
        tensor = TensorProto()
        tensor.CopyFrom(attribute.t)
        tensor.name = node.output[0]
        return tensor
    type_ = np.float32 if attribute.name.startswith("value_float") else np.int64
    return numpy_helper.from_array(np.array(helper.get_attribute_value(attribute), dtype=type_), node.output[0])


def _needed(nodes: Sequence[NodeProto], outputs: Iterable[str]) -> list[NodeProto]:
    """The nodes that the outputs depend on."""
    read, kept = set(outputs), []
    for node in reversed(nodes):
        if read.intersection(node.output):
            read.update(node.input)
            kept.append(node)
    return kept[::-1]


_FORMS: Mapping[str, Callable[[_Draft], Expansion | None]] = {
    "Gelu": _gelu,
    "Swish": _swish,
    "RMSNormalization": _rms_normalization,
    "GroupNormalization": _group_normalization,
    "Attention": _attention,
    "RotaryEmbedding": _by_function,
}
