"""Scan of opset 8, whose states and sequences have a batch axis first, as a Scan over the batch of Scans of today."""

from __future__ import annotations

from onnx import GraphProto, ValueInfoProto, helper

from network.old_nodes import OldNode


def write_batched_scan(old: OldNode) -> None:
    """The inner Scan goes over the elements of one sequence; what comes out of it, states too, is stacked again.

    Raises:
        ModelNotTaken: the sequences have lengths of their own, behind which opset 8 has zeros.
    """
    if old.input(0):
        raise old.refuse("has sequences of several lengths")
    body = next(attribute for attribute in old.node.attribute if attribute.name == "body")
    inputs = [_value(old.free_name(), old.type_of(name)) for name in old.node.input[1:]]
    outputs = [_value(old.free_name(), old.type_of(name)) for name in old.node.output]
    names = [value.name for value in (*inputs, *outputs)]
    inner = helper.make_node("Scan", names[: len(inputs)], names[len(inputs) :], old.free_name())
    inner.attribute.append(body)
    inner.attribute.append(helper.make_attribute("num_scan_inputs", old.given["num_scan_inputs"]))
    if "directions" in old.given:
        inner.attribute.append(helper.make_attribute("scan_input_directions", old.given["directions"]))
    graph = GraphProto(name=old.free_name(), node=[inner], input=inputs, output=outputs)
    old.end("Scan", *old.node.input[1:], body=graph, num_scan_inputs=len(inputs))


def _value(name: str, type_: int) -> ValueInfoProto:
    """Of any rank."""
    return helper.make_tensor_value_info(name, type_, None)
