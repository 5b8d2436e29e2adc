"""A file whose weights functions of it decode, with these weights decoded: one after another.

ONNX Runtime computes what is constant when it loads a file, and keeps every step of every weight until all are done
[1.31: of coded weights 14 times the float file]. Here each weight is computed by itself, in ONNX Runtime, by the nodes
of the file; what is loaded then is the rest of the file with the values where they would have stood. So a run gives the
same bits.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import FunctionProto, ModelProto, NodeProto, ValueInfoProto, numpy_helper

from network.onnx_graph import initializer_names, names_read, nodes, without_initializers
from network.runtime import session_of
from network.weight_folder import WeightFolder

_LEFT = ("QuantizeLinear", "DequantizeLinear")
"""ONNX Runtime does not compute these when it loads a file, but looks for kernels that take them along."""


def decoded(model: ModelProto, folder: WeightFolder, threads: int) -> ModelProto | None:
    """`model` with the values of its coded weights in `folder`; None where functions decode none.

    Args:
        model: a file whose constants have values; not changed.
        threads: of ONNX Runtime within an operator.

    Raises:
        one of `network.runtime.RUNTIME_FAILURES`: ONNX Runtime does not run such a function.
    """
    decoders = {node.output[0]: node for node in _decoders(model)}
    if not decoders:
        return None
    copy = without_initializers(model)
    del copy.graph.node[:]
    copy.graph.node.extend(node for node in model.graph.node if node.output[0] not in decoders)
    read = {name for node in copy.graph.node for name in names_read(node)}
    copy.graph.initializer.extend(folder.placed(own) for own in model.graph.initializer if own.name in read)
    for name, node in decoders.items():
        values = np.asarray(session_of(_alone(model, node), threads, optimised=False).run(None, {})[0])
        copy.graph.initializer.append(folder.placed(numpy_helper.from_array(values, name)))
    return copy


def _decoders(model: ModelProto) -> Iterator[NodeProto]:
    """The nodes that call a function on constants, for a value that is no output of the file."""
    functions = {(own.domain, own.name) for own in model.functions if _is_folded(own)}
    constants = initializer_names(model.graph)
    outputs = {value.name for value in model.graph.output}
    for node in model.graph.node:
        is_called = (node.domain, node.op_type) in functions and bool(node.input)
        makes_one = len(node.output) == 1 and node.output[0] not in outputs
        if is_called and makes_one and constants.issuperset(node.input):
            yield node


def _is_folded(function: FunctionProto) -> bool:
    return all(node.op_type not in _LEFT for node in nodes(function))


def _alone(model: ModelProto, node: NodeProto) -> ModelProto:
    """The file that returns what `node` makes."""
    alone = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    alone.graph.name = "decoded"
    alone.graph.node.append(node)
    alone.graph.output.append(ValueInfoProto(name=node.output[0]))
    alone.graph.initializer.extend(own for own in model.graph.initializer if own.name in node.input)
    return alone
