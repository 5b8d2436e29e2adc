"""A job on a real network through a real service, and a second budget on its analysis."""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.job import REQUEST, float_pass_seconds, prepare
from benchmarks.service.running import running_service

SECOND_BUDGET = {"budget": {"metric": "top1", "max_drop": 0.02}}


@dataclass(frozen=True)
class Replanning:
    """What the search of the first job read, in whole passes over its samples, and what the second job took."""

    full_evaluations: float
    float_pass_seconds: float
    first_seconds: float
    second_seconds: float
    first_bytes: int
    second_bytes: int


def replanning(data: Path) -> Replanning:
    """The main job, then another budget for it; both timed from POST to `succeeded`, export and certificate included.

    Args:
        data: as for `benchmarks.job`.
    """
    with tempfile.TemporaryDirectory(prefix="bench-replan-") as folder:
        work = Path(folder)
        case = prepare(data, work)
        float_pass = float_pass_seconds(case)
        with running_service(work / "home") as service:
            started = time.perf_counter()
            first = service.submit(case.model, case.calibration, REQUEST)
            service.finished(first)
            submitted = time.perf_counter()
            second = service.replan(first, SECOND_BUDGET)
            service.finished(second)
            ended = time.perf_counter()
            plans = [json.loads(service.content(job, "plan")) for job in (first, second)]
    return Replanning(
        full_evaluations=plans[0]["search"]["full_evaluations"],
        float_pass_seconds=float_pass,
        first_seconds=submitted - started,
        second_seconds=ended - submitted,
        first_bytes=plans[0]["size_bytes"],
        second_bytes=plans[1]["size_bytes"],
    )
