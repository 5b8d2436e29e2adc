"""Answers are as the description of the API says: for requests that schemathesis makes of it, good and bad ones."""

from __future__ import annotations

import pytest

from benchmarks.first_use.contract import contract_failures


@pytest.mark.parametrize("with_keys", [False, True], ids=["without keys", "with keys"])
def test_every_answer_is_as_described(with_keys: bool) -> None:
    assert contract_failures(4, with_keys=with_keys, coverage=False) == []
