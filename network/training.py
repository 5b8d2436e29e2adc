"""Layers that behave as in training, whose outputs are not those of the network in use."""

from __future__ import annotations

from onnx import ModelProto, NodeProto, numpy_helper

from network.errors import TrainingMode, listing
from network.onnx_graph import attributes, graphs, is_standard, label, nodes, opset_of

# From here on training is an attribute of BatchNormalization, and an input of Dropout; before opset 7 an attribute says
# that it is over.
_ATTRIBUTE_SINCE = 14
_INPUT_SINCE = 12
_IS_TEST_UNTIL = 7


def require_inference(model: ModelProto) -> None:
    """Refuse a BatchNormalization or Dropout that is in training mode, or may be.

    Raises:
        TrainingMode: names the nodes.
    """
    opset = opset_of(model)
    asked = {name for node in nodes(model.graph) if node.op_type == "Dropout" for name in node.input[2:]}
    false = _constants_that_are_false(model, asked)
    training = [node for node in nodes(model.graph) if is_standard(node) and _trains(node, opset, false)]
    if training:
        raise TrainingMode(
            f"the model is in training mode: {listing([f'{label(node)} ({node.op_type})' for node in training])}; "
            "expected layers that normalise with their stored statistics and drop nothing: export it with eval(), or "
            "with training=TrainingMode.EVAL"
        )


def _trains(node: NodeProto, opset: int, false: set[str]) -> bool:
    given = attributes(node)
    if node.op_type not in ("BatchNormalization", "Dropout"):
        return False
    if opset < _IS_TEST_UNTIL:
        return not given.get("is_test", 0)
    if node.op_type == "Dropout":
        mode = node.input[2] if opset >= _INPUT_SINCE and len(node.input) > 2 else ""
        return mode not in ("", *false)
    # before the attribute, the statistics of the batch as further outputs are what says it
    return bool(given.get("training_mode", 0)) or (opset < _ATTRIBUTE_SINCE and any(node.output[1:]))


def _constants_that_are_false(model: ModelProto, names: set[str]) -> set[str]:
    """Those of `names` that are one element which no input can change, of initializers and Constant nodes."""
    false: set[str] = set()
    for graph in graphs(model.graph):
        constants = {tensor.name: tensor for tensor in graph.initializer if tensor.name in names}
        for node in graph.node:
            if (
                node.op_type == "Constant"
                and names.intersection(node.output)
                and "value" in (given := attributes(node))
            ):
                constants[node.output[0]] = given["value"]
        for name, tensor in constants.items():
            if list(tensor.dims) in ([], [1]) and not numpy_helper.to_array(tensor).any():
                false.add(name)
    return false
