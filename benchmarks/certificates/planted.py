"""`certify` on files with planted defects, which it must not let pass, and on honest ones, which it must.

A defect is caught when the answer is not `met`: because the budget is missed, or a defect is found in the file.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pipeline
from benchmarks.certificates.defects import cases

MAX_DROP = 0.05
"""Honest files of 4 bits may lose so much of the labels that they were trained for."""


def run(say: Callable[[str], None] = print) -> dict[str, Any]:
    """Counts, as `caught/planted` and `refused/honest`."""
    caught, planted, refused, honest = 0, 0, 0, 0
    began = time.perf_counter()
    for case in cases():
        budget = {"budget": {"max_drop": MAX_DROP, "metric": "top1"}}
        result = pipeline.certify(case.float_file, case.quantized_file, dict(case.samples), budget)
        met = result.outcome == "met"
        if case.is_defective:
            planted, caught = planted + 1, caught + (not met)
        else:
            honest, refused = honest + 1, refused + (not met)
        if met == case.is_defective:
            say(f"WRONG  {case.name}: {result.outcome}, {result.summary.get('reason')}")
    say(f"{time.perf_counter() - began:.0f} s for {planted + honest} certificates")
    return {"planted_defects_caught": f"{caught}/{planted}", "false_alarms": f"{refused}/{honest}"}


if __name__ == "__main__":
    print(run())
