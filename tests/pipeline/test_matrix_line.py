"""The matrix in a document: the text that it always had, and its numbers only while they are written."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np

from pipeline.report import _json
from pipeline.sensitivity_report import MatrixLine
from sensitivity.interaction_matrix import InteractionMatrix


def _lines(count: int) -> tuple[np.ndarray, list[MatrixLine]]:
    gram = np.random.default_rng(0).normal(size=(count, count))
    matrix = InteractionMatrix.of(gram)
    return gram, [MatrixLine(matrix, row) for row in range(count)]


def test_the_text_is_that_of_all_numbers() -> None:
    gram, lines = _lines(5)
    gram[2, 3] = np.nan
    numbers = [[None if np.isnan(value) else float(f"{value:.6g}") for value in line] for line in gram.tolist()]
    assert (
        _json({"matrix": lines, "more": {"a": []}})
        == json.dumps({"matrix": numbers, "more": {"a": []}}, indent=1).encode()
    )


def test_the_numbers_of_all_lines_are_never_there_at_once() -> None:
    _, lines = _lines(400)
    tracemalloc.start()
    try:
        text = _json(lines)
        assert tracemalloc.get_traced_memory()[1] < 1.5 * len(text)
    finally:
        tracemalloc.stop()
