"""Quantized files of other tools against their float model: honest ones pass, wrong ones do not, none is a fault."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic, quantize_static

import pipeline
from app.errors import CATALOGUE
from pipeline.certificate_report import CERTIFICATE_VERSION
from pipeline.events import StageEnded
from pipeline.store import MemoryStore
from tests.document_schemas import check_document

SAMPLES = 160
LOOSE = {"budget": {"max_drop": 0.05}}
OUTPUTS = {"scores": 4, "boxes": 4}

generator = np.random.default_rng(0)
WEIGHTS = {
    name: generator.standard_normal(shape).astype(np.float32)
    for name, shape in (("hidden", (6, 16)), ("scores.w", (16, 4)), ("boxes.w", (16, 4)))
}
DATA = {"x": generator.standard_normal((SAMPLES, 6)).astype(np.float32)}
node = helper.make_node


def file_of(
    nodes: Sequence[NodeProto],
    outputs: Mapping[str, int],
    weights: Mapping[str, np.ndarray],
    *,
    batch: Any = "N",
    name: str = "x",
    dtype: int = TensorProto.FLOAT,
    width: int = 6,
    domain: str = "com.microsoft",
) -> bytes:
    graph = helper.make_graph(
        list(nodes),
        "certified",
        [helper.make_tensor_value_info(name, dtype, [batch, width])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [batch, size]) for output, size in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    imports = [helper.make_opsetid("", 18), helper.make_opsetid(domain, 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString()


def network(
    weights: Mapping[str, np.ndarray] = WEIGHTS, outputs: Mapping[str, int] = OUTPUTS, **arguments: Any
) -> bytes:
    """Two outputs of one hidden layer, the first from `scores.w`, the second from `boxes.w`."""
    first, second = outputs
    nodes = [
        node("MatMul", ["x", "hidden"], ["h0"], "hidden"),
        node("Relu", ["h0"], ["h"]),
        node("MatMul", ["h", "scores.w"], [first], "scores"),
        node("MatMul", ["h", "boxes.w"], [second], "boxes"),
    ]
    return file_of(nodes, outputs, weights, **arguments)


FLOAT = network()
# no output reads the first hidden unit
SILENT = {
    **WEIGHTS,
    **{name: WEIGHTS[name] * (np.arange(16) > 0)[:, None].astype(np.float32) for name in ("scores.w", "boxes.w")},
}


class Reader(CalibrationDataReader):
    def __init__(self) -> None:
        self._left = iter(DATA["x"])

    def get_next(self) -> dict[str, np.ndarray] | None:
        sample = next(self._left, None)
        return None if sample is None else {"x": sample[None]}


@pytest.fixture(scope="module")
def by_tools(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The network as ONNX Runtime's tools quantize it."""
    folder = tmp_path_factory.mktemp("tools")
    path = folder / "float.onnx"
    path.write_bytes(FLOAT)
    quantize_dynamic(path, folder / "dynamic")
    quantize_static(path, folder / "qdq", Reader(), per_channel=True)
    quantize_static(path, folder / "operators", Reader(), quant_format=QuantFormat.QOperator)
    path.write_bytes(network(SILENT))
    quantize_static(path, folder / "silent", Reader(), per_channel=True)
    return {name: (folder / name).read_bytes() for name in ("dynamic", "qdq", "operators", "silent")}


def changed(model: bytes, change: Callable[[dict[str, np.ndarray]], Mapping[str, np.ndarray]]) -> bytes:
    """The file with some of its initializers replaced."""
    proto = onnx.load_from_string(model)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    for name, array in change(arrays).items():
        tensor = next(tensor for tensor in proto.graph.initializer if tensor.name == name)
        tensor.CopyFrom(numpy_helper.from_array(array, name))
    return proto.SerializeToString()


def codes(result: pipeline.JobResult, severity: str = "defect") -> set[str]:
    return {finding["code"] for finding in result.report["findings"] if finding["severity"] == severity}


@pytest.mark.parametrize("tool", ["dynamic", "qdq", "operators"])
def test_an_honest_file_is_certified_on_all_samples(by_tools, tool):
    result = pipeline.certify(FLOAT, by_tools[tool], DATA, LOOSE)
    report = result.report
    assert (result.outcome, report["outcome"], report["reason"], codes(result)) == ("met", "met", None, set())
    assert report["version"] == CERTIFICATE_VERSION
    check_document("CertificateReport", report)
    assert (report["float_size_bytes"], report["size_bytes"]) == (len(FLOAT), len(by_tools[tool]))
    certificate = result.certificate
    assert (certificate["samples"], certificate["looks"]) == (SAMPLES, 1)
    assert {tuple(claim["outputs"]) for claim in certificate["claims"]} == {("scores",), ("boxes",)}
    assert {weight["name"]: weight["stored"]["stored_bits"] for weight in report["inspection"]["weights"]} == (
        dict.fromkeys(WEIGHTS, 8)
    )
    assert [(match["name"], match["by"]) for match in report["outputs"]] == [("scores", "name"), ("boxes", "name")]
    assert result.plan is None
    assert set(result.artifacts) == {"certificate"}


def test_every_metric_that_fits_stands_there_with_interval_and_null_test(by_tools):
    result = pipeline.certify(FLOAT, by_tools["qdq"], DATA, LOOSE)
    metrics = {(row["metric"], *row["outputs"]): row for row in result.report["metrics"]}
    assert {("explained", "boxes"), ("cosine", "boxes"), ("kl", "scores")} <= set(metrics)
    for row in metrics.values():
        assert row["low"] <= row["drop"] <= row["high"]
        assert row["sees"] == (min(row["null"].values()) > LOOSE["budget"]["max_drop"])
    first = result.certificate["claims"][0]
    assert metrics["explained", "scores"]["drop"] == first["drop"]


def test_a_second_file_runs_the_float_model_no_more(by_tools):
    events: list[Any] = []
    cache = MemoryStore()
    for name in ("qdq", "dynamic"):
        events.clear()
        pipeline.certify(FLOAT, by_tools[name], DATA, LOOSE, cache=cache, progress=events.append)
    ran = {event.stage: event.ran for event in events if isinstance(event, StageEnded)}
    assert {name for name, afresh in ran.items() if afresh} == {"admit_pair", "inspect", "compare"}
    assert {name for name, afresh in ran.items() if not afresh} == {"admit_float", "reference", "claims"}


def test_a_file_that_bitbudget_made_is_certified(tmp_path):
    plan = {
        "version": 1,
        "layers": [{"name": name, "format": "int8/channel"} for name in WEIGHTS],
    }
    made = pipeline.apply(FLOAT, plan, DATA, {**LOOSE, "weights": {"rounding": "nearest"}})
    result = pipeline.certify(FLOAT, made.model, DATA, LOOSE)
    assert (result.outcome, codes(result)) == ("met", set())
    assert {weight["stored"]["stored_bits"] for weight in result.report["inspection"]["weights"]} == {8}


def wrong_scale(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"scores.w_scale": arrays["scores.w_scale"] * np.float32(1.3)}


def scale_of_another_channel(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"boxes.w_scale": np.roll(arrays["boxes.w_scale"], 1)}


@pytest.mark.parametrize("defect", [wrong_scale, scale_of_another_channel])
def test_a_planted_defect_is_measured_and_found(by_tools, defect):
    result = pipeline.certify(FLOAT, changed(by_tools["qdq"], defect), DATA, LOOSE)
    assert result.outcome == "not_met"
    assert not result.certificate["met"]
    assert "misses the budget" in result.summary["reason"]
    assert codes(result)


def test_a_defect_that_the_samples_do_not_show_is_not_certified(by_tools):
    """A hidden unit that no output reads has a wrong scale: the drop is that of the honest file."""
    honest = pipeline.certify(network(SILENT), by_tools["silent"], DATA, LOOSE)
    assert honest.outcome == "met"

    def first_scale(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        scales = arrays["hidden_scale"].copy()
        scales[0] *= 2
        return {"hidden_scale": scales}

    result = pipeline.certify(network(SILENT), changed(by_tools["silent"], first_scale), DATA, LOOSE)
    assert result.certificate["met"]
    assert result.certificate["drop"] == honest.certificate["drop"]
    assert (result.outcome, codes(result)) == ("not_met", {"scale_wrong"})
    assert "scale_wrong at hidden" in result.summary["reason"]


def test_exchanged_outputs_are_caught_by_what_they_hold():
    exchanged = network(outputs={"boxes": 4, "scores": 4})
    result = pipeline.certify(FLOAT, exchanged, DATA, LOOSE)
    assert result.outcome == "not_met"
    assert "outputs_exchanged" in codes(result)
    assert {match["name"]: match["looks_like"] for match in result.report["outputs"]} == {
        "scores": "boxes",
        "boxes": "scores",
    }


def test_a_renamed_output_is_compared_by_its_place():
    result = pipeline.certify(FLOAT, network(outputs={"scores": 4, "b": 4}), DATA, LOOSE)
    matches = {match["name"]: (match["quantized_name"], match["by"]) for match in result.report["outputs"]}
    assert matches == {"scores": ("scores", "name"), "boxes": ("b", "position")}
    assert result.certificate["drop"] == 0
    assert "output_renamed" in codes(result, "warning")


def test_an_output_that_is_missing_counts_as_wrong_everywhere_unless_it_is_ignored():
    nodes = [node("MatMul", ["x", "hidden"], ["h0"]), node("Relu", ["h0"], ["h"])]
    nodes.append(node("MatMul", ["h", "scores.w"], ["scores"]))
    weights = {name: WEIGHTS[name] for name in ("hidden", "scores.w")}
    one = file_of(nodes, {"scores": 4}, weights)
    result = pipeline.certify(FLOAT, one, DATA, LOOSE)
    drops = {claim["outputs"][0]: claim["drop"] for claim in result.certificate["claims"]}
    assert drops["scores"] == 0
    assert drops["boxes"] > 1
    assert "output_missing" in codes(result)
    ignoring = {**LOOSE, "outputs": {"boxes": {"weight": 0}}}
    result = pipeline.certify(FLOAT, one, DATA, ignoring)
    assert result.certificate["met"]
    assert "output_missing" not in codes(result)
    assert {row["outputs"][0] for row in result.report["metrics"]} == {"scores"}


def test_outputs_that_are_no_numbers_count_as_the_worst(by_tools):
    broken = changed(network(), lambda arrays: {"boxes.w": arrays["boxes.w"] * np.float32("nan")})
    result = pipeline.certify(FLOAT, broken, DATA, LOOSE)
    assert "output_not_finite" in codes(result)
    assert result.report["outputs"][1]["not_finite"] == SAMPLES
    assert result.certificate["drop"] > 1


def test_outputs_of_integers_and_of_booleans_are_certified():
    zero = {"zero": np.zeros(1, np.float32)}
    for operators, kind in ((("ArgMax", "ArgMin"), TensorProto.INT64), (("Greater", "LessOrEqual"), TensorProto.BOOL)):
        inputs = ["x"] if kind == TensorProto.INT64 else ["x", "zero"]
        axis = {"axis": 1} if kind == TensorProto.INT64 else {}
        files = [file_of([node(operator, inputs, ["y"], **axis)], {"y": 6}, zero) for operator in operators]
        for place, file in enumerate(files):
            proto = onnx.load_from_string(file)
            proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", kind, None))
            files[place] = proto.SerializeToString()
        assert pipeline.certify(files[0], files[0], DATA, LOOSE).outcome == "met"
        wrong = pipeline.certify(*files, DATA, LOOSE)
        assert (wrong.outcome, wrong.certificate["met"]) == ("not_met", False)


def test_files_that_fix_their_batch_are_run_in_it():
    for before, after in ((FLOAT, network(batch=7)), (network(batch=7), FLOAT)):
        result = pipeline.certify(before, after, DATA, LOOSE)
        assert (result.certificate["samples"], result.certificate["drop"]) == (SAMPLES, 0)


def test_operators_of_onnx_runtime_are_taken_in_both_files():
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Gelu", ["h"], ["y"], domain="com.microsoft")]
    before = file_of(nodes, {"y": 16}, {"w": WEIGHTS["hidden"]})
    nodes[1] = node("QuickGelu", ["h"], ["y"], domain="com.microsoft", alpha=1.702)
    after = file_of(nodes, {"y": 16}, {"w": WEIGHTS["hidden"]})
    result = pipeline.certify(before, after, DATA, LOOSE)
    assert result.certificate["met"]
    assert 0 < result.certificate["drop"] < 0.01


def test_without_data_inputs_are_made_and_the_certificate_says_so(by_tools):
    result = pipeline.certify(FLOAT, by_tools["qdq"], None, LOOSE)
    assert result.certificate["synthetic"]
    assert "not taken from real data" in result.certificate["statement"]


def code_of(error: Exception) -> str:
    """The code of an error that the catalogue knows."""
    code = str(getattr(type(error), "code", None))
    if code not in CATALOGUE:
        raise error
    return code


def unknown_operator() -> bytes:
    return file_of([node("Thing", ["x"], ["scores"], domain="foo.bar")], {"scores": 6}, {}, domain="foo.bar")


def fails_when_run() -> bytes:
    shape = np.array([17, 23], np.int64)
    return file_of([node("Reshape", ["x", "shape"], ["scores"])], {"scores": 23}, {"shape": shape})


def outside() -> bytes:
    proto = onnx.load_from_string(FLOAT)
    proto.graph.initializer[0].data_location = TensorProto.EXTERNAL
    entry = proto.graph.initializer[0].external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"
    return proto.SerializeToString()


def one_input(name: str, dtype: int, width: int) -> bytes:
    nodes = [node("Cast", [name], ["f"], to=TensorProto.FLOAT), node("MatMul", ["f", "w"], ["scores"])]
    return file_of(nodes, {"scores": 4}, {"w": np.ones((width, 4), np.float32)}, name=name, dtype=dtype, width=width)


REFUSED = {
    "no file": (b"", "model_not_onnx", "the quantized file: the model is empty"),
    "garbage": (b"hello world", "model_not_onnx", "the quantized file"),
    "cut off": (FLOAT[:-100], "model_not_onnx", "cut off"),
    "outside": (outside(), "model_external_data", "the quantized file: tensor 'hidden'"),
    "unknown operator": (unknown_operator(), "model_custom_operators", "foo.bar.Thing"),
    "fails when run": (fails_when_run(), "quantized_file_not_runnable", "does not run"),
    "another input": (one_input("y", TensorProto.FLOAT, 6), "interface_differs", "takes the inputs y, the float model"),
    "another type": (one_input("x", TensorProto.FLOAT16, 6), "interface_differs", "takes float16"),
    "another width": (one_input("x", TensorProto.FLOAT, 5), "interface_differs", "[any, 5]"),
    "nothing in common": (
        file_of([node("Neg", ["x"], ["z"])], {"z": 6}, {}),
        "interface_differs",
        "are these the same network?",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_cannot_be_compared_are_refused_with_what_to_do(name):
    quantized, code, text = REFUSED[name]
    with pytest.raises(ValueError, match=re.escape(text)) as refused:
        pipeline.certify(FLOAT, quantized, DATA, LOOSE)
    assert code_of(refused.value) == code


def test_damaged_files_are_no_fault(by_tools):
    """Bytes changed anywhere: a certificate, or an error of the catalogue."""
    random, ends = np.random.default_rng(3), set()
    for _ in range(30):
        raw = np.frombuffer(by_tools["qdq"], np.uint8).copy()
        places = random.integers(0, len(raw), random.integers(1, 4))
        raw[places] = random.integers(0, 256, len(places))
        try:
            ends.add(pipeline.certify(FLOAT, raw.tobytes(), DATA, LOOSE).outcome)
        except ValueError as error:
            ends.add(code_of(error))
    assert len(ends) > 1


def test_what_cannot_be_inspected_is_measured_and_not_certified(by_tools, monkeypatch, caplog):
    def broken(*_: object) -> None:
        raise IndexError("a mistake of the reader")

    monkeypatch.setattr("pipeline.inspections.inspect", broken)
    result = pipeline.certify(FLOAT, by_tools["qdq"], DATA, LOOSE)
    assert result.certificate["met"]
    assert (result.outcome, codes(result)) == ("not_met", {"not_inspected"})
    assert "a mistake of the reader" in caplog.text
    assert "a mistake of the reader" not in str(result.report)
