"""ONNX files written by hand: the graph as text, weights by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.parser import parse_model

from benchmarks.networks.entry import Array

DOMAINS = {"com.microsoft": 1, "ai.onnx.ml": 3}
FIRST_IR_WITH_PRIVATE_WEIGHTS = 4


def weights(seed: int, **shapes: tuple[int, ...] | Array) -> dict[str, Array]:
    """Random weights by name: scaled by their inputs (He et al. 2015), vectors small; arrays stay as they are."""
    rng = np.random.default_rng(seed)
    made: dict[str, Array] = {}
    for name, shape in shapes.items():
        if not isinstance(shape, tuple):
            made[name] = np.asarray(shape)
        elif len(shape) < 2:
            made[name] = (0.2 * rng.normal(size=shape)).astype(np.float32)
        else:
            # [out, in, ...] of convolutions, [..., in, out] of matrices
            inputs = int(np.prod(shape[1:])) if len(shape) >= 4 else shape[-2]
            made[name] = (rng.normal(size=shape) * np.sqrt(2 / inputs)).astype(np.float32)
    return made


def written(
    text: str,
    constants: Mapping[str, Array],
    *,
    opset: int = 17,
    ir: int = 8,
    bodies: Mapping[str, Mapping[str, Array]] | None = None,
    domains: Mapping[str, int] = DOMAINS,
) -> bytes:
    """The file of a graph in the text form of ONNX, `(inputs) => (outputs) { nodes }`.

    Args:
        constants: the initializers; files older than IR version 4 list them as inputs too.
        bodies: initializers of the graphs inside If, Loop and Scan, by the graph's name.
    """
    used = {domain: version for domain, version in domains.items() if f"{domain}." in text}
    imports = ", ".join(f'"{domain}" : {version}' for domain, version in {"": opset, **used}.items())
    model = parse_model(f"<ir_version: {ir}, opset_import: [{imports}]>\nnetwork {text}")
    graphs = {graph.name: graph for graph in _graphs(model.graph)}
    for name, arrays in {"network": constants, **(bodies or {})}.items():
        graph = graphs[name]
        graph.initializer.extend(numpy_helper.from_array(np.asarray(array), key) for key, array in arrays.items())
    if ir < FIRST_IR_WITH_PRIVATE_WEIGHTS:
        model.graph.input.extend(
            onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            for tensor in model.graph.initializer
        )
    return bytes(model.SerializeToString())


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(attribute.g)
