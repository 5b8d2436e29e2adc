"""Normalisation proves itself, and is undone step by step where an output changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxscript import rewriter

from network import folding, normalise
from network.admission import AdmissionLimits, admit
from network.errors import ModelInvalid, NotReproduced, UnsupportedOperators
from network.execution import TorchNetwork, differentiable
from network.faithful import MARK, Undone, faithful, undone
from network.folding import Folding
from network.graph import Network
from network.normalise import dump, from_proto, load
from network.opset import TARGET_OPSET

RNG = np.random.default_rng(8)
node = helper.make_node


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.normal(size=shape).astype(np.float32)


W, IMAGES = floats(4, 3, 3, 3), {"x": floats(6, 3, 8, 8)}
CONV = node("Conv", ["x", "w"], ["c"], "conv")


def made(nodes: list[onnx.NodeProto], opset: int, y: list[Any], ir_version: int = 8, **constants: Any) -> bytes:
    arrays = {"w": W} | constants
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    imports = [helper.make_opsetid("", opset)]
    return bytes(helper.make_model(graph, opset_imports=imports, ir_version=ir_version).SerializeToString())


def brought(uploaded: bytes, samples: dict[str, Any] = IMAGES) -> Network:
    model = admit(uploaded, AdmissionLimits())
    return faithful(uploaded, model, samples, {name: array.shape[1:] for name, array in samples.items()})


def run(model: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, IMAGES)[0])


RELU = made([CONV, node("Relu", ["c"], ["y"])], 13, ["N", 4, 6, 6])
SMALL = made(
    [CONV, node("Abs", ["c"], ["a"]), node("Add", ["a", "e"], ["s"]), node("Log", ["s"], ["y"])],
    13,
    ["N", 4, 6, 6],
    e=np.float32(1e-10),
)
SOFTMAX = made([CONV, node("Softmax", ["c"], ["y"], "soft")], 11, ["N", 4, 6, 6])
ROI_ALIGN = made(
    [
        CONV,
        node("RoiAlign", ["c", "boxes", "of"], ["y"], "roi", output_height=2, output_width=2, sampling_ratio=2),
    ],
    10,
    [2, 4, 2, 2],
    boxes=np.array([[0, 0, 3, 4], [1, 1, 5, 5]], np.float32),
    of=np.array([0, 0]),
)
SWISH = made([CONV, node("Swish", ["c"], ["y"], "swish")], 24, ["N", 4, 6, 6], ir_version=11)


def test_nothing_is_undone_of_what_stays_the_same() -> None:
    network = brought(RELU)
    assert network.opset == TARGET_OPSET
    assert undone(network) is None
    assert not network.proto.metadata_props
    assert network.proto == normalise.normalise(onnx.ModelProto.FromString(RELU), {"x": (3, 8, 8)}).proto


def test_what_a_file_says_of_itself_is_not_taken() -> None:
    model = onnx.ModelProto.FromString(RELU)
    model.metadata_props.add(key=MARK, value="no JSON")
    assert undone(brought(model.SerializeToString())) is None


def test_an_opset_without_newer_form_is_refused_as_such() -> None:
    model = onnx.ModelProto.FromString(
        made([node("Crop", ["x"], ["y"], "crop", border=[1, 1, 1, 1])], 10, ["N", 3, 8, 8])
    )
    with pytest.raises(ModelInvalid, match=r"opset 10 cannot be converted to 18 with crop \(Crop\)"):
        faithful(model.SerializeToString(), model, IMAGES, {"x": (3, 8, 8)})


def test_an_operator_without_kernel_at_the_newest_opset_stays_at_an_older_one() -> None:
    for uploaded, opset, operator in ((ROI_ALIGN, 21, "RoiAlign"), (SWISH, 24, "Swish")):
        network = brought(uploaded)
        said = undone(network)
        assert said is not None
        assert (said.opset, said.folding, network.opset) == (opset, Folding.RULES, opset)
        assert f"Could not find an implementation for {operator}" in said.why
        np.testing.assert_allclose(run(dump(network)), run(uploaded), rtol=1e-4, atol=1e-5)


def test_what_stays_at_an_older_opset_is_loaded_and_lowered_there() -> None:
    data = dump(brought(SWISH))
    assert load(data).opset == load(data, 24).opset == 24
    older = load(data, 18)
    assert older.opset == 18
    np.testing.assert_allclose(run(dump(older)), run(SWISH), rtol=1e-4, atol=1e-5)
    assert load(dump(brought(ROI_ALIGN)), 25).opset == 21


def test_a_rule_that_changes_values_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding, "RULES", rewriter._DEFAULT_REWRITE_RULES)
    network = brought(SMALL, {"x": np.concatenate([np.zeros((1, 3, 8, 8), np.float32), IMAGES["x"]])})
    assert undone(network) == Undone(
        TARGET_OPSET, Folding.CONSTANTS, "output 'y' is NaN or infinite at other places on the first sample"
    )
    assert "Add" in [n.op_type for n in network.proto.graph.node]


def test_folding_that_changes_values_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = folding.fold

    def wrong(graph: Any, how: Folding) -> None:
        whole(graph, how)
        if how is not Folding.NOTHING:
            graph.graph.initializers["e"].const_value = folding.ir.tensor(np.float32(1))

    monkeypatch.setattr(normalise, "fold", wrong)
    said = undone(brought(SMALL))
    assert said is not None
    assert (said.opset, said.folding) == (TARGET_OPSET, Folding.NOTHING)


def test_folding_that_fails_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = folding.fold

    def failing(graph: Any, how: Folding) -> None:
        if how is not Folding.NOTHING:
            raise RuntimeError("Error during constant folding for node 'c'")
        whole(graph, how)

    monkeypatch.setattr(normalise, "fold", failing)
    said = undone(brought(RELU))
    assert said is not None
    assert said.folding is Folding.NOTHING
    assert said.why.startswith("folding constants fails: Error during constant folding for node 'c'")


def test_what_changes_however_little_is_rewritten_is_refused_by_its_first_node(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def careless(proto: onnx.ModelProto) -> None:
        proto.opset_import[0].version = 18  # a Softmax over one axis

    assert undone(brought(SOFTMAX)) is None
    monkeypatch.setattr(normalise, "upgrade", careless)
    with pytest.raises(
        NotReproduced, match=r"output 'y' is .* the first node whose values change is 'soft' \(Softmax\)"
    ):
        brought(SOFTMAX)


def test_a_file_that_onnx_runtime_does_not_run_is_refused() -> None:
    with pytest.raises(ModelInvalid, match=r"ONNX Runtime does not load the network: .* Swish\(24\)"):
        brought(made([CONV, node("Swish", ["c"], ["y"])], 25, ["N", 4, 6, 6], ir_version=13))


def test_gradients_are_refused_where_an_older_opset_means_something_else() -> None:
    def pooled(opset: int) -> Network:
        given = {"kernel_shape": [2, 2], "strides": [3, 3], "pads": [0, 0, 1, 1], "ceil_mode": 1}
        nodes = [node("Conv", ["x", "w"], ["c"], "conv"), node("AveragePool", ["c"], ["y"], "pool", **given)]
        return from_proto(onnx.ModelProto.FromString(made(nodes, opset, ["N", 4, None, None])))

    assert isinstance(TorchNetwork(pooled(22)), TorchNetwork)
    with pytest.raises(UnsupportedOperators, match=r"AveragePool of opset 21 with ceil_mode = 1 .*'pool'"):
        differentiable(pooled(21))
