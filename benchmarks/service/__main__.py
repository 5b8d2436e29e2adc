"""All figures of the service in one object on the last line.

    python -m benchmarks.service [DATA] [--quick]

DATA: the folder of the main job's network (`benchmarks.job`); without it the speed-up by a second worker is not
measured. `--quick` takes a tenth of everything that is counted.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.service.chaos import chaos
from benchmarks.service.half_open import healthz_under_half_open
from benchmarks.service.hostile_child import hostile_child
from benchmarks.service.hostile_service import hostile_service
from benchmarks.service.isolation import cross_project_reads
from benchmarks.service.one_job import speedup
from benchmarks.service.queueing import behind_cancelled
from benchmarks.service.resuming import resent
from benchmarks.service.webhooks import deliveries_under_kills


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    part = 10 if given.quick else 1
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "queue": lambda: behind_cancelled(1000 // part),
        "half-open connections": lambda: healthz_under_half_open(1100 // part),
        "cut uploads": lambda: resent(50 // part),
        "calls with two keys": lambda: cross_project_reads(10_000 // part),
        "webhooks": lambda: deliveries_under_kills(200 // part),
        "chaos": lambda: chaos(500 // part, 200 // part),
        "hostile files, child": lambda: hostile_child(10_000 // part),
        "hostile files, service": lambda: hostile_service(2000 // part),
    }
    if given.data is not None:
        data = given.data
        parts = {"one job, two workers": lambda: speedup(data), **parts}
    figures: dict[str, Any] = {}
    for name, measure in parts.items():
        began = time.monotonic()
        found = measure()
        sys.stderr.write(f"{name} ({time.monotonic() - began:.0f} s): {json.dumps(found)}\n")
        figures |= found
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
