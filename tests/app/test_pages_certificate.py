"""The result of a certificate as a page shows it: of a document that was really made."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic

import pipeline
from app.pages.rendering import _environment


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """That of a file with a matrix in 8 bits, as the API answers it."""
    folder = tmp_path_factory.mktemp("certificate")
    generator = np.random.default_rng(0)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "layer")],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(generator.standard_normal((12, 3)).astype(np.float32), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), folder / "f.onnx")
    quantize_dynamic(folder / "f.onnx", folder / "q.onnx")
    np.savez(folder / "s.npz", x=generator.standard_normal((60, 12)).astype(np.float32))
    result = pipeline.certify(folder / "f.onnx", folder / "q.onnx", folder / "s.npz", {"budget": {"max_drop": 0.05}})
    document: dict[str, Any] = json.loads(json.dumps(result.report))
    return document


def page_of(certificate: dict[str, Any]) -> str:
    return _environment().get_template("certificate_result.html").render(certificate=certificate)


def test_a_kept_budget(certificate: dict[str, Any]) -> None:
    page = page_of(certificate)

    assert "<strong>Certified:</strong> the budget is kept and no defect was found." in page
    assert certificate["certificate"]["statement"] in page
    assert '<span class="badge good">kept</span>' in page
    assert "<td>int8 tensor</td>" in page
    assert "Nothing: no defect, no warning, no note." in page
    for metric in certificate["metrics"]:
        assert f"<td>{metric['metric']}" in page


def test_a_missed_budget_and_what_was_found(certificate: dict[str, Any]) -> None:
    document = copy.deepcopy(certificate)
    document |= {"outcome": "not_met", "reason": "it has <defects>"}
    document["certificate"]["claims"][0] |= {"met": False, "high": 0.5}
    document["certificate"]["blind_to"] = [{"null": "y is its mean <i>", "loses": {}}]
    document["findings"] = [
        {"code": "float_copy", "where": "", "text": "a note", "severity": "note"},
        {"code": "scale_wrong", "where": "<script>", "text": "a <b>multiple</b>", "severity": "defect"},
    ]
    document["inspection"]["weights"].append({"name": "lost<", "shape": [3], "stored": None, "closeness": None})

    stored = document["inspection"]["weights"][0]["stored"] | {"element_type": "int4/channel", "granularity": "channel"}
    document["inspection"]["weights"][0]["stored"] = stored

    page = page_of(document)

    assert "<td>int4/channel</td>" in page
    assert "<strong>Not certified:</strong> it has &lt;defects&gt;." in page
    assert '<svg class="interval missed"' in page
    assert '<span class="badge bad">missed</span>' in page
    assert page.index("scale_wrong") < page.index("float_copy")  # the worst first
    assert "at <code>&lt;script&gt;</code>: a &lt;b&gt;multiple&lt;/b&gt;" in page
    assert "<li>y is its mean &lt;i&gt;</li>" in page
    assert "has no counterpart in the quantized file" in page
