"""A small convolutional network with a BatchNormalization, and one of MatMuls, as ONNX files of a few kilobytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from quantization.inspection.findings import Severity
from quantization.inspection.inspection import Inspection

Arrays = dict[str, NDArray[Any]]
Build = Callable[..., onnx.ModelProto]


def draw(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def build(
    nodes: list[onnx.NodeProto], inputs: dict[str, list[int]], tensors: Arrays, outputs: list[str]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *shape]) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


@pytest.fixture(scope="session")
def convolutions() -> onnx.ModelProto:
    """Conv, BatchNormalization, Relu, Conv, mean, and two heads of one shape."""
    nodes = [
        helper.make_node("Conv", ["x", "c1.weight"], ["c1"], "c1", pads=[1] * 4),
        helper.make_node("BatchNormalization", ["c1", "gamma", "beta", "mean", "var"], ["n1"], "n1"),
        helper.make_node("Relu", ["n1"], ["r1"], "r1"),
        helper.make_node("Conv", ["r1", "c2.weight", "c2.bias"], ["c2"], "c2"),
        helper.make_node("GlobalAveragePool", ["c2"], ["p"], "p"),
        helper.make_node("Flatten", ["p"], ["f"], "f"),
        helper.make_node("Gemm", ["f", "a.weight", "a.bias"], ["a"], "a", transB=1),
        helper.make_node("Gemm", ["f", "b.weight", "b.bias"], ["b"], "b", transB=1),
    ]
    growing = np.linspace(0.3, 1.5, 16, dtype=np.float32)[:, None, None, None]
    tensors = {
        "c1.weight": draw(8, 3, 3, 3), "gamma": 1 + 0.5 * draw(8, seed=1) ** 2, "beta": draw(8, seed=2),
        "mean": draw(8, seed=3), "var": 0.5 + draw(8, seed=4) ** 2, "c2.weight": growing * draw(16, 8, 3, 3, seed=5),
        "c2.bias": draw(16, seed=6), "a.weight": draw(5, 16, seed=7), "a.bias": draw(5, seed=8),
        "b.weight": draw(5, 16, seed=9), "b.bias": draw(5, seed=10),
    }  # fmt: skip
    return build(nodes, {"x": [3, 8, 8]}, tensors, ["a", "b"])


@pytest.fixture(scope="session")
def products() -> onnx.ModelProto:
    """Two MatMuls with biases behind them."""
    nodes = [
        helper.make_node("MatMul", ["x", "m1.weight"], ["m1"], "m1"),
        helper.make_node("Add", ["m1", "m1.bias"], ["s1"], "s1"),
        helper.make_node("Relu", ["s1"], ["r1"], "r1"),
        helper.make_node("MatMul", ["r1", "m2.weight"], ["m2"], "m2"),
        helper.make_node("Add", ["m2", "m2.bias"], ["y"], "s2"),
    ]
    tensors = {
        "m1.weight": draw(32, 64, seed=1), "m1.bias": draw(64, seed=2),
        "m2.weight": draw(64, 32, seed=3), "m2.bias": draw(32, seed=4),
    }  # fmt: skip
    return build(nodes, {"x": [32]}, tensors, ["y"])


class _Samples(CalibrationDataReader):
    def __init__(self, shape: tuple[int, ...]) -> None:
        self._samples = iter([{"x": draw(8, *shape, seed=seed)} for seed in range(2)])

    def get_next(self) -> Arrays | None:
        return next(self._samples, None)


@pytest.fixture(scope="session")
def static(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """`static(model, folds=True, **options)`: what quantize_static makes."""

    def make(model: onnx.ModelProto, *, folds: bool = True, **options: Any) -> onnx.ModelProto:
        folder = tmp_path_factory.mktemp("static")
        before, prepared, after = (str(folder / name) for name in ("f.onnx", "p.onnx", "q.onnx"))
        onnx.save(model, before)
        if folds:
            quant_pre_process(before, prepared)
        shape = tuple(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[1:])
        given = {"weight_type": QuantType.QInt8, "activation_type": QuantType.QUInt8, "quant_format": QuantFormat.QDQ}
        quantize_static(prepared if folds else before, after, _Samples(shape), **(given | options))
        return onnx.load(after)

    return make


@pytest.fixture(scope="session")
def dynamic(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """`dynamic(model, **options)`: what quantize_dynamic makes."""

    def make(model: onnx.ModelProto, **options: Any) -> onnx.ModelProto:
        folder = tmp_path_factory.mktemp("dynamic")
        before, after = str(folder / "f.onnx"), str(folder / "q.onnx")
        onnx.save(model, before)
        quantize_dynamic(before, after, **options)
        return onnx.load(after)

    return make


def defects(inspection: Inspection) -> list[tuple[str, str]]:
    """Codes and places of what is wrong."""
    return [(f.code, f.where) for f in inspection.findings if f.severity is Severity.DEFECT]
