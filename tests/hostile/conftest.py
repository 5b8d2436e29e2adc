"""A child process that takes hostile files: it alone may crash."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

MEMORY_LIMIT = 5 << 29

# Answers each request (a kind of one byte, a length, the file) with one line of JSON.
CHILD = """
import json, resource, struct, sys, time
resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit}))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
import numpy as np
from evaluation.dataset import read_dataset, synthesize
from evaluation.errors import DatasetError
from evaluation.runner import OnnxRunner
from network.admission import AdmissionLimits, admit
from network.tensor_spec import TensorSpec, input_specs
from network.errors import NetworkError

LIMITS = AdmissionLimits(max_model_bytes=1 << 27, max_memory_bytes=1 << 26, max_nodes=2000)
SPEC = (TensorSpec("x", "float32", (None, 4)),)


def handle(kind, data):
    if kind == b"d":
        return f"{{read_dataset(data.decode(), SPEC, 4 << 30).samples}} samples"
    model = admit(data, LIMITS)
    if kind == b"r":
        samples = synthesize(input_specs(model), 2, seed=0)
        OnnxRunner(model.SerializeToString(), threads=1).first_output(samples.inputs, 2)
    return f"{{len(model.graph.node)}} nodes"


while header := sys.stdin.buffer.read(9):
    kind, length = header[:1], struct.unpack("<Q", header[1:])[0]
    data = sys.stdin.buffer.read(length)
    start = time.process_time()
    try:
        answer = {{"ok": handle(kind, data)}}
    except (NetworkError, DatasetError) as error:
        answer = {{"code": error.code, "detail": str(error)}}
    except BaseException as error:
        answer = {{"unexpected": f"{{type(error).__name__}}: {{error}}"[:500]}}
    answer["cpu_seconds"] = time.process_time() - start
    answer["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\\n")
    sys.stdout.buffer.flush()
"""


class Child:
    """Restarted when a file has killed it; `crashes` counts how often."""

    def __init__(self) -> None:
        self.crashes = 0
        self._process: subprocess.Popen[bytes] | None = None

    def _ask(self, kind: bytes, data: bytes) -> dict[str, Any]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-c", CHILD.format(limit=MEMORY_LIMIT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(kind + struct.pack("<Q", len(data)) + data)
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if line:
            return dict(json.loads(line))
        self.close()
        self.crashes += 1
        return {"crashed": True, "cpu_seconds": 0.0}

    def admit(self, data: bytes) -> dict[str, Any]:
        return self._ask(b"m", data)

    def admit_and_run(self, data: bytes) -> dict[str, Any]:
        return self._ask(b"r", data)

    def read(self, path: Path) -> dict[str, Any]:
        return self._ask(b"d", str(path).encode())

    def close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            assert process.stdout is not None
            process.kill()
            process.wait()
            process.stdout.close()
            try:
                process.stdin.close()
            except BrokenPipeError:
                return


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    running = Child()
    yield running
    running.close()


@pytest.fixture
def fresh_child() -> Iterator[Child]:
    """A child of its own, where its peak of memory is looked at."""
    running = Child()
    yield running
    running.close()
