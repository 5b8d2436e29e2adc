"""Hostile files through the whole service: what they do to the API, to the workers, and to their own jobs.

python -m benchmarks.service.hostile_service --count 2000
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from benchmarks.service.hostile_models import HostileFile, hostile_files
from benchmarks.service.team import Team, running_team

WAITING = 20
LOOK_SECONDS = 0.5
"""Between looks at all jobs that wait: every look costs the API as much as an upload."""

STUCK = "stuck"
STUCK_SECONDS = 300.0
"""A job of such a file that has not ended so long after it began is stuck."""

MEMORY_BYTES = 3 << 30
REQUEST = {"budget": {"max_drop": 0.02}, "weights": {"bits": [8]}}


@dataclass
class Tally:
    """What was seen."""

    statuses: Counter[int] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    internal: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    waiting: dict[str, str] = field(default_factory=dict)
    """Name of the file by job."""

    log: Path | None = None
    """Every ending, a line of JSON each."""

    def ended(self, name: str, code: str, detail: str = "") -> None:
        """Note how a file ended."""
        self.codes[code] += 1
        if code == "internal":
            self.internal.append(f"{name}: {detail}")
        elif code == STUCK:
            self.stuck.append(name)
        if self.log is not None:
            with self.log.open("a") as log:
                log.write(json.dumps([name, code, detail]) + "\n")


def hostile_service(count: int, seed: int = 0, *, first: int = 0, log: Path | None = None) -> dict[str, Any]:
    """Send so many files of the list, from its place `first` on, each as a job of its own."""
    tally = Tally(log=log)
    with (
        tempfile.TemporaryDirectory(prefix="bitbudget-") as folder,
        running_team(Path(folder) / "team", workers=2, worker_memory_bytes=str(MEMORY_BYTES)) as team,
        httpx.Client(base_url=team.url, timeout=120) as api,
    ):
        starts = {worker.name: worker.starts for worker in team.workers}
        for file in hostile_files(count, seed, first=first):
            _send(api, file, tally)
            while len(tally.waiting) >= WAITING:
                _look(api, tally)
        while tally.waiting:
            _look(api, tally)
        lost = sum(worker.starts - starts[worker.name] for worker in team.workers)
        ready = api.get("/readyz").status_code == 200
        _explain(team, tally)
    failures = sum(number for status, number in tally.statuses.items() if status >= 500)
    return {
        "hostile_models": count,
        "hostile_api_failures": failures,
        "hostile_stuck": len(tally.stuck),
        "hostile_internal": len(tally.internal),
        "hostile_workers_lost": lost,
        "hostile_ready_afterwards": ready,
        "hostile_codes": dict(tally.codes.most_common()),
    }


def _send(api: httpx.Client, file: HostileFile, tally: Tally) -> None:
    files: dict[str, Any] = {"model": (file.name[:100], file.model), "request": (None, json.dumps(REQUEST))}
    if file.dataset is not None:
        files["dataset"] = ("samples.npz", file.dataset)
    answer = api.post("/v1/jobs", files=files)
    tally.statuses[answer.status_code] += 1
    if answer.status_code == 202:
        tally.waiting[answer.json()["id"]] = file.name
    else:
        tally.ended(file.name, str(answer.status_code))


def _look(api: httpx.Client, tally: Tally) -> None:
    time.sleep(LOOK_SECONDS)
    for job_id, name in list(tally.waiting.items()):
        answer = api.get(f"/v1/jobs/{job_id}")
        tally.statuses[answer.status_code] += 1
        job = answer.json()
        if job["state"] not in ("queued", "running"):
            del tally.waiting[job_id]
            error = job["error"] or {}
            tally.ended(name, error.get("code", job["state"]), error.get("detail", ""))
        elif _seconds_since(job["started_at"]) > STUCK_SECONDS:
            del tally.waiting[job_id]
            tally.ended(name, STUCK)


def _seconds_since(started_at: str | None) -> float:
    return 0.0 if started_at is None else (datetime.now(UTC) - datetime.fromisoformat(started_at)).total_seconds()


def _explain(team: Team, tally: Tally) -> None:
    for text in (*tally.internal, *(f"stuck: {name}" for name in tally.stuck)):
        sys.stderr.write(f"{text}\n")
    if tally.internal:
        sys.stderr.write("\n".join(team.log(worker.name)[-20_000:] for worker in team.workers))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="begin at this place of the list")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, help="every ending, a line of JSON each")
    given = parser.parse_args()
    print(json.dumps(hostile_service(given.count, given.seed, first=given.first, log=given.log)))


if __name__ == "__main__":
    main()
