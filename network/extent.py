"""How many parts a network has, counted before anything looks at them one by one.

Time goes with the parts, more than with bytes: each node is written again and proved, each layer rounded in many ways,
each output judged by itself. Real networks that have many of them have the weights to it, so the limits grow with the
bytes of the file.
"""

from __future__ import annotations

import graphlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping

from onnx import FunctionProto, GraphProto, ModelProto, TensorProto

from network.errors import ModelInvalid, ModelNotTaken, ModelTooLarge, TooMuchWork
from network.message_size import size_bytes
from network.onnx_graph import is_standard, messages, nodes, subgraphs
from network.operator_sets import FunctionKey, function_key, node_name

MAX_FUNCTION_DEPTH = 64

NODES, BYTES_PER_NODE = 20_000, 1024
"""Decoders of a hundred layers have ten thousand nodes, in gigabytes. Five thousand take a job 17 s on one core, and
twice as many more than twice as long."""

WEIGHTS, BYTES_PER_WEIGHT = 1_000, 16 * 1024
"""Matrices of floats. A mixture of experts whose experts stand side by side has some thousand, each of a MiB."""

OUTPUTS = 512
"""Of a decoder that returns its caches: two for each of a hundred layers."""

GRAPHS = 1_000
"""Bodies of If, Loop and Scan: a decoder with and without a past has some hundred."""

_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16})


def check_extent(model: ModelProto, max_nodes: int, max_bytes: int) -> None:
    """Refuse what has too many parts, with all functions inlined.

    Args:
        max_nodes: nodes of any network.
        max_bytes: of the file with its functions inlined.

    Raises:
        ModelTooLarge: more than these.
        TooMuchWork: more nodes, weights, outputs or inner graphs than a file of this size may have.
        ModelNotTaken: functions that call each other too deeply.
        ModelInvalid: functions that call themselves.
    """
    size, size_of_graph = size_bytes(model)
    total_nodes, total_bytes = _inlined(model, size_of_graph)
    if max(total_nodes, len(model.functions)) > max_nodes or total_bytes > max_bytes:
        raise ModelTooLarge(
            f"with its functions inlined the model has {total_nodes:,} nodes in {total_bytes:,} bytes; "
            f"at most {max_nodes:,} nodes and {max_bytes:,} bytes are allowed"
        )
    inner = sum(1 for holder in _holders(model) for _ in _graphs_of(holder))
    weights = sum(1 for _ in _weights(model))
    for count, most, parts, remedy in (
        (total_nodes, NODES + size // BYTES_PER_NODE, "nodes", "export loops as Loop or Scan, not step by step"),
        (weights, WEIGHTS + size // BYTES_PER_WEIGHT, "matrices of weights", "stack small ones in one tensor"),
        (len(model.graph.output), OUTPUTS, "outputs", "export it with the outputs that are used"),
        (inner, GRAPHS, "graphs in its nodes", "export it with fewer branches and loops"),
    ):
        if count > most:
            raise TooMuchWork(
                f"the model has {count:,} {parts}; at most {most:,} are taken of a file of {size:,} bytes: {remedy}"
            )


def check_no_gaps(model: ModelProto) -> None:
    """Refuse a node that leaves out one of its like outputs before another: ONNX Runtime reads it all the same, and
    takes its process along.

    Raises:
        ModelInvalid: names the node.
    """
    for holder in _holders(model):
        for node in nodes(holder):
            if is_standard(node) and node.op_type in ("If", "Loop", "Scan", "Split") and "" in node.output:
                raise ModelInvalid(
                    f"{node_name(node)} ({node.op_type}) leaves out an output; these have no optional ones: name all "
                    "of its outputs, also those that nothing reads"
                )


def _holders(model: ModelProto) -> tuple[GraphProto | FunctionProto, ...]:
    return (model.graph, *model.functions)


def _graphs_of(holder: GraphProto | FunctionProto) -> Iterator[GraphProto]:
    """The graphs in its nodes, at any depth."""
    for node in nodes(holder):
        yield from subgraphs(node)


def _weights(model: ModelProto) -> Iterator[TensorProto]:
    for part in messages(model):
        if isinstance(part, TensorProto) and part.data_type in _FLOATS and _is_matrix(part):
            yield part


def _is_matrix(tensor: TensorProto) -> bool:
    return len(tensor.dims) > 1 and math.prod(tensor.dims) > 1


def _inlined(model: ModelProto, size_of_graph: int) -> tuple[int, int]:
    """Nodes and bytes with all functions inlined, found without inlining: calls may double at every level."""
    functions = {function_key(function): function for function in model.functions}
    calls = {key: _calls(function, functions) for key, function in functions.items()}
    try:
        order = list(graphlib.TopologicalSorter(calls).static_order())
    except graphlib.CycleError as error:
        raise ModelInvalid(f"the model's functions call themselves: {error.args[1][0]}; that never ends") from error
    count: dict[FunctionKey, int] = {}
    size: dict[FunctionKey, int] = {}
    depth: dict[FunctionKey, int] = {}
    for key in order:
        own = sum(1 for _ in nodes(functions[key]))
        count[key] = own + sum(count[callee] * times for callee, times in calls[key].items())
        size[key] = functions[key].ByteSize() + sum(size[callee] * times for callee, times in calls[key].items())
        depth[key] = 1 + max((depth[callee] for callee in calls[key]), default=0)
    if max(depth.values(), default=0) > MAX_FUNCTION_DEPTH:
        raise ModelNotTaken(f"the model's functions call each other more than {MAX_FUNCTION_DEPTH} levels deep")
    called = _calls(model.graph, functions)
    total_nodes = sum(1 for _ in nodes(model.graph)) + sum(count[key] * n for key, n in called.items())
    total_bytes = size_of_graph + sum(size[key] * n for key, n in called.items())
    return total_nodes, total_bytes


def _calls(holder: GraphProto | FunctionProto, functions: Mapping[FunctionKey, FunctionProto]) -> Counter[FunctionKey]:
    return Counter(key for node in nodes(holder) if (key := function_key(node)) in functions)
