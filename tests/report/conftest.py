"""Documents of a real small job, as `tests/report/data/make.py` made them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from report import Documents

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def documents() -> Documents:
    seconds = json.loads((DATA / "stage_seconds.json").read_text())
    return replace(Documents.of_folder(DATA), stage_seconds=seconds)
