"""Whether a delivered file takes and gives what the uploaded one does: names, order, types, fixed and free axes."""

from __future__ import annotations

import onnx

Value = tuple[str, int, tuple[int | str | None, ...] | None]
"""Name, element type, and axes: a length, the name of a free axis or None for a free one without; None: no shape."""


def differences(uploaded: bytes, delivered: bytes) -> list[str]:
    """What is not equal, one text for each; empty where the interface is the uploaded one."""
    before, after = onnx.load_model_from_string(uploaded).graph, onnx.load_model_from_string(delivered).graph
    texts: list[str] = []
    for kind, first, second in (
        ("inputs", _inputs(before), _inputs(after)),
        ("outputs", [_value(v) for v in before.output], [_value(v) for v in after.output]),
    ):
        if [value[0] for value in first] != [value[0] for value in second]:
            texts.append(f"{kind} {[value[0] for value in second]}, uploaded {[value[0] for value in first]}")
            continue
        texts += [f"{a[0]}: {difference}" for a, b in zip(first, second, strict=True) if (difference := _one(a, b))]
    return texts


def _one(before: Value, after: Value) -> str | None:
    if before[1] != after[1]:
        return f"type {after[1]}, uploaded {before[1]}"
    # an output without a declared shape may get one: the runs say whether it is true
    if before[2] is not None and before[2] != after[2]:
        return f"axes {after[2]}, uploaded {before[2]}"
    return None


def _inputs(graph: onnx.GraphProto) -> list[Value]:
    """Without the initializers that old files list beside them."""
    weights = {tensor.name for tensor in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    return [_value(value) for value in graph.input if value.name not in weights]


def _value(value: onnx.ValueInfoProto) -> Value:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return value.name, tensor.elem_type, None
    axes = tuple(d.dim_value if d.HasField("dim_value") else (d.dim_param or None) for d in tensor.shape.dim)
    return value.name, tensor.elem_type, axes
