"""Fused operators of ONNX Runtime, written as the operators of ONNX that they stand for.

Its optimiser writes them into files, and so do tools for transformers. As ONNX operators their weights can be planned,
torch knows them, and ONNX Runtime fuses them again when it loads the delivered file. What has no form here stays as it
is. `network.faithful` proves that outputs stay.

    FusedMatMul, TransposeMatMul      alpha A B, either transposed
    FusedGemm, FusedConv              with an activation behind it; FusedConv also with a sum before that
    BiasGelu, FastGelu, Gelu          x Phi(x), Phi exact or by tanh; QuickGelu x sigmoid(alpha x)
    SimplifiedLayerNormalization      x / sqrt(mean(x^2) + epsilon) * scale
    Skip(Simplified)LayerNormalization  the same, or LayerNormalization, of a sum
    EmbedLayerNormalization           of the sum of two or three embeddings
    Attention                         a product with the weights, and MultiHeadAttention
    MultiHeadAttention                softmax(q k' / sqrt(d) + mask) v, without states of earlier steps

Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from network.onnx_graph import attributes, graphs, is_standard, label, shape_of, shape_skeleton

RUNTIME_DOMAIN = "com.microsoft"
_MOST_ROUNDS = 8  # each may make shapes known that another node needs


class _Fused:
    """A fused node, what is known of the values it reads, and the nodes that stand for it."""

    def __init__(self, node: NodeProto, known: _Known, taken: set[str]) -> None:
        self.node, self._known, self._taken = node, known, taken
        self.given = attributes(node)
        self.new: list[NodeProto] = []

    def input(self, index: int) -> str:
        return self.node.input[index] if index < len(self.node.input) else ""

    def output(self, index: int) -> str:
        """The name of an output that something reads, else empty."""
        name = self.node.output[index] if index < len(self.node.output) else ""
        return name if name in self._known.read else ""

    def rank(self, name: str) -> int | None:
        return self._known.ranks.get(name)

    def shape(self, name: str) -> tuple[int | None, ...] | None:
        return self._known.shapes.get(name)

    def made(self, values: ArrayLike) -> str:
        """A constant of integers."""
        return self.add("Constant", value=numpy_helper.from_array(np.asarray(values, np.int64)))

    def kind(self, *like: str) -> int:
        """The element type of the first of these values whose type is known, else float32."""
        return next((own for name in like if (own := self._known.types.get(name))), TensorProto.FLOAT)

    def number(self, value: float, *like: str) -> str:
        """A constant of the element type `kind`."""
        array = np.asarray(value, helper.tensor_dtype_to_np_dtype(self.kind(*like)))
        return self.add("Constant", value=numpy_helper.from_array(array))

    def add(self, op_type: str, *inputs: str, domain: str = "", output: str = "", **given: Any) -> str:
        """A new node; returns its output, which has this name or a new one."""
        names = (f"{label(self.node)}/{number}" for number in itertools.count(1))
        name = next(name for name in names if name not in self._taken)
        self._taken.add(name)
        self.new.append(helper.make_node(op_type, list(inputs), [output or name], name, domain=domain, **given))
        return output or name

    def chosen(self, *names: str) -> dict[str, Any]:
        """Those of the attributes that are given."""
        return {name: self.given[name] for name in names if name in self.given}


class _Known:
    """Element types and shapes of values, and the names that are read; names are unique in a model."""

    def __init__(self, model: ModelProto) -> None:
        inferred = onnx.shape_inference.infer_shapes(shape_skeleton(model), data_prop=True).graph
        self.types: dict[str, int] = {}
        self.shapes: dict[str, tuple[int | None, ...]] = {}
        self.read = {value.name for graph in graphs(model.graph) for value in graph.output}
        for graph in graphs(inferred):
            for value in (*graph.input, *graph.value_info, *graph.output):
                self.types[value.name] = value.type.tensor_type.elem_type
                if (shape := shape_of(value)) is not None:
                    self.shapes[value.name] = shape
        for graph in graphs(model.graph):
            self.read.update(name for node in graph.node for name in node.input)
            for tensor in graph.initializer:
                self.types[tensor.name], self.shapes[tensor.name] = tensor.data_type, tuple(tensor.dims)
        self.ranks = {name: len(shape) for name, shape in self.shapes.items()}


def unfuse(model: ModelProto) -> None:
    """Write the fused nodes of `model`, of opset 18 or newer, as ONNX operators, in place."""
    taken = {value.name for graph in graphs(model.graph) for value in (*graph.input, *graph.initializer)}
    taken.update(name for graph in graphs(model.graph) for node in graph.node for name in (node.name, *node.output))
    for _ in range(_MOST_ROUNDS):
        if not any(_form(node) for graph in graphs(model.graph) for node in graph.node):
            return
        known = _Known(model)
        changed = [_unfuse(graph, known, taken) for graph in graphs(model.graph)]
        if not any(changed):
            return


def _unfuse(graph: GraphProto, known: _Known, taken: set[str]) -> bool:
    """Whether any node was written anew."""
    nodes: list[NodeProto] = []
    changed = False
    for node in graph.node:
        fused = _Fused(node, known, taken)
        form = _form(node)
        written = form is not None and form(fused)
        changed |= written
        nodes.extend(fused.new if written else [node])
    if changed:
        copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)
    return changed


def _form(node: NodeProto) -> Callable[[_Fused], bool] | None:
    if is_standard(node):
        return _simplified_layer_normalization if node.op_type == "SimplifiedLayerNormalization" else None
    return _FORMS.get(node.op_type) if node.domain == RUNTIME_DOMAIN else None


def _matmul(fused: _Fused) -> bool:
    if fused.given.get("transBatchA") or fused.given.get("transBatchB"):
        return False
    operands = []
    for index, name in enumerate(("transA", "transB")):
        operand, rank = fused.input(index), fused.rank(fused.input(index))
        if fused.given.get(name):
            if rank is None or rank < 2:
                return False
            operand = fused.add("Transpose", operand, perm=[*range(rank - 2), rank - 1, rank - 2])
        operands.append(operand)
    alpha = fused.given.get("alpha", 1.0)
    if alpha == 1.0:
        fused.add("MatMul", *operands, output=fused.node.output[0])
    else:
        product = fused.add("MatMul", *operands)
        fused.add("Mul", product, fused.number(alpha, *fused.node.input), output=fused.node.output[0])
    return True


def _gemm(fused: _Fused) -> bool:
    names = [f"activation_{letter}" for letter in ("alpha", "beta")]
    parameters = [fused.given[name] for name in names if name in fused.given]
    gemm = partial(fused.add, "Gemm", *fused.node.input, **fused.chosen("alpha", "beta", "transA", "transB"))
    return _activated(fused, gemm, parameters)


def _conv(fused: _Fused) -> bool:
    given = fused.chosen("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
    inputs = [name for name in fused.node.input[:3] if name]

    def convolution(output: str) -> str:
        if not fused.input(3):
            return fused.add("Conv", *inputs, output=output, **given)
        return fused.add("Add", fused.add("Conv", *inputs, **given), fused.input(3), output=output)

    return _activated(fused, convolution, fused.given.get("activation_params", []))


def _activated(fused: _Fused, layer: Callable[..., str], parameters: list[float]) -> bool:
    """The layer with the node's activation behind it."""
    kind = fused.given.get("activation", b"").decode()
    names = _ACTIVATIONS.get(kind)
    output = fused.node.output[0]
    if not kind:
        layer(output=output)
    elif kind == "Clip" and len(parameters) == 2:
        x = layer(output="")
        fused.add("Clip", x, *(fused.number(bound, *fused.node.input) for bound in parameters), output=output)
    elif names is not None:
        given: dict[str, Any] = dict(zip(names, parameters, strict=False))
        fused.add(kind, layer(output=""), output=output, **given)
    else:
        return False
    return True


_ACTIVATIONS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("Relu", "Sigmoid", "Tanh"), ()),
    "LeakyRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
}


def _gelu(fused: _Fused) -> bool:
    """x Phi(x) = x (1 + erf(x / sqrt(2))) / 2, of a sum with a bias where there is one."""
    x = fused.add("Add", *fused.node.input[:2]) if fused.input(1) else fused.input(0)

    def number(value: float) -> str:
        return fused.number(value, *fused.node.input)

    erf = fused.add("Erf", fused.add("Div", x, number(math.sqrt(2))))
    return _half_of(fused, x, erf, number)


def _fast_gelu(fused: _Fused) -> bool:
    """x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2."""
    x = fused.add("Add", *fused.node.input[:2]) if fused.input(1) else fused.input(0)

    def number(value: float) -> str:
        return fused.number(value, *fused.node.input)

    cube = fused.add("Mul", fused.add("Mul", fused.add("Mul", x, x), x), number(0.044715))
    inner = fused.add("Mul", fused.add("Add", x, cube), number(math.sqrt(2 / math.pi)))
    return _half_of(fused, x, fused.add("Tanh", inner), number)


def _half_of(fused: _Fused, x: str, share: str, number: Callable[[float], str]) -> bool:
    product = fused.add("Mul", x, fused.add("Add", share, number(1.0)))
    fused.add("Mul", product, number(0.5), output=fused.node.output[0])
    return True


def _quick_gelu(fused: _Fused) -> bool:
    x = fused.input(0)
    scaled = fused.add("Mul", x, fused.number(fused.given.get("alpha", 1.702), x))
    fused.add("Mul", x, fused.add("Sigmoid", scaled), output=fused.node.output[0])
    return True


def _simplified_layer_normalization(fused: _Fused) -> bool:
    if fused.output(1) or fused.given.get("axis", -1) not in (-1, (fused.rank(fused.input(0)) or 0) - 1):
        return False
    return _root_mean_square(fused, fused.input(0), fused.input(1), fused.given.get("epsilon", 1e-5))


def _root_mean_square(fused: _Fused, x: str, scale: str, epsilon: float) -> bool:
    mean = fused.add("ReduceMean", fused.add("Mul", x, x), fused.made([-1]))
    root = fused.add("Sqrt", fused.add("Add", mean, fused.number(epsilon, scale, x)))
    fused.add("Mul", fused.add("Div", x, root), scale, output=fused.node.output[0])
    return True


def _skip_layer_normalization(simplified: bool, fused: _Fused) -> bool:
    """Of input + skip + bias, which is the fourth output."""
    bias = fused.input(3 if simplified else 4)
    if fused.output(1) or fused.output(2):
        return False
    total = fused.output(3)
    x = fused.add("Add", fused.input(0), fused.input(1), output="" if bias else total)
    if bias:
        x = fused.add("Add", x, bias, output=total)
    epsilon = fused.given.get("epsilon", 1e-12)
    if simplified:
        return _root_mean_square(fused, x, fused.input(2), epsilon)
    return _normalised(fused, x, fused.input(2), fused.input(3), epsilon)


def _normalised(fused: _Fused, x: str, gamma: str, beta: str, epsilon: float) -> bool:
    inputs = [x, gamma, *([beta] if beta else [])]
    fused.add("LayerNormalization", *inputs, output=fused.node.output[0], axis=-1, epsilon=epsilon)
    return True


def _embed_layer_normalization(fused: _Fused) -> bool:
    ids, segments, words, positions, segment_table, gamma, beta, mask, own = (fused.input(i) for i in range(9))
    length = fused.add("Gather", fused.add("Shape", ids), fused.made(1))
    if not own:
        own = fused.add("Range", fused.made(0), length, fused.made(1))
    x = fused.add("Add", fused.add("Gather", words, ids), fused.add("Gather", positions, own))
    if segments:
        x = fused.add("Add", x, fused.add("Gather", segment_table, segments))
    if total := fused.output(2):
        fused.add("Identity", x, output=total)
    if count := fused.output(1):
        if mask:
            ones = fused.add("ReduceSum", mask, fused.made([1]), keepdims=0)
            fused.add("Cast", ones, to=TensorProto.INT32, output=count)
        else:
            samples = fused.add("Gather", fused.add("Shape", ids), fused.made([0]))
            zero = helper.make_tensor("", TensorProto.INT32, [1], [0])
            fused.add("ConstantOfShape", samples, value=zero, output=count)
    return _normalised(fused, x, gamma, beta, fused.given.get("epsilon", 1e-12))


def _attention(fused: _Fused) -> bool:
    """Without states of earlier steps; the product with the weights is a layer of its own."""
    x, weights, bias, mask, past, added = (fused.input(i) for i in range(6))
    shape = fused.shape(weights)
    lengths = fused.given.get("qkv_hidden_sizes") or ([shape[1] // 3] * 3 if shape and shape[1] else [])
    if past or fused.output(1) or fused.given.get("do_rotary") or not lengths:
        return False
    product = fused.add("MatMul", x, weights)
    if bias:
        product = fused.add("Add", product, bias)
    names = [f"{product}/{letter}" for letter in "qkv"]
    split = helper.make_node("Split", [product, fused.made(lengths)], names, f"{product}/split", axis=-1)
    fused.new.append(split)
    inputs = [*names, "", mask, added]
    while not inputs[-1]:
        inputs.pop()
    given = fused.chosen("num_heads", "mask_filter_value", "scale", "unidirectional")
    fused.add("MultiHeadAttention", *inputs, domain=RUNTIME_DOMAIN, output=fused.node.output[0], **given)
    return True


def _multi_head_attention(fused: _Fused) -> bool:
    """Of q, k and v `[samples, positions, features]`; a mask `[samples, keys]` is 0 where there is no key."""
    q, k, v, bias, mask, added = (fused.input(i) for i in range(6))
    shape, heads = fused.shape(q), fused.given["num_heads"]
    taken = {fused.rank(name) for name in (q, k, v)} == {3} and fused.rank(mask) == (2 if mask else None)
    later = any(fused.node.input[6:]) or any(map(fused.output, range(1, 4)))
    scale = fused.given.get("scale", 0.0)
    if not scale and taken and shape and shape[2]:
        scale = 1 / math.sqrt(shape[2] // heads)
    if not taken or later or bias or fused.given.get("unidirectional") or not scale:
        return False

    def split(name: str, perm: list[int]) -> str:
        return fused.add("Transpose", fused.add("Reshape", name, fused.made([0, 0, heads, -1])), perm=perm)

    scores = fused.add("MatMul", split(q, [0, 2, 1, 3]), split(k, [0, 2, 3, 1]))
    scores = fused.add("Mul", scores, fused.number(scale, q))
    if mask:
        kept = fused.add("Cast", mask, to=fused.kind(q))
        low = fused.number(fused.given.get("mask_filter_value", -10_000.0), q)
        dropped = fused.add("Mul", fused.add("Sub", fused.number(1.0, q), kept), low)
        scores = fused.add("Add", scores, fused.add("Unsqueeze", dropped, fused.made([1, 2])))
    if added:
        scores = fused.add("Add", scores, added)
    mixed = fused.add("MatMul", fused.add("Softmax", scores, axis=-1), split(v, [0, 2, 1, 3]))
    joined = fused.add("Transpose", mixed, perm=[0, 2, 1, 3])
    fused.add("Reshape", joined, fused.made([0, 0, -1]), output=fused.node.output[0])
    return True


_FORMS: Mapping[str, Callable[[_Fused], bool]] = {
    "Attention": _attention,
    "BiasGelu": _gelu,
    "EmbedLayerNormalization": _embed_layer_normalization,
    "FastGelu": _fast_gelu,
    "FusedConv": _conv,
    "FusedGemm": _gemm,
    "FusedMatMul": _matmul,
    "Gelu": _gelu,
    "MultiHeadAttention": _multi_head_attention,
    "QuickGelu": _quick_gelu,
    "SkipLayerNormalization": partial(_skip_layer_normalization, False),
    "SkipSimplifiedLayerNormalization": partial(_skip_layer_normalization, True),
    "TransposeMatMul": _matmul,
}
