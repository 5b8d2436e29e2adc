"""Attributes that are on or off: 0 or 1, and nothing else.

ONNX Runtime takes other numbers for on in one operator (`transB`), for off in another (`keepdims`), and refuses them in
a third (`exclusive`). A network that has one is not read differently in two places: it is refused.
"""

from __future__ import annotations

import itertools

from onnx import AttributeProto, ModelProto

from network.errors import ModelInvalid
from network.onnx_graph import is_standard, nodes
from network.operator_sets import node_name

FLAGS = frozenset(
    {"align_corners", "allowzero", "antialias", "ceil_mode", "count_include_pad", "exclude_outside", "exclusive"}
    | {"fmod", "interleaved", "inverse", "is_causal", "keepdims", "largest", "layout", "linear_before_reset"}
    | {"noop_with_empty_axes", "onesided", "reverse", "select_last_index", "sorted", "training_mode", "transA"}
    | {"transB", "upper"}
)


def check_flags(model: ModelProto) -> None:
    """Refuse flags that are neither 0 nor 1.

    Raises:
        ModelInvalid: names the node.
    """
    for node in itertools.chain.from_iterable(nodes(holder) for holder in (model.graph, *model.functions)):
        if not is_standard(node):
            continue
        for attribute in node.attribute:
            if attribute.name in FLAGS and attribute.type == AttributeProto.INT and attribute.i not in (0, 1):
                raise ModelInvalid(
                    f"{node_name(node)} ({node.op_type}) has {attribute.name}={attribute.i}; expected 0 or 1: export "
                    "the model again"
                )
