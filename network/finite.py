"""Constants that are not finite. A mask holds infinities, and what a network chooses from may hold NaN; the weight of a
layer may hold neither."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from network.errors import WeightsNotFinite, listing
from network.onnx_graph import graphs, nodes

FLOAT_TYPES = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16})

# Operators that multiply what they are given, whatever the domain, and which of their inputs: one element that is not
# finite makes every output so that it has a part in.
_MULTIPLIED = {
    **dict.fromkeys(("Conv", "ConvTranspose", "FusedConv", "LSTM", "GRU", "RNN"), (1, 2)),
    **dict.fromkeys(("Gemm", "MatMul", "FusedGemm", "FusedMatMul", "Einsum"), (0, 1)),
    "Attention": (1,),
}
# They hand on what they read.
_MOVERS = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})


def check_weights(model: ModelProto) -> None:
    """Refuse a layer whose weight is not finite; of everything else its outputs say whether it matters.

    Raises:
        WeightsNotFinite: names the weights.
        ValueError: a tensor does not hold what its type and shape say.
    """
    multiplied = _multiplied(model)
    bad = [f"{name} ({kind})" for name, kind in not_finite(model) if name in multiplied]
    if bad:
        raise WeightsNotFinite(
            f"weights are not finite: {listing(bad)}; expected finite numbers: was the training run diverging?"
        )


def not_finite(model: ModelProto) -> Iterator[tuple[str, str]]:
    """Every float constant that holds NaN or infinities, and which of them.

    Raises:
        ValueError: a tensor does not hold what its type and shape say.
    """
    for name, tensor in constants(model):
        if tensor.data_type in FLOAT_TYPES and not is_finite(tensor):
            yield name, "NaN" if np.isnan(numpy_helper.to_array(tensor)).any() else "infinity"


def is_finite(tensor: TensorProto) -> bool:
    """Whether no element of a float tensor is NaN or infinite."""
    return bool(np.isfinite(numpy_helper.to_array(tensor)).all())


def constants(model: ModelProto) -> Iterator[tuple[str, TensorProto]]:
    """Every constant tensor by its value's name: initializers and Constant nodes, here and in subgraphs."""
    for graph in graphs(model.graph):
        yield from ((tensor.name, tensor) for tensor in graph.initializer)
        for node in graph.node:
            for attribute in node.attribute if node.op_type == "Constant" else ():
                if attribute.name == "value":
                    yield node.output[0], attribute.t


def _multiplied(model: ModelProto) -> set[str]:
    """The values that some layer multiplies, and what they are moved from."""
    names: set[str] = set()
    every: list[NodeProto] = list(nodes(model.graph))
    for node in every:
        names.update(node.input[place] for place in _MULTIPLIED.get(node.op_type, ()) if place < len(node.input))
    for node in reversed(every):
        if node.op_type in _MOVERS and names.intersection(node.output):
            names.add(node.input[0])
    return names - {""}
