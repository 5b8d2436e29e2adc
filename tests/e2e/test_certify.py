"""`bitbudget certify` on files that were really quantized, through the service."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic


@pytest.fixture
def files(tmp_path):
    """The float model, its quantized file and samples."""
    generator = np.random.default_rng(0)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "layer")],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(generator.standard_normal((12, 3)).astype(np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, tmp_path / "float.onnx")
    quantize_dynamic(tmp_path / "float.onnx", tmp_path / "quantized.onnx")
    np.savez(tmp_path / "samples.npz", x=generator.standard_normal((60, 12)).astype(np.float32))
    return tmp_path


def test_a_file_is_certified_and_a_wrong_one_is_not(commands, files):
    given = ("certify", "float.onnx", "quantized.onnx", "--data", "samples.npz", "--max-drop", "0.05")
    done = commands.run(*given, "--out", "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("certified: the budget is kept and no defect was found")
    assert "int8 tensor" in done.stdout
    certificate = json.loads((files / "out" / "certificate.json").read_bytes())
    assert certificate["certificate"]["samples"] == 60
    wrong = onnx.load(files / "quantized.onnx")
    scale = next(tensor for tensor in wrong.graph.initializer if tensor.name == "w_scale")
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(1.5), "w_scale"))
    onnx.save(wrong, files / "quantized.onnx")
    done = commands.run(*given)
    assert done.returncode == 3
    assert "NOT certified" in done.stdout
    assert "scale_wrong" in done.stdout
    assert "misses the budget" in done.stderr
    (files / "quantized.onnx").write_bytes(b"no network")
    done = commands.run(*given, "--json")
    assert done.returncode == 1
    assert "the quantized file: the model is not ONNX" in done.stderr
