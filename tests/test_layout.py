"""What keeps the folders readable: no file holds two things, and the worker nothing of the method."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PRODUCT = ("app", "workers", "pipeline", "network", "quantization", "sensitivity", "planner", "evaluation", "report")
MOST_LINES_OF_A_FILE = 400
MOST_LINES_OF_WORKERS = 3_100


def lines(folder: str) -> dict[str, int]:
    files = (ROOT / folder).rglob("*.py")
    return {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in files}


@pytest.mark.parametrize("folder", PRODUCT)
def test_a_file_ends_before_it_holds_two_things(folder):
    counts = lines(folder)
    assert counts
    assert {name: count for name, count in counts.items() if count > MOST_LINES_OF_A_FILE} == {}


def test_workers_hold_nothing_of_the_method():
    assert sum(lines("workers").values()) < MOST_LINES_OF_WORKERS
