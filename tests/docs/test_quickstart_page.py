"""What docs/quickstart.md promises: its figures, its Python, its request."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from app.schemas.job_request import FROM_ELSEWHERE
from app.schemas.parsing import merge, parse_request
from bitbudget_client.downloads import OF_A_PLAN, OF_A_SEARCH


@pytest.fixture
def quickstart(page: Callable[[str], Any]) -> Any:
    return page("quickstart")


def test_the_table_of_samples_is_what_the_intervals_give(quickstart: Any) -> None:
    from evaluation.intervals import difference_interval
    from evaluation.splits import split

    rows = quickstart.rows("2. The samples")
    assert len(rows) == 4
    for row in rows:
        samples, held_out, one, unchanged, changed = (
            float(re.match(r"[\d,.]+", cell)[0].replace(",", "")) for cell in row
        )
        assert len(split(int(samples), 0).held_out) == held_out
        n = int(held_out)
        lost = max(1, round(n / 100))
        assert one == round(100 / n, 2)
        assert unchanged == round(100 * difference_interval(0, 0, n, 0.95).high, 2)
        assert changed == round(100 * difference_interval(lost, lost, n, 0.95).high, 2)


def test_the_example_certificate_adds_up(quickstart: Any) -> None:
    from evaluation.certificate import Certificate
    from evaluation.intervals import difference_interval

    (block,) = quickstart.blocks("json")
    told = json.loads(block)
    assert set(told) <= set(Certificate.__dataclass_fields__)
    interval = difference_interval(told["right_to_wrong"], told["wrong_to_right"], told["samples"], told["level"])
    assert (told["low"], told["high"]) == (round(interval.low, 4), round(interval.high, 4))
    assert told["drop"] == round((told["right_to_wrong"] - told["wrong_to_right"]) / told["samples"], 4)
    assert told["met"] == (told["drop"] <= told["max_drop"])


def test_the_python_of_every_page_compiles(documented: list[Any]) -> None:
    blocks = [(page.path.name, body) for page in documented for body in page.blocks("python")]
    assert blocks
    for name, body in blocks:
        compile(body, name, "exec")


def test_every_request_in_the_pages_is_accepted(documented: list[Any]) -> None:
    quoted = [text for page in documented for text in re.findall(r"(?:request=|--data ')(\{.*\})'", page.text)]
    assert len(quoted) >= 3
    for text in quoted:
        members = json.loads(text)
        assert not set(members) & set(FROM_ELSEWHERE)
        parse_request(merge({"model_id": "0" * 64, "dataset_id": "0" * 64}, members))


def test_every_file_of_a_result_is_described(quickstart: Any) -> None:
    told = {name for cell, _ in quickstart.rows("4. One command") for name in re.findall(r"`([^`]+)`", cell)}
    assert told == set({**OF_A_PLAN, **OF_A_SEARCH})
