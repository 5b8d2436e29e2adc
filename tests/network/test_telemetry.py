"""ONNX Runtime reports nothing to its vendor from a process of ours, and leaves none of its files behind."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SWITCH = "ORT_DISABLE_TELEMETRY"
PRODUCT = ("app", "workers", "pipeline", "network", "quantization", "sensitivity", "planner", "evaluation")
GUARDED = ("network", "quantization", "evaluation", "benchmarks")
"""Packages whose own `__init__` sets the switch, or imports one that does: it runs before any module in them."""

INFERENCE = """
import numpy as np
from onnx import TensorProto, helper
{before}
import onnxruntime
value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
assert session.run(None, {{"x": np.ones(1, np.float32)}})[0] == 1
"""

UNTIL_IT_REPORTS = """
import os, pathlib, time
end = time.monotonic() + 60
while time.monotonic() < end and not any(pathlib.Path(os.environ["HOME"]).rglob("onnxruntime.db")):
    time.sleep(0.1)
"""
"""It writes from a thread of its own, which a process that ends at once may not live to see."""


def files_after(program: str, home: Path) -> list[str]:
    """What `program` leaves behind in its home, its cache and its folder for temporary files."""
    home.mkdir()
    # Nothing else of the environment: the runtime is silent in what it takes for continuous integration, too.
    environment = {"PATH": os.environ["PATH"]}
    places = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"), str(home))
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**environment, **places, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stderr
    return sorted(str(path.relative_to(home)) for path in home.rglob("*"))


@pytest.mark.parametrize("package", GUARDED)
def test_a_process_of_ours_leaves_nothing_of_the_runtime_behind(package: str, tmp_path: Path) -> None:
    assert files_after(INFERENCE.format(before=f"import {package}"), tmp_path / "home") == []


@pytest.mark.skipif(sys.platform != "linux", reason="only the wheels for Linux report by files")
def test_without_the_switch_it_would(tmp_path: Path) -> None:
    """The test above can fail. An ONNX Runtime that no longer does this needs no switch."""
    files = files_after(INFERENCE.format(before="") + UNTIL_IT_REPORTS, tmp_path / "home")
    assert any(name.endswith("onnxruntime.db") for name in files), files


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def test_only_guarded_packages_load_the_runtime() -> None:
    loading = {
        file.relative_to(ROOT).parts[0]
        for folder in (*PRODUCT, "benchmarks", "examples")
        for file in (ROOT / folder).rglob("*.py")
        if any(name.split(".")[0] == "onnxruntime" for name in imports(file))
    }
    assert loading
    assert loading <= set(GUARDED)
