"""What is constant in a graph, computed; and nodes written in fewer, where that changes no value.

onnxscript's default rules are not all faithful: some take `x + 1e-10` for `x`, fuse bounds that cross, split halves
that are not equal, or give two values one name. Here are those that look at shapes, types and exact zeros only, and the
folding of BatchNorm, which changes values by rounding alone.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common_passes
from onnxscript.optimizer import _constant_folding as constant_folding
from onnxscript.rewriter import RewritePass, pattern
from onnxscript.rewriter.rules.common import (
    _basic_rules,
    _collapse_slices,
    _fuse_batchnorm,
    _fuse_pad_into_conv,
    _materialize_reshape_shape,
    _remove_optional_bias,
)

from network.einsum import EinsumToMatMul
from network.quantized_weights import CODE_BITS, FEWEST_CODES

# Folding may make a tensor larger than what it was made from (Expand, Tile, ConstantOfShape): then it stays computed.
LARGEST_FOLDED_OUTPUT = 1 << 16
LARGEST_FOLDED_INPUT = 1 << 30
MOST_FOLDING_ROUNDS = 8
_ROUNDS_OF_RULES = 2


class Folding(IntEnum):
    """How much is rewritten; each includes those before."""

    NOTHING = 0
    CONSTANTS = 1
    RULES = 2


def _gather_of_shape(op: Any, x: ir.Value, index: ir.Value) -> Any:
    return op.Gather(op.Shape(x), index)


def _constant_dimension(op: Any, x: ir.Value, index: ir.Value, **_: Any) -> Any:
    """None, which keeps the node, where the dimension is not known."""
    if x.shape is None or index.const_value is None or index.const_value.shape.rank() != 0:
        return None
    position = int(index.const_value.numpy())
    dimension = x.shape[position] if -len(x.shape) <= position < len(x.shape) else None
    return op.Constant(value_int=dimension) if isinstance(dimension, int) else None


def _slice(op: Any, shape: ir.Value, start: ir.Value, end: ir.Value) -> Any:
    return op.Slice(shape, start, end)


def _constant_dimensions(op: Any, shape: ir.Value, start: ir.Value, end: ir.Value, **_: Any) -> Any:
    """None where not all dimensions are known."""
    node = shape.producer()
    if node is None or node.op_type != "Shape" or node.attributes.get_int("start") or "end" in node.attributes:
        return None
    of = node.inputs[0]
    if of is None or of.shape is None or start.const_value is None or end.const_value is None:
        return None
    first, last = (int(value.const_value.numpy().item()) for value in (start, end) if value.const_value is not None)
    dimensions = list(of.shape)[first:last]
    known = [dimension for dimension in dimensions if isinstance(dimension, int)]
    return op.Constant(value_ints=known) if known and len(known) == len(dimensions) else None


# `x.shape[i]` and `x.shape[i:j]` as exporters write them. onnxscript folds the first only for a list of indices and a
# stated axis; and folding the whole shape first is no way, because the batch axis is not known.
_ONE_DIMENSION = pattern.RewriteRuleSet(
    [
        pattern.RewriteRule(_gather_of_shape, _constant_dimension, name="one_dimension"),
        pattern.RewriteRule(_slice, _constant_dimensions, name="several_dimensions"),
    ]
)

# In onnxscript's own order. Left out of its defaults, with what goes wrong:
#   x + 0, x * 1, ...          what is about 0 or 1 counts as such, and a constant may have axes that broadcast
#   Clip, Relu, Min, Max       wrong where the bounds cross
#   Reshape, MatMul, Reshape   looks at the last shape only
#   two Slices to a Split      an odd length has unequal halves, the other way round
#   Cast of Cast               rounds once in place of twice
#   Cast of ConstantOfShape    casts by Python's rules
#   ScatterND of all rows      whatever the reduction
#   Flatten to Reshape         names the shape after the input, so that two Flatten of one value share it
RULES = (
    *_collapse_slices.rules,
    *_materialize_reshape_shape.rules,
    _basic_rules.no_op_cast_rule,
    _basic_rules.no_op_expand_rule,
    _basic_rules.reshape_reshape_rule,
    _basic_rules.no_op_transpose_rule,
    _basic_rules.transpose_transpose_rule,
    _basic_rules.unsqueeze_unsqueeze_rule,
    _basic_rules.squeeze_reshape_1d_rule,
    *_fuse_pad_into_conv.rules,
    *_fuse_batchnorm.rules,
    *_remove_optional_bias.rules,
)


def fold(graph: ir.Model, folding: Folding) -> None:
    """Fold `graph` in place; with `Folding.NOTHING` constants only become initializers.

    Each known dimension may make further shapes known, hence the repetition.
    """
    for _ in range(MOST_FOLDING_ROUNDS):
        _passes(folding)(graph)
        if folding is Folding.NOTHING or not _ONE_DIMENSION.apply_to_model(graph):
            return


def forget_matches() -> None:
    """Let go of the last graph: rules keep what they matched last, with all of its weights, until they match again."""
    value = ir.val("x", ir.DataType.FLOAT, [1])
    node = ir.node("Identity", [value])
    graph = ir.Graph([value], node.outputs, nodes=[node], opset_imports={"": 21}, name="nothing")
    model = ir.Model(graph, ir_version=10)
    RewritePass(RULES)(model)
    _ONE_DIMENSION.apply_to_model(model)


class SplitConstantsPass(ir.passes.InPlacePass):
    """Split of an initializer that nothing else reads: each part becomes an initializer, of as many bytes together.

    Exporters split a packed weight (query, key and value of an attention) in the graph; the layers behind see a weight
    only then. The library folds nodes of one output alone.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        changed = False
        outputs = set(model.graph.outputs)
        for node in ir.traversal.RecursiveGraphIterator(model.graph):
            parts = _parts_of_constant(node) if node.op_type == "Split" and node.domain == "" else None
            if parts is None or outputs.intersection(node.outputs):
                continue
            for value, part in zip(node.outputs, parts, strict=True):
                tensor = ir.tensor(np.ascontiguousarray(part), name=value.name)
                constant = ir.Value(name=value.name, type=value.type, shape=ir.Shape(part.shape), const_value=tensor)
                ir.convenience.replace_all_uses_with(value, constant)
                value.name = None
                model.graph.register_initializer(constant)
            changed = True
        return ir.passes.PassResult(model, modified=changed)


def _parts_of_constant(node: ir.Node) -> list[Any] | None:
    """The outputs of a Split of constants; None where it is none, or where the whole is needed too."""
    whole = node.inputs[0]
    if whole is None or not whole.is_initializer() or whole.const_value is None or len(whole.uses()) > 1:
        return None
    if whole.is_graph_input() or whole.is_graph_output() or not all(value.name for value in node.outputs):
        return None
    lengths = node.inputs[1] if len(node.inputs) > 1 else None
    if lengths is not None and lengths.const_value is None:
        return None
    array, axis = whole.const_value.numpy(), node.attributes.get_int("axis", 0)
    if lengths is not None and lengths.const_value is not None:
        own = lengths.const_value.numpy().tolist()
    else:
        most = -(-array.shape[axis] // len(node.outputs))
        own = [min(most, max(0, array.shape[axis] - most * place)) for place in range(len(node.outputs))]
    return list(np.split(array, np.cumsum(own)[:-1], axis=axis)) if sum(own) == array.shape[axis] else None


def _passes(folding: Folding) -> ir.passes.Sequential:
    """onnxscript's `optimize_ir` with the rules above."""
    rounds: list[ir.passes.InPlacePass] = []
    if folding >= Folding.CONSTANTS:
        rounds.append(
            constant_folding.FoldConstantsPass(
                shape_inference=True,
                input_size_limit=LARGEST_FOLDED_INPUT,
                output_size_limit=LARGEST_FOLDED_OUTPUT,
                should_fold=_should_fold,
            )
        )
        rounds.append(SplitConstantsPass())
    if folding >= Folding.RULES:
        rounds += [EinsumToMatMul(), RewritePass(RULES)]
    rounds += [
        common_passes.RemoveUnusedNodesPass(),
        common_passes.RemoveUnusedOpsetsPass(),
    ]
    merged = [common_passes.DeduplicateInitializersPass(), common_passes.CommonSubexpressionEliminationPass()]
    return ir.passes.Sequential(
        common_passes.InlinePass(),
        ir.passes.PassManager(rounds, steps=_ROUNDS_OF_RULES, early_stop=True),
        common_passes.RemoveUnusedNodesPass(),
        common_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common_passes.LiftSubgraphInitializersToMainGraphPass(),
        *(merged if folding >= Folding.CONSTANTS else []),
        common_passes.OutputFixPass(),
        common_passes.NameFixPass(),
    )


_MOVED = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity")
_REARRANGED = (*_MOVED, "Cast")
_CUT_OUT = ("Slice", "Gather")
# A file of quantization-aware training may hold its weights in float and quantize them in each run: the codes say the
# same in a quarter of the bytes. The float weight could not be rounded otherwise, because its rounding is the file's.
_MADE_CODES = ("QuantizeLinear",)


def _should_fold(node: ir.Node) -> bool | None:
    """Rearranging a weight, cutting it into parts, or quantizing it, is always folded, so that the layer sees an
    initializer; but not a weight that others use too, because the copy would untie them. Codes of a weight that came
    quantized stay codes. Everything else goes by size."""
    if node.op_type not in _MOVED + _CUT_OUT + _MADE_CODES and any(map(_is_codes, node.inputs)):
        return False
    if node.op_type not in _REARRANGED + _CUT_OUT + _MADE_CODES:
        return None
    weight = node.inputs[0]
    if weight is None or not weight.is_initializer() or weight.const_value is None:
        return None
    if any(value is not None and value.const_value is None for value in node.inputs):
        return None
    if len(weight.uses()) == 1 or weight.const_value.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
        return True
    return node.op_type in _CUT_OUT and _are_cut_out(weight)


def _is_codes(value: ir.Value | None) -> bool:
    tensor = value.const_value if value is not None else None
    return tensor is not None and tensor.dtype.name in CODE_BITS and tensor.size >= FEWEST_CODES


def _are_cut_out(weight: ir.Value) -> bool:
    """Whether all that reads a weight cuts known parts out of it, together no more than there is."""
    elements = 0
    for reader in (use.node for use in weight.uses()):
        part = reader.outputs[0].shape
        known = all(value is None or value.const_value is not None for value in reader.inputs[1:])
        if reader.op_type not in _CUT_OUT or reader.inputs[0] is not weight or not known or part is None:
            return False
        lengths = [length for length in part if isinstance(length, int)]
        if len(lengths) != len(part):
            return False
        elements += int(np.prod(lengths))
    return weight.const_value is not None and elements <= weight.const_value.size and not weight.is_graph_output()
