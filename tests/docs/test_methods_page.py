"""docs/methods.md says what the code does: the example of a metric graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.metrics.own import LARGEST, OwnMetric, Readable
from evaluation.metrics.truth import Truth
from network.admission import AdmissionLimits


def test_the_metric_graph_is_the_intersection_over_union(
    page: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [example] = [block for block in page("methods").blocks("python") if "iou.onnx" in block]
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "methods.md", "exec"), {})
    generator = np.random.default_rng(0)
    masks = generator.standard_normal((70, 1, 32, 32)).astype(np.float32)
    truth = Truth({"truth": generator.integers(0, 2, masks.shape)})  # integers fit
    masks[3], truth.arrays["truth"][3] = -1, 0  # both empty
    readable = Readable(("mask",), ("image",), ("truth",))
    own = OwnMetric.of((tmp_path / "iou.onnx").read_bytes(), readable, AdmissionLimits(), 1)
    own.require_samples_apart({"mask": masks}, truth)
    found, wanted = masks > 0, truth.arrays["truth"] > 0
    both, any_ = ((op(found, wanted)).sum((1, 2, 3)) for op in (np.logical_and, np.logical_or))
    expected = both / np.maximum(any_, 1)
    np.testing.assert_allclose(own.numbers({"mask": masks}, {"mask": masks}, truth), expected, rtol=1e-6)
    assert expected[3] == 0
    assert f"above {LARGEST:g}".replace("+", "") in page("methods").section("Your own metric")
