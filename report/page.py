"""The report: one HTML file that shows everything of a job, and needs nothing besides."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from app.schemas.headline import headline, loading, reason
from report import charts, render
from report.charts.outputs import sample_title, value_name
from report.charts.theme import COLOURS, Colours, Theme
from report.charts.wording import amount
from report.contents import CHARTS
from report.documents import Documents
from report.policy import policy
from report.tables import tables

_TEMPLATES = Path(__file__).parent / "templates"

SECTIONS = {
    "certificate": "What was measured",
    "frontier": "Size against damage",
    "layers": "Layers",
    "interactions": "Interactions",
    "agreement": "Methods",
    "samples": "Samples",
    "findings": "Findings",
    "left": "What stayed float",
    "blind": "What cannot be seen",
    "stages": "Time",
    "use": "Use",
    "request": "Request",
    "versions": "Versions",
}
_ALWAYS = frozenset({"certificate", "left", "blind", "use", "request", "versions"})

CODE = """\
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
for spec in session.get_inputs():
    print(spec.name, spec.shape, spec.type)

samples = {spec.name: np.load(f"{spec.name}.npy") for spec in session.get_inputs()}
outputs = session.run(None, samples)
"""
"""The file is standard ONNX: it is used as the float model is."""


def page(documents: Documents) -> str:
    """The report as HTML: it works from a disk, asks nobody for anything, is light or dark as its reader's browser is,
    and shows each chart as a table too. Names of an upload are texts, wherever they stand.

    Raises:
        ValueError: there is neither a plan nor a certificate.
    """
    main, certificate = documents.main, documents.measured
    drawn = {name: _inline(name, documents) for name in CHARTS}
    samples = _samples(documents)
    shown = {name for name, text in drawn.items() if text} | ({"samples"} if samples else set()) | _ALWAYS
    if main.get("findings"):
        shown.add("findings")
    style, script = _text("report.css") + _dark(), _text("report.js")
    left = main.get("stays_float") or {"share": 0.0, "tensors": []}
    html: str = (
        _environment()
        .get_template("report.html")
        .render(
            title=title(documents),
            headline=headline(main),
            reason=reason(main),
            loading=loading(main),
            certificate={"statement": certificate["statement"], "synthetic": certificate.get("synthetic", False)},
            svgs=drawn,
            facts=CHARTS,
            tables=tables(documents),
            samples=samples,
            findings=[_finding(finding) for finding in main.get("findings", ())],
            stays_float={"share": f"{left['share']:.1%}", "tensors": left["tensors"]},
            blind=[_blind(blind) for blind in certificate.get("blind_to", ())],
            code=CODE,
            request=json.dumps(main["request"], indent=1, ensure_ascii=False),
            versions=_versions(documents),
            version=version("bitbudget"),
            sections=[(name, words) for name, words in SECTIONS.items() if name in shown],
            policy=policy(),
            style=Markup(style),  # noqa: S704 - our own
            script=Markup(script),  # noqa: S704 - our own, whose digest the policy names
        )
    )
    return html


def title(documents: Documents) -> str:
    """What the report is called: after the job, or its model."""
    named = documents.job.get("name") or documents.job.get("model_name")
    return f"Report: {named}" if named else "Report of a quantized network"


def _inline(name: str, documents: Documents) -> Markup | str:
    """The chart as SVG inside HTML; empty where there is nothing to show."""
    chart = getattr(charts, name)(documents, Theme.LIGHT)
    if chart is None:
        return ""
    facts = CHARTS[name]
    return Markup(render.svg(chart, facts.title, facts.description, prefix=name))  # noqa: S704 - written by a serializer


def _dark() -> str:
    """Rules that give a light chart the colours of the dark theme."""
    rules = []
    for token in fields(Colours):
        light, dark = (getattr(COLOURS[theme], token.name) for theme in (Theme.LIGHT, Theme.DARK))
        rules += [f'.chart [{member}="{light}"] {{ {member}: {dark}; }}' for member in ("fill", "stroke")]
    return "@media screen and (prefers-color-scheme: dark) {\n" + "\n".join(rules) + "\n}\n"


def _samples(documents: Documents) -> list[dict[str, Any]]:
    """The samples that lose most, as the page shows them."""
    samples = [] if documents.samples is None else documents.samples["samples"]
    return [
        {
            "index": sample["index"],
            "title": f"{sample_title(sample)}, lost {amount(sample['lost'])}",
            "thumbnail": sample["thumbnail"],
            "outputs": [
                {
                    "name": output["name"],
                    "rows": [
                        {
                            "name": value_name(output["meaning"], row["at"]),
                            **{member: _value(row[member]) for member in ("float", "quantized")},
                        }
                        for row in output["rows"]
                    ],
                }
                for output in sample["outputs"]
            ],
        }
        for sample in samples
    ]


def _value(value: Any) -> str:
    return value if isinstance(value, str) else amount(value)


def _finding(finding: Mapping[str, Any]) -> dict[str, str]:
    return {
        "severity": str(finding["severity"]),
        "code": str(finding["code"]),
        "where": str(finding.get("where") or ""),
        "text": str(finding.get("detail") or finding.get("text") or ""),
    }


def _blind(blind: Any) -> str:
    """A member of `blind_to` in words."""
    return ": ".join(str(value) for value in blind.values() if value) if isinstance(blind, Mapping) else str(blind)


def _versions(documents: Documents) -> list[tuple[str, str]]:
    main, job = documents.main, documents.job
    known = {
        "bitbudget": version("bitbudget"),
        "job": job.get("id"),
        "made": job.get("finished_at"),
        "model": job.get("model_name"),
        "data": job.get("dataset_name"),
        "processor": main.get("processor"),
        "SHA-256 of the float model": main.get("model_sha256"),
        "SHA-256 of the quantized file": main.get("quantized_sha256") or job.get("file_sha256"),
        "SHA-256 of the data": main.get("dataset_sha256"),
    }
    return [(name, str(value)) for name, value in known.items() if value]


def _text(name: str) -> str:
    return (_TEMPLATES / name).read_text()


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
