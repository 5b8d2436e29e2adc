"""What docs/cli.md promises: how commands end, and their configuration."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.cli.config import read_config
from app.cli.exits import Exit
from app.schemas.parsing import merge, parse_request


@pytest.fixture
def cli(page: Callable[[str], Any]) -> Any:
    return page("cli")


def test_the_statuses_are_those_of_the_program(cli: Any) -> None:
    rows = [row[0] for row in cli.rows("How commands end")]
    assert rows[:-1] == [str(int(status)) for status in Exit]
    ending = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
    assert [int(text) for text in rows[-1].split(", ")] == [128 + number for number in ending]


def test_the_configuration_is_a_request(cli: Any, tmp_path: Path) -> None:
    (block,) = cli.blocks("toml")
    file = tmp_path / "bitbudget.toml"
    file.write_text(block)
    request = parse_request(merge(read_config(file).request, {"model_id": "0" * 64, "dataset_id": "0" * 64}))
    assert (request.budget.max_drop, request.weights.bits, request.layers["fc"].keep) == (0.005, (4, 8), True)
