"""`bitbudget audit` on files that were really written."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from network.normalise import normalise
from quantization.export.export import export
from quantization.formats import IntegerFormat
from quantization.rounding.nearest import round_nearest


@pytest.fixture
def quantized(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["y"], "layer", transB=1)],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 40])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 24])],
        [numpy_helper.from_array(np.random.default_rng(0).standard_normal((24, 40)).astype(np.float32), "w")],
    )
    network = normalise(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]))
    path = tmp_path / "model.onnx"
    path.write_bytes(export(network, {"w": round_nearest(network.weight("w"), IntegerFormat(3), 0)}, {}))
    return path


def test_a_file_is_shown(commands, quantized):
    done = commands.run("audit", str(quantized), "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["total_bytes"] == quantized.stat().st_size
    weight = {"name": "w", "shape": [24, 40], "format": "int3/channel", "bits": 3}
    assert found["weights"] == [weight | {"codes_bytes": 24 * 40 * 3 // 8, "scales_bytes": 24 * 4}]
    assert found["activations"] == []
    shown = commands.run("audit", str(quantized)).stdout
    assert "int3/channel" in shown
    assert "3.80" in shown  # bits a weight, scales included
    assert f"{quantized.stat().st_size:,} bytes, 456 of them weights" in shown


def test_a_file_that_was_changed_is_refused(commands, quantized):
    model = onnx.load(quantized)
    model.functions[0].node[0].op_type = "Neg"
    onnx.save(model, quantized)
    done = commands.run("audit", str(quantized))
    assert done.returncode == 1
    assert "is not the function that int3/channel needs" in done.stderr
    quantized.write_bytes(b"no network")
    done = commands.run("audit", str(quantized))
    assert (done.returncode, "these bytes are no ONNX file" in done.stderr) == (1, True)
