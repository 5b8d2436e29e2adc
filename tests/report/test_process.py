"""The process that draws, spoken to as a service does."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from report.__main__ import serve
from tests.report.conftest import DATA

ROOT = Path(__file__).parents[2]


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
    with os.fdopen(reading, "rb", buffering=0) as given, os.fdopen(writing, "wb"):  # the input does not end
        serving = threading.Thread(target=serve, args=(given, io.BytesIO(), 0.01), daemon=True)
        serving.start()
        serving.join(30)
        ended = not serving.is_alive()
    assert ended


def test_it_leaves_no_dump_of_its_memory() -> None:
    core = "import resource; print(resource.getrlimit(resource.RLIMIT_CORE))"
    command = f"import sys; sys.argv = ['report']; from report.__main__ import main; main(); {core}"
    done = subprocess.run(
        [sys.executable, "-c", command], input=b"", capture_output=True, check=True, timeout=120, cwd=ROOT
    )
    assert done.stdout == b"(0, 0)\n"
