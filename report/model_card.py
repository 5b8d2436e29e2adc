"""The model card: what goes beside a file that is published, in the form of Hugging Face."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from app.schemas.headline import headline, reason
from report.charts.wording import amount, size
from report.documents import FLOAT_BITS, Documents
from report.page import CODE

_SPECIAL = re.compile(r"([\\`*_\[\]|~$])")
_MOST_LAYERS = 200


def model_card(documents: Documents) -> str:
    """Markdown with front matter in YAML: what the file is, what was measured, what is in it, how to use it.

    Raises:
        ValueError: there is neither a plan nor a certificate.
    """
    main, certificate = documents.main, documents.measured
    parts = [
        f"---\n{_front_matter(documents)}---\n",
        f"# {_plain(_name(documents))}\n",
        f"{_plain(headline(main))}\n",
        "A network quantized to mixed precision within a measured accuracy budget, by bitbudget.\n",
        *([f"**The budget is not met:** {_plain(str(reason(main)))}\n"] if reason(main) else []),
        "## What was measured\n",
        f"{_plain(str(certificate['statement']))}\n",
        _claims(documents),
        *_layers(documents),
        "## Limits\n",
        _limits(documents),
        "## How to use\n",
        f"```python\n{CODE}```\n",
        "## Origin\n",
        _origin(documents),
    ]
    return "\n".join(parts)


def _front_matter(documents: Documents) -> str:
    """YAML, whose texts are written as JSON: that is YAML too, whatever is in them."""
    main, certificate = documents.main, documents.measured
    bits = sorted({row["bits"] for row in documents.layers if row["bits"] < FLOAT_BITS})
    tags = ["onnx", "onnxruntime", "quantized", "mixed-precision", "bitbudget", *(f"{width}-bit" for width in bits)]
    metrics = [
        {
            "type": claim["metric"],
            "name": f"{claim['metric']} ({' and '.join(claim['outputs'])})"
            if claim.get("outputs")
            else claim["metric"],
            "value": claim["quantized_value"],
        }
        for claim in certificate.get("claims") or [certificate]
    ]
    data = {
        "type": documents.job.get("dataset_name") or main.get("dataset_sha256") or "made-from-the-shapes-of-the-inputs",
        "name": documents.job.get("dataset_name") or "held-out samples of the uploaded data",
    }
    result = {"task": {"type": "other"}, "dataset": data, "metrics": metrics}
    members: dict[str, Any] = {
        "library_name": "onnx",
        "tags": tags,
        "metrics": list(dict.fromkeys(metric["type"] for metric in metrics)),
        "model-index": [{"name": _name(documents), "results": [result]}],
    }
    return "".join(f"{name}: {json.dumps(value)}\n" for name, value in members.items())


def _claims(documents: Documents) -> str:
    certificate = documents.measured
    rows = [
        f"| {_plain(str(claim['metric']))} | {_plain(' and '.join(claim.get('outputs', ())))} | "
        f"{amount(claim['float_value'])} | {amount(claim['quantized_value'])} | {amount(claim['drop'])} "
        f"({amount(claim['low'])} to {amount(claim['high'])}) | {amount(claim['max_drop'])} |"
        for claim in certificate.get("claims") or [certificate]
    ]
    head = "| metric | output | float | quantized | drop (interval) | budget |\n|---|---|---|---|---|---|"
    return "\n".join([head, *rows]) + "\n"


def _layers(documents: Documents) -> list[str]:
    layers = documents.layers
    if not layers:
        return []
    counts = Counter(str(row["format"]) for row in layers)
    summary = ", ".join(f"{count} of {name}" for name, count in sorted(counts.items()))
    rows = [f"| {_plain(str(row['name']))} | {row['format']} | {size(row['bytes'])} |" for row in layers[:_MOST_LAYERS]]
    more = f"\nAnd {len(layers) - _MOST_LAYERS} more layers.\n" if len(layers) > _MOST_LAYERS else ""
    table = "\n".join(["| layer | format | size |", "|---|---|---|", *rows])
    return ["## What is in it\n", f"{len(layers)} layers: {summary}.\n", f"{table}\n{more}"]


def _limits(documents: Documents) -> str:
    certificate = documents.measured
    lines = [f"It was measured on {certificate['samples']:,} samples: what is not among them is not measured."]
    lines += [_plain(" ".join(map(str, blind.values()))) for blind in certificate.get("blind_to", ())]
    left = documents.main.get("stays_float") or {"share": 0.0}
    if left["share"]:
        lines.append(f"Of the bytes of its weights {left['share']:.1%} keep their type.")
    if certificate.get("synthetic"):
        lines.append("The samples were made from the shapes of the inputs: they say little about real data.")
    return "\n".join(f"- {line}" for line in lines) + "\n"


def _origin(documents: Documents) -> str:
    main = documents.main
    known = {
        "float model (SHA-256)": main.get("model_sha256"),
        "data (SHA-256)": main.get("dataset_sha256"),
        "size": f"{size(main['float_size_bytes'])} before, {size(main['size_bytes'])} after",
        "made on": main.get("processor"),
    }
    return "\n".join(f"- {name}: {_plain(str(value))}" for name, value in known.items() if value) + "\n"


def _name(documents: Documents) -> str:
    named = documents.job.get("name") or documents.job.get("model_name")
    return f"{named}, quantized" if named else "quantized network"


def _plain(text: str) -> str:
    """A text that Markdown and HTML take as it is, on one line."""
    one_line = " ".join(text.split())
    return _SPECIAL.sub(r"\\\1", one_line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))
