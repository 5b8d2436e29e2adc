"""Sites: their names, axes and multiply-accumulates, of recurrent nodes above all."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from network.graph import Network
from network.normalise import dump, normalise

STEPS, INPUTS, HIDDEN = 7, 5, 6


def network(nodes: list[onnx.NodeProto], weights: dict[str, tuple[int, ...]], opset: int = 22) -> Network:
    """Normalised, with the input `x [steps, N = 1, inputs]` brought about by a Transpose of `[N, steps, inputs]`."""
    rng = np.random.default_rng(0)
    graph = helper.make_graph(
        [helper.make_node("Transpose", ["batch"], ["x"], perm=[1, 0, 2]), *nodes],
        "g",
        [helper.make_tensor_value_info("batch", TensorProto.FLOAT, ["N", STEPS, INPUTS])],
        [helper.make_tensor_value_info(nodes[-1].output[-1], TensorProto.FLOAT, None)],
        [numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), n) for n, shape in weights.items()],
    )
    return normalise(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8))


@pytest.mark.parametrize("opset", [9, 13, 14, 18, 22])
@pytest.mark.parametrize(("op_type", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_both_weights_are_sites(op_type: str, gates: int, opset: int) -> None:
    weights = {"W": (2, gates * HIDDEN, INPUTS), "R": (2, gates * HIDDEN, HIDDEN), "B": (2, 2 * gates * HIDDEN)}
    node = helper.make_node(op_type, ["x", "W", "R", "B"], ["y"], "cell", hidden_size=HIDDEN, direction="bidirectional")
    w, r = network([node], weights, opset).sites
    assert [(site.name, site.shape, site.channel_axis) for site in (w, r)] == [
        ("W", weights["W"], 1),
        ("R", weights["R"], 1),
    ]
    assert w.macs == STEPS * 2 * gates * HIDDEN * INPUTS
    assert r.macs == STEPS * 2 * gates * HIDDEN * HIDDEN
    assert [layer.name for site in (w, r) for layer in site.layers] == ["cell", "cell"]


@pytest.mark.parametrize(("given", "axis"), [(0, 1), (1, 0), (2, 0), (-(2**31), 0)])
def test_a_gemm_transposes_for_any_number_but_zero(given: int, axis: int) -> None:
    """As ONNX Runtime does."""
    shape = (6, 4) if given else (4, 6)
    (site,) = network([helper.make_node("Gemm", ["x", "W"], ["y"], transB=given)], {"W": shape}).sites
    assert site.channel_axis == axis


def test_the_scales_of_a_resize_say_how_large_the_layers_behind_it_are() -> None:
    weights = {"scales": np.float32([1, 1, 2, 3]), "w": np.ones((5, 2, 3, 3), dtype=np.float32)}
    graph = helper.make_graph(
        [
            helper.make_node("Resize", ["x", "", "scales"], ["large"]),
            helper.make_node("Conv", ["large", "w"], ["y"], pads=[1, 1, 1, 1]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2, 4, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    [site] = normalise(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=8)).sites
    assert site.macs == (5 * 8 * 18) * (2 * 3 * 3)


def test_names_that_an_exporter_made_up_become_parts_of_the_node() -> None:
    weights = {"onnx::LSTM_3": (1, 24, INPUTS), "onnx::LSTM_4": (1, 24, HIDDEN), "9": (1, 24, HIDDEN), "R2": (1, 24, 6)}
    nodes = [
        helper.make_node("LSTM", ["x", "onnx::LSTM_3", "onnx::LSTM_4"], ["", "h"], "first", hidden_size=HIDDEN),
        helper.make_node("LSTM", ["h", "9", "R2"], ["y"], "second", hidden_size=HIDDEN),
    ]
    assert [site.name for site in network(nodes, weights).sites] == ["first.W", "first.R", "second.W", "R2"]


def test_a_weight_that_is_computed_is_no_site() -> None:
    weights = {"W": (1, 6, INPUTS), "R": (1, 6, HIDDEN), "v": (STEPS, 1, 1)}
    nodes = [
        helper.make_node("ReduceMean", ["batch"], ["scale"], keepdims=0),
        helper.make_node("Mul", ["R", "scale"], ["scaled"]),
        helper.make_node("RNN", ["x", "W", "scaled"], ["y"], hidden_size=HIDDEN),
    ]
    assert [site.name for site in network(nodes, weights).sites] == ["W"]


def test_a_weight_without_numbers_is_no_site() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["none"]),
        helper.make_node("MatMul", ["none", "V"], ["zeros"]),
        helper.make_node("Add", ["x", "zeros"], ["again"]),
        helper.make_node("MatMul", ["again", "last"], ["y"]),
    ]
    found = network(nodes, {"W": (INPUTS, 0), "V": (0, INPUTS), "last": (INPUTS, 3)})
    assert [site.weight for site in found.sites] == ["last"]


def test_cells_that_share_a_weight_are_one_site() -> None:
    weights = {"W": (1, 6, INPUTS), "R": (1, 6, HIDDEN), "S": (1, 6, HIDDEN)}
    nodes = [
        helper.make_node("RNN", ["x", "W", "R"], ["a"], hidden_size=HIDDEN),
        helper.make_node("RNN", ["x", "W", "S"], ["b"], hidden_size=HIDDEN),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    sites = network(nodes, weights).sites
    assert [(site.name, len(site.layers)) for site in sites] == [("W", 2), ("R", 1), ("S", 1)]


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.LSTM(INPUTS, HIDDEN, 2, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(2 * HIDDEN, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.cells(x)[0][:, -1])


@pytest.mark.parametrize("dynamo", [False, True])
def test_what_torch_exports_has_its_weights_as_sites(tmp_path: Path, dynamo: bool) -> None:
    torch.manual_seed(0)
    module = Recurrent()
    x = torch.randn(3, STEPS, INPUTS)
    axes: dict[str, Any] = {"dynamic_axes": {"x": {0: "N"}}, "input_names": ["x"]}
    if dynamo:
        axes = {"dynamic_shapes": ({0: torch.export.Dim("batch")},), "external_data": False}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own use of deprecated names
        torch.onnx.export(module, (x,), str(tmp_path / "m.onnx"), dynamo=dynamo, verbose=False, **axes)
    found = normalise(onnx.load(tmp_path / "m.onnx"))
    shapes = [(2, 24, INPUTS), (2, 24, HIDDEN), (2, 24, 2 * HIDDEN), (2, 24, HIDDEN), (3, 2 * HIDDEN)]
    assert [site.shape for site in found.sites] == shapes
    assert [site.macs for site in found.sites] == [STEPS * int(np.prod(s)) for s in shapes[:4]] + [3 * 2 * HIDDEN]
    names = [site.name for site in found.sites]
    assert len(set(names)) == 5
    assert [name[-2:] for name in names[:4]] == [".W", ".R", ".W", ".R"]
    assert names[:2] == (["cells.W", "cells.R"] if dynamo else ["/cells/LSTM.W", "/cells/LSTM.R"])
    session = onnxruntime.InferenceSession(dump(found), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {found.inputs[0].name: x.numpy()})
    np.testing.assert_allclose(logits, module(x).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_a_table_of_masks_is_no_site() -> None:
    table, weight = np.triu(np.full((4, 4), -np.inf, np.float32), 1), np.ones((4, 3), np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["m"]), helper.make_node("MatMul", ["m", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["N"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    assert [site.weight for site in normalise(model).sites] == ["w"]
