"""Small networks of one layer or of a few, built node by node, and plain ONNX Runtime to run them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from network.graph import Layer, Network, Site
from network.onnx_graph import attributes
from network.tensor_spec import TensorSpec

CHANNEL_AXIS = {"Conv": 0, "ConvTranspose": 1, "Gather": 0, "Identity": 0}

Arrays = Mapping[str, NDArray[Any]]


def _channel_axis(node: onnx.NodeProto, weight: NDArray[Any]) -> int:
    if node.op_type == "Gemm":
        return 0 if any(a.name == "transB" and a.i for a in node.attribute) else 1
    if node.op_type == "MatMul":
        return weight.ndim - 1 if list(node.input)[1].startswith("w") else weight.ndim - 2
    return CHANNEL_AXIS[node.op_type]


@pytest.fixture(scope="session")
def make_network() -> Callable[..., Network]:
    """`make_network(nodes, inputs, initializers, opset=25)`: initializers called `w...` are weights of sites.

    `inputs` maps a name to a sample array; the graph's output is the last node's, of unknown shape.
    """

    def build(nodes: Sequence[onnx.NodeProto], inputs: Arrays, initializers: Arrays, opset: int = 25) -> Network:
        for number, node in enumerate(nodes):
            node.name = node.name or f"node{number}"
        graph = helper.make_graph(
            nodes,
            "g",
            [
                helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), ["N", *a.shape[1:]])
                for n, a in inputs.items()
            ],
            [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)],
            [numpy_helper.from_array(a, n) for n, a in initializers.items()],
        )
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=13)
        proto = onnx.shape_inference.infer_shapes(proto)  # gives the output its shape
        del proto.graph.value_info[:]
        uses: dict[str, list[Layer]] = {}
        axes: dict[str, int] = {}
        for node in nodes:
            for name in node.input:
                if name in initializers and name.startswith("w"):
                    axis = axes.setdefault(name, _channel_axis(node, initializers[name]))
                    group = attributes(node).get("group", 1)
                    uses.setdefault(name, []).append(Layer(node.name, node.op_type, name, axis, 1, group))
        sites = tuple(
            Site(name, name, tuple(layers), initializers[name].shape, axes[name]) for name, layers in uses.items()
        )
        specs = tuple(TensorSpec(n, a.dtype.name, (None, *a.shape[1:])) for n, a in inputs.items())
        outputs = tuple(TensorSpec(value.name, "float32", ()) for value in proto.graph.output)
        return Network(proto, specs, outputs, sites)

    return build


@pytest.fixture(scope="session")
def run_onnx() -> Callable[..., list[NDArray[Any]]]:
    """`run_onnx(model, inputs, optimise=True)`: all outputs, on one CPU thread."""

    def run(model: bytes | onnx.ModelProto, inputs: Arrays, *, optimise: bool = True) -> list[NDArray[Any]]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        if not optimise:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        data = model if isinstance(model, bytes) else model.SerializeToString()
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        return [np.asarray(output) for output in session.run(None, dict(inputs))]

    return run


_ENDS = {"QuantizeLinear", "DequantizeLinear", "Transpose", "Reshape"}


@pytest.fixture
def optimised(tmp_path: Path) -> Callable[[bytes], list[str]]:
    """Operators of the optimised graph, but for those at its ends that change types and layouts."""

    def operators(file: bytes) -> list[str]:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        options.log_severity_level = 3
        onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        return [n.op_type for n in onnx.load(tmp_path / "optimised.onnx").graph.node if n.op_type not in _ENDS]

    return operators
