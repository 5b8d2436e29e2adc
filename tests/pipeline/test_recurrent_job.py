"""A job on a recurrent network that is really trained: digits read row by row, a sequence of eight steps."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional as F

from evaluation.latency import Latency
from evaluation.splits import split
from pipeline import timing
from planner.errors import ConstraintImpossible
from quantization.export.audit import audit
from tests.pipeline.conftest import TRAINING

HIDDEN = 48


class RowReader(nn.Module):
    """Reads the rows in both directions; the classes come from both last states."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, HIDDEN, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(2 * HIDDEN, 10)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        _, (state, _) = self.lstm(rows)
        return self.fc(torch.cat([state[0], state[1]], 1))


def onnx_order(tensor: torch.Tensor) -> np.ndarray:
    """Gates as torch stacks them, input, forget, cell, output, in ONNX's order: input, output, forget, cell."""
    i, f, c, o = tensor.detach().numpy().reshape(4, HIDDEN, -1)
    return np.concatenate([i, o, f, c]).reshape(tensor.shape)


@pytest.fixture(scope="module")
def reader(digits) -> bytes:
    """The trained network as ONNX: `rows [N, 8, 8]` to `logits [N, 10]`."""
    images, labels = (torch.from_numpy(array[:TRAINING]) for array in digits)
    torch.manual_seed(0)
    network = RowReader()
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(25):
        for batch in torch.randperm(TRAINING).split(60):
            optimizer.zero_grad()
            F.cross_entropy(network(images[batch, 0]), labels[batch]).backward()
            optimizer.step()
    of = dict(network.lstm.named_parameters())

    def both(kind: str) -> np.ndarray:
        return np.stack([onnx_order(of[f"{kind}_l0{end}"]) for end in ("", "_reverse")])

    weights = {
        "onnx::LSTM_31": both("weight_ih"),
        "onnx::LSTM_32": both("weight_hh"),
        "bias": np.concatenate([both("bias_ih"), both("bias_hh")], 1),
        "fc.weight": network.fc.weight.detach().numpy(),
        "fc.bias": network.fc.bias.detach().numpy(),
        "shape": np.array([-1, 2 * HIDDEN]),
    }
    nodes = [
        helper.make_node("Transpose", ["rows"], ["steps"], perm=[1, 0, 2]),
        helper.make_node(
            "LSTM",
            ["steps", "onnx::LSTM_31", "onnx::LSTM_32", "bias"],
            ["", "state"],
            "reader",
            hidden_size=HIDDEN,
            direction="bidirectional",
        ),
        helper.make_node("Transpose", ["state"], ["s"], perm=[1, 0, 2]),
        helper.make_node("Reshape", ["s", "shape"], ["f"]),
        helper.make_node("Gemm", ["f", "fc.weight", "fc.bias"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "reader",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["N", 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()
    found = outputs(model, images[:, 0].numpy())
    np.testing.assert_allclose(found, network(images[:, 0]).detach().numpy(), rtol=1e-3, atol=1e-3)
    return model


@pytest.fixture(scope="module")
def rows(digits) -> dict[str, np.ndarray]:
    images, labels = digits
    return {"rows": images[TRAINING:, 0], "labels": labels[TRAINING:]}


def outputs(model: bytes, rows: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"rows": rows})[0])


def top1(model: bytes, samples: dict[str, np.ndarray]) -> float:
    return float((outputs(model, samples["rows"]).argmax(1) == samples["labels"]).mean())


def test_a_recurrent_network_is_made_small(job, reader, rows):
    run = job(reader, rows, {"budget": {"metric": "top1", "max_drop": 0.01}})
    delivery = run.run()
    plan, quantized = json.loads(delivery.artifacts["plan"]), delivery.artifacts["model"]
    assert delivery.outcome == "met"
    assert [layer["name"] for layer in plan["layers"]] == ["reader.W", "reader.R", "fc"]
    assert [layer["nodes"] for layer in plan["layers"][:2]] == [["reader"], ["reader"]]
    assert all(layer["bits"] < 8 and layer["rounding"].endswith("gptq") for layer in plan["layers"])
    assert plan["size_bytes"] == len(quantized) < len(reader) / 5
    stored = {weight.name: weight.bits for weight in audit(quantized).weights}
    assert stored == {layer["weight"]: layer["bits"] for layer in plan["layers"]}
    held_out = split(len(rows["labels"]), 0, rows["labels"]).held_out
    samples = {name: array[held_out] for name, array in rows.items()}
    certificate = plan["certificate"]
    assert certificate["met"]
    assert certificate["float_value"] == pytest.approx(top1(reader, samples))
    assert certificate["quantized_value"] == pytest.approx(top1(quantized, samples))


def test_between_activations_of_8_bits_with_bit_operations_as_the_objective(job, reader, rows):
    """The states stay float within the node, and so its weight R has 32 bits to compute with."""
    request = {
        "budget": {"metric": "top1", "max_drop": 0.03},
        "objective": "bit_operations",
        "activations": {"bits": [8]},
    }
    plan = json.loads(job(reader, rows, request).run().artifacts["plan"])
    bits = {layer["name"]: layer["bits"] for layer in plan["layers"]}
    macs = {"reader.W": 8 * 2 * 4 * HIDDEN * 8, "reader.R": 8 * 2 * 4 * HIDDEN * HIDDEN, "fc": 10 * 2 * HIDDEN}
    assert plan["certificate"]["met"]
    read = {"reader.W": 32, "reader.R": 32, "fc": 8}
    assert plan["bit_operations"] == sum(macs[name] * bits[name] * read[name] for name in bits)


def test_the_time_of_a_node_is_counted_once(job, reader, rows, monkeypatch):
    def measure(timed, threads, **_):
        """A millisecond for every recurrent node beside what any call takes."""
        graphs = [onnx.ModelProto.FromString(one.model).graph for one in timed]
        return [Latency(0.05 + sum(n.op_type in ("LSTM", "Conv") for n in graph.node), 0.0, 7) for graph in graphs]

    monkeypatch.setattr(timing, "measure_alternatives", measure)
    request = {"budget": {"metric": "top1", "max_drop": 0.03}, "objective": "latency", "weights": {"bits": [4, 8]}}
    plan = json.loads(job(reader, rows, request).run().artifacts["plan"])
    assert [layer["latency_ms"] for layer in plan["layers"]] == pytest.approx([0.5, 0.5, 0])
    assert plan["latency"]["base_ms"] == pytest.approx(0)
    assert plan["latency"]["predicted_ms"] == pytest.approx(1)


def test_two_weights_of_one_node_are_two_layers_to_constrain(job, reader, rows):
    request = {"layers": {"reader.W": {"keep": True}, "reader.R": {"bits": [8]}}}
    plan = json.loads(job(reader, rows, request).run().artifacts["plan"])
    assert [layer["bits"] for layer in plan["layers"]][:2] == [32, 8]
    with pytest.raises(ConstraintImpossible, match=r"'reader'.*several layers: reader\.W, reader\.R"):
        job(reader, rows, {"layers": {"reader": {"bits": [8]}}}).run()
