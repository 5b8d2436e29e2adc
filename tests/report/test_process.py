"""The process that draws, spoken to as a service does."""

from __future__ import annotations

import io
import json
import os

import pytest

from report.__main__ import serve
from tests.report.conftest import DATA


def asked(file: str, **documents: bytes) -> bytes:
    counts = {kind: len(document) for kind, document in documents.items()}
    header = {"file": file, "theme": "light", "stage_seconds": {}, "job": {}, "documents": counts}
    return json.dumps(header).encode() + b"\n" + b"".join(documents.values())


def answers(requests: bytes, idle_seconds: float = 5.0) -> bytes:
    """What is answered to these requests, and then the end of the input."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as given, os.fdopen(writing, "wb") as sent, io.BytesIO() as made:
        sent.write(requests)
        sent.close()
        serve(given, made, idle_seconds)
        return made.getvalue()


def test_requests_are_answered_one_after_the_other() -> None:
    plan = (DATA / "plan.json").read_bytes()
    given = answers(asked("charts/frontier.svg", plan=plan) + asked("model-card.md", plan=plan))
    first, rest = given.split(b"\n", 1)
    assert json.loads(first) == {"missing": "the job has nothing to show in the chart frontier"}
    header, card = rest.split(b"\n", 1)
    assert json.loads(header) == {"bytes": len(card)}
    assert card.startswith(b"---\nlibrary_name")


def test_a_request_that_ends_early_ends_the_process() -> None:
    with pytest.raises(EOFError, match=r"ends after 3 bytes of a document of 9"):
        answers(asked("model-card.md", plan=b"123456789")[:-6])


def test_it_ends_when_nobody_asks() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as given, os.fdopen(writing, "wb"):
        serve(given, io.BytesIO(), idle_seconds=0.0)
