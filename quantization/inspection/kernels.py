"""What ONNX Runtime's CPU provider makes of a file: the graph that it would run, and what in it is slow.

Nothing here is a list of what should be fast: the file is optimised by ONNX Runtime, and what is left is looked at.
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime
from onnx import ModelProto, NodeProto, TensorProto

from network.errors import ModelInvalid, ModelTooLarge
from network.onnx_graph import label, nodes
from network.runtime import runtime_errors
from quantization.errors import FileNotInspected
from quantization.inspection.findings import Finding, note

_LAYERS = frozenset({"Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"})
_WIDE = frozenset({TensorProto.UINT16, TensorProto.INT16})


@dataclass(frozen=True, slots=True)
class SlowKernel:
    """A node of the optimised graph that costs more than it has to, and why."""

    node: str
    operator: str
    reason: str


@dataclass(frozen=True, slots=True)
class Kernels:
    """Operators of the optimised graph with their number, and those that are slow."""

    operators: dict[str, int]
    slow: tuple[SlowKernel, ...]


def kernels(model: ModelProto) -> Kernels:
    """Of the CPU provider.

    Raises:
        FileNotInspected: ONNX Runtime does not load the file.
    """
    optimised = _optimised(model)
    operators = Counter(node.op_type for node in nodes(optimised.graph))
    return Kernels(dict(sorted(operators.items())), tuple(_slow(optimised)))


def slow_kernels(found: Kernels) -> Iterator[Finding]:
    """One note for each reason."""
    for reason in dict.fromkeys(slow.reason for slow in found.slow):
        of_it = [slow for slow in found.slow if slow.reason == reason]
        names = ", ".join(slow.node for slow in of_it[:5])
        yield note("slow_kernels", names, f"{len(of_it)} nodes on ONNX Runtime's CPU: {reason}")


def _slow(model: ModelProto) -> Iterator[SlowKernel]:
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    makers, none = {name: node for node in model.graph.node for name in node.output}, TensorProto()
    for node in model.graph.node:
        if node.op_type in _LAYERS:
            yield from _of_layer(node, makers, tensors)
        elif node.op_type == "DequantizeLinear" and node.input[0] in tensors:
            tensor = tensors[node.input[0]]
            if math.prod(tensor.dims) > 1 and len(tensor.dims) > 1:
                yield SlowKernel(label(node), node.op_type, "a whole weight is dequantized at every run")
        elif node.op_type == "QuantizeLinear" and tensors.get("".join(node.input[2:]), none).data_type in _WIDE:
            yield SlowKernel(label(node), node.op_type, "16-bit activations have no integer kernel")


def _of_layer(node: NodeProto, makers: dict[str, NodeProto], tensors: dict[str, TensorProto]) -> Iterator[SlowKernel]:
    made = [makers.get(name) for name in node.input[:2]]
    dequantized = [m is not None and m.op_type == "DequantizeLinear" for m in made]
    if dequantized[:1] == [True] and made[0] is not None and made[0].input[0] not in tensors:
        yield SlowKernel(
            label(node), node.op_type, "the layer runs on floats between QuantizeLinear and DequantizeLinear"
        )
    elif any(m is not None and m.op_type == "Cast" and m.input[0] in tensors for m in made):
        yield SlowKernel(label(node), node.op_type, "its weight is cast at every run")


def _optimised(model: ModelProto) -> ModelProto:
    options = onnxruntime.SessionOptions()
    # what comes above this level is the layout of convolutions, which depends on the machine
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        options.optimized_model_filepath = str(path)
        try:
            with runtime_errors("load"):
                onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
            return onnx.load(path)
        except (ModelInvalid, ModelTooLarge) as error:
            reason = " ".join(str(error).split())[:300]
            raise FileNotInspected(
                f"ONNX Runtime {onnxruntime.__version__} does not load the quantized file: {reason}; expected a file "
                "that it runs on the CPU: export it with operators and an opset that this version has"
            ) from error
