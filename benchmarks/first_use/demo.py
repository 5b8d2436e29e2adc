"""The first command of a new user: from a clone to the result of the demo."""

from __future__ import annotations

import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def demo() -> dict[str, Any]:
    """Seconds of `make demo` in a fresh clone. What pip fetched before lies in its cache, so run it twice to measure
    without the network."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        clone = Path(folder) / "bitbudget"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        subprocess.run(["make", "--silent", ".venv/.ready"], cwd=clone, check=True, stdout=subprocess.DEVNULL)
        installed = time.monotonic()
        subprocess.run(["make", "--silent", "demo"], cwd=clone, check=True, stdout=subprocess.DEVNULL)
        ended = time.monotonic()
    return {
        "clone_to_demo_seconds": round(ended - began, 1),
        "demo_seconds": round(ended - installed, 1),
    }
