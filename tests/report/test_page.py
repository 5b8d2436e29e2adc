"""The report as one file: complete, with nothing from elsewhere, and with hostile names as texts."""

from __future__ import annotations

import base64
import copy
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from report import Documents
from report.contents import CHARTS
from report.files import make
from report.page import page

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'"


class Reader(HTMLParser):
    """Tags, their attributes and the ids of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def of(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.fixture(scope="module")
def html(documents: Documents) -> str:
    return page(replace(documents, job={"id": "0" * 32, "name": "digits", "model_name": "digits.onnx"}))


def test_the_report_has_every_section_with_a_table_beside_each_chart(html: str) -> None:
    reader = Reader(html)
    headings = [attributes["id"] for attributes in reader.of("h2")]
    assert headings == [
        *("certificate", "frontier", "layers", "interactions", "agreement", "samples"),
        *("left", "blind", "stages", "use", "request", "versions"),
    ]
    assert [attributes["href"] for attributes in reader.of("a")] == [f"#{name}" for name in headings]
    assert len(reader.of("h1")) == 1
    assert len(reader.of("svg")) == len(CHARTS)
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in reader.of("svg"))
    # one for each chart but the samples, whose numbers stand beside their pictures; what stays float; the request
    assert len(reader.of("details")) == len(CHARTS) + 1
    assert all(attributes.get("alt") for attributes in reader.of("img"))
    assert "<title>Report: digits</title>" in html


def test_layers_have_their_zeros_and_times_to_load(documents: Documents, html: str) -> None:
    assert documents.plan is not None
    layers = [{**row, "load_ms": 12.345, "sparsity": 0.4567} for row in documents.plan["layers"]]
    load = {"predicted_ms": 31.26, "base_ms": 2.0, "float_ms": 6.0}
    told = page(replace(documents, plan={**documents.plan, "layers": layers, "load": load}))
    row = '<td class="right">12.3</td><td class="right">45.7%</td>'
    assert told.count(row) == len(layers)
    assert "Loading takes 31.3 ms as predicted" in told
    # those of an older service have neither
    assert "Loading takes" not in html
    assert html.count('<td class="right">–</td><td class="right">–</td>') >= len(layers)


def test_nothing_comes_from_elsewhere(html: str) -> None:
    for tag, attributes in Reader(html).tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        for name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;base64,")), (tag, attributes)
    assert not re.search(r"@import|url\((?!#)", html)
    addresses = set(re.findall(r"https?://[^\s\"'<>&]+", html))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_the_one_script_is_the_one_that_the_policy_names(html: str) -> None:
    (script,) = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = (a["content"] for a in Reader(html).of("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert not [attributes for _, attributes in Reader(html).tags if any(name.startswith("on") for name in attributes)]


def test_a_report_is_small(html: str) -> None:
    assert len(html.encode()) < 1_500_000


def test_the_colours_of_the_charts_follow_the_reader(html: str) -> None:
    assert '.chart [fill="#0b5cad"] { fill: #6cb6ff; }' in html
    assert '"#0b5cad"' in html.split("</style>")[1]
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))


def test_names_of_uploads_are_texts_wherever_they_stand(documents: Documents) -> None:
    hostile = _renamed(documents, HOSTILE)
    html = page(replace(hostile, job={"name": HOSTILE, "model_name": HOSTILE}))
    reader = Reader(html)
    assert len(reader.of("script")) == 1
    assert not [a for a in reader.of("img") if not str(a["src"]).startswith("data:image/png;base64,")]
    assert "onerror=alert(1)&gt;" in html


def _renamed(documents: Documents, name: str) -> Documents:
    """The documents with this name for a layer, an output, a tensor and in the request."""
    plan, sensitivity = copy.deepcopy(documents.plan), copy.deepcopy(documents.sensitivity)
    assert plan is not None
    assert sensitivity is not None
    first = plan["layers"][0]
    before = f"{first['name']}:"
    candidates = sensitivity["interactions"]["candidates"]
    sensitivity["interactions"]["candidates"] = [
        f"{name}:{candidate.removeprefix(before)}" if candidate.startswith(before) else candidate
        for candidate in candidates
    ]
    first["name"] = first["note"] = plan["reason"] = name
    plan["certificate"]["claims"][0]["outputs"] = [name]
    plan["certificate"]["statement"] = name
    plan["certificate"]["blind_to"] = [{"what": name}]
    plan["stays_float"]["tensors"][0]["name"] = name
    plan["request"]["layers"] = {name: {"keep": True}}
    samples = copy.deepcopy(documents.samples)
    assert samples is not None
    samples["samples"][0]["outputs"][0]["name"] = name
    return replace(documents, plan=plan, sensitivity=sensitivity, samples=samples)


def test_a_job_that_applied_a_plan_has_a_report_without_what_it_lacks(documents: Documents) -> None:
    reader = Reader(page(Documents(plan=documents.plan)))
    assert [attributes["id"] for attributes in reader.of("h2")] == [
        *("certificate", "layers", "left", "blind", "use", "request", "versions"),
    ]


def test_a_file_that_was_certified_has_a_report(documents: Documents) -> None:
    assert documents.plan is not None
    members = ("version", "outcome", "reason", "model_sha256", "dataset_sha256", "request", "float_size_bytes")
    document = {name: documents.plan[name] for name in (*members, "size_bytes", "certificate")}
    finding = {"severity": "defect", "code": "dead_channel", "where": HOSTILE, "detail": "no number differs from 0"}
    html = page(Documents(certificate={**document, "quantized_sha256": "f" * 64, "findings": [finding]}))
    assert "defect: dead_channel" in html
    assert "f" * 64 in html
    assert len(Reader(html).of("script")) == 1


def test_a_report_of_nothing_says_what_it_needs() -> None:
    with pytest.raises(ValueError, match=r"got neither; give plan.json or certificate.json"):
        page(Documents())


@pytest.mark.parametrize("file", ["report.pdf", "charts/frontier.gif", "charts/nothing.svg", "other/frontier.svg"])
def test_a_file_that_nobody_has_is_refused_with_those_there_are(documents: Documents, file: str) -> None:
    with pytest.raises(ValueError, match=r"charts/NAME.svg or .png with NAME one of interval, frontier"):
        make(file, documents)
