"""The model card: front matter that programs read, and Markdown that people read."""

from __future__ import annotations

import json
from dataclasses import replace

from report import Documents
from report.model_card import model_card


def front_matter(card: str) -> dict[str, object]:
    """The members; each is a line of `name: JSON`, which is YAML too."""
    _, text, _ = card.split("---\n", 2)
    return {name: json.loads(value) for name, value in (line.split(": ", 1) for line in text.splitlines())}


def test_the_front_matter_has_the_results_that_were_measured(documents: Documents) -> None:
    card = model_card(replace(documents, job={"name": "digits", "dataset_name": "digits.npz"}))
    members = front_matter(card)
    assert members["library_name"] == "onnx"
    assert {"onnx", "quantized", "mixed-precision"} <= set(members["tags"])
    (entry,) = members["model-index"]
    assert entry["name"] == "digits, quantized"
    (result,) = entry["results"]
    assert result["dataset"] == {"type": "digits.npz", "name": "digits.npz"}
    value = documents.measured["quantized_value"]
    assert result["metrics"] == [{"type": "top1", "name": "top1 (logits)", "value": value}]


def test_the_card_has_its_sections_and_a_row_for_each_layer(documents: Documents) -> None:
    card = model_card(documents)
    sections = [line for line in card.splitlines() if line.startswith("## ")]
    assert sections == ["## What was measured", "## What is in it", "## Limits", "## How to use", "## Origin"]
    for layer in documents.layers:
        assert f"| {layer['format']} |" in card
    assert "onnxruntime.InferenceSession" in card


def test_names_cannot_make_markdown_or_end_the_front_matter(documents: Documents) -> None:
    hostile = 'x"\n---\n# <script>alert(1)</script> [a](javascript:b) | c'
    card = model_card(replace(documents, job={"name": hostile}))
    assert front_matter(card)["model-index"][0]["name"] == f"{hostile}, quantized"
    body = card.split("---\n", 2)[2]
    assert "<script" not in body
    assert r"\[a\](javascript:b) \| c" in body
    assert "\n---\n" not in body
