"""docs/certificates.md and docs/metrics.md say what the code does: metrics, their truth and options, the example."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from app.schemas.budget import MetricName, MetricOptions
from evaluation.certificate import Certificate, ClaimResult, PartResult
from evaluation.certifying import Terms
from evaluation.metrics.detection_layout import OPTIONS
from evaluation.metrics.registry import METRICS


@pytest.fixture
def metrics(page: Callable[[str], Any]) -> Any:
    return page("metrics")


@pytest.fixture
def certificates(page: Callable[[str], Any]) -> Any:
    return page("certificates")


def _names(cell: str) -> set[str]:
    return set(re.findall(r"`(\w+)`", cell))


def test_every_metric_has_its_row_with_what_it_compares_and_takes(metrics: Any) -> None:
    text = metrics.text[: metrics.text.index("\n## ")]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| `")]
    told = {row[0].strip("`"): row for row in rows}
    assert set(told) == set(METRICS) == set(get_args(MetricName))
    for name, metric in METRICS.items():
        _, _, _, _, truth, options, _ = told[name]
        assert _names(truth) == set(metric.truth), name
        assert ("required" in truth) == metric.needs_truth, name
        assert _names(options) == set() if metric.several else _names(options) == set(metric.options), name


def test_every_option_of_detection_is_described(metrics: Any) -> None:
    assert set(OPTIONS) <= _names(metrics.section("Detection"))
    assert set(OPTIONS) <= set(MetricOptions.model_fields)


def test_shares_are_called_shares(metrics: Any) -> None:
    for line in metrics.text.splitlines():
        found = re.match(r"\| `(\w+)` \|", line)
        if found and found[1] in METRICS:
            assert (line.split("|")[4].strip() == "share") == METRICS[found[1]].share, found[1]


def test_the_example_certificate_adds_up(certificates: Any) -> None:
    (block,) = certificates.blocks("json")
    told = json.loads(block)
    assert set(told) <= set(Certificate.__dataclass_fields__)
    assert told["met"] == all(claim["met"] for claim in told["claims"])
    worst = max(told["claims"], key=lambda claim: claim["drop"] / claim["max_drop"])
    for name in ("metric", "float_value", "quantized_value", "drop", "high"):
        assert told[name] == worst[name]
    assert told["low"] == max(claim["low"] for claim in told["claims"])
    for claim in told["claims"]:
        assert set(claim) <= set(ClaimResult.__dataclass_fields__)
        assert claim["met"] == (claim["drop"] <= claim["max_drop"])
        assert claim["drop"] == pytest.approx(claim["float_value"] - claim["quantized_value"], abs=1e-4)
        assert all(set(part) == set(PartResult.__dataclass_fields__) for part in claim.get("worst", ()))


def test_each_look_has_the_level_that_the_page_says(certificates: Any) -> None:
    assert "`1 - (1 - level) / looks`" in certificates.text
    assert Terms(0.1, looks=4, confidence=0.9).each == pytest.approx(1 - (1 - 0.9) / 4)


def test_every_finding_has_its_row(certificates: Any) -> None:
    """Codes as the sources spell them: each is the first text of a finding, or the `code` of its function."""
    root = Path(__file__).parents[2]
    sources = [*(root / "quantization/inspection").glob("*.py"), root / "pipeline/inspections.py"]
    sources.append(root / "pipeline/stages/compare.py")
    code = "\n".join(path.read_text() for path in sources)
    made = set(re.findall(r'\b(?:defect|warning|note)\(\s*"(\w+)"', code)) | set(re.findall(r'\bcode = "(\w+)"', code))
    told = {name for row in certificates.rows("What is read") for name in _names(row[0])}
    assert told == made
