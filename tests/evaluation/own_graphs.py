"""Small metric graphs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from evaluation.metrics.own import OwnMetric, Readable
from network.admission import AdmissionLimits

LIMITS = AdmissionLimits(max_memory_bytes=1 << 28)
READABLE = Readable(("scores", "boxes"), ("image",), ("labels", "targets", "weight", "labels.scores"))

N_SCORES: tuple[str, int, list[object]] = ("scores", TensorProto.FLOAT, ["N", 4])


def graph(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[tuple[str, int, list[object]]],
    output: tuple[str, int, list[object] | None] = ("score", TensorProto.FLOAT, ["N"]),
    constants: dict[str, np.ndarray] | None = None,
    *,
    more_outputs: Sequence[tuple[str, int, list[object] | None]] = (),
    domain: str = "",
) -> bytes:
    """The file of a metric graph: inputs and outputs as (name, type, shape)."""
    proto = helper.make_graph(
        list(nodes),
        "metric",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in (output, *more_outputs)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", 18)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return helper.make_model(proto, opset_imports=opsets, ir_version=8).SerializeToString()


def mean_of(name: str, axis: int = 1) -> bytes:
    """The mean of an output over an axis, without that axis."""
    nodes = [helper.make_node("ReduceMean", [name, "axis"], ["score"], keepdims=0)]
    return graph(nodes, [(name, TensorProto.FLOAT, ["N", 4])], constants={"axis": np.array([axis])})


def accuracy(labels: str = "labels", kind: int = TensorProto.INT64) -> bytes:
    """1 where the largest score is that of the label, else 0."""
    nodes = [
        helper.make_node("ArgMax", ["scores"], ["top"], axis=1, keepdims=0),
        helper.make_node("Cast", [labels], ["wanted"], to=TensorProto.INT64),
        helper.make_node("Equal", ["top", "wanted"], ["same"]),
        helper.make_node("Cast", ["same"], ["score"], to=TensorProto.FLOAT),
    ]
    return graph(nodes, [N_SCORES, (labels, kind, ["N"])])


def distance() -> bytes:
    """The mean distance from the float network's scores: lower is better."""
    nodes = [
        helper.make_node("Sub", ["scores", "reference.scores"], ["difference"]),
        helper.make_node("Abs", ["difference"], ["size"]),
        helper.make_node("ReduceMean", ["size", "axis"], ["score"], keepdims=1),
    ]
    inputs = [N_SCORES, ("reference.scores", TensorProto.FLOAT, ["N", 4])]
    return graph(nodes, inputs, ("score", TensorProto.FLOAT, ["N", 1]), {"axis": np.array([1])})


def metric(data: bytes, readable: Readable = READABLE) -> OwnMetric:
    return OwnMetric.of(data, readable, LIMITS, 1)
