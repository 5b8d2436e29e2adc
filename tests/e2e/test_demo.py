"""`make demo` shows a plan worth looking at: really trained, within the budget, and of several widths."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_demo_ends_with_mixed_bits_within_the_budget(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'client'}", "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples/demo.py"), "--out", str(tmp_path / "out")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    plan = json.loads((tmp_path / "out/plan.json").read_text())
    assert plan["outcome"] == "met"
    assert plan["certificate"]["float_value"] > 0.9, "the network has learned something"
    assert len({layer["bits"] for layer in plan["layers"]}) >= 3
    assert "budget met" in done.stdout
    assert "<svg" in (tmp_path / "out/report.html").read_text()
