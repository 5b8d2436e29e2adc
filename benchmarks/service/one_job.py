"""One job on two processes: how much sooner it ends than on one, each with one thread, on a machine that is idle.

    python -m benchmarks.service.one_job DATA

DATA is the folder of `benchmarks.job`. The processes share a folder of results, as workers share the database; they
have loaded everything before the clock starts. The table has, of every stage: on one process, the processor time in
chunks that others could take and outside, which bounds the speed-up, whatever else the machine does; on two, the time
that passed, the processor time of both, and what they waited. More processor time than on one is work that was done
twice, or a machine that is slower when both work.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table

from benchmarks.job import REQUEST, prepare

Stages = dict[str, dict[str, float]]
"""Of every stage seconds: `chunks` and `outside` of processor time, and those that `passed`."""

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def speedup(data: Path) -> dict[str, Any]:
    """The figure `one_job_speedup_two_workers`, and the share of one process's time that lies outside chunks.

    Raises:
        RuntimeError: a process fails, or two give other bytes than one.
    """
    with tempfile.TemporaryDirectory(prefix="bench-one-job-") as folder:
        work = Path(folder)
        case = prepare(data, work)
        uploads = [str(case.model), str(case.calibration)]
        one, two = (_timed(work / f"cache-{count}", uploads, count) for count in (1, 2))
    if one["sha256"] != two["sha256"]:
        raise RuntimeError("two processes gave other bytes than one")
    stages: Stages = one["stages"]
    inside = sum(stage["chunks"] for stage in stages.values())
    outside = sum(stage["outside"] for stage in stages.values())
    _print(stages, two["stages"], two["helped"])
    return {
        "one_job_speedup_two_workers": round(one["seconds"] / two["seconds"], 2),
        "one_job_sequential_share": round(outside / (inside + outside), 3),
    }


def _timed(cache: Path, uploads: list[str], count: int) -> dict[str, Any]:
    """What the leader of so many processes says; they begin together."""
    command = [sys.executable, "-m", "benchmarks.service.one_job", str(cache), *uploads]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [
        subprocess.Popen([*command, role], env={**os.environ, **ENVIRONMENT}, **pipes)
        for role in ("leader", "helper")[:count]
    ]
    try:
        for process in processes:
            _line(process.stdout)
        for process in processes:
            print("go", file=process.stdin, flush=True)
        said: dict[str, Any] = json.loads(_line(processes[0].stdout))
        helped = json.loads(_line(processes[1].stdout))["stages"] if count == 2 else {}
        return {**said, "helped": helped}
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def _line(stream: TextIO | None) -> str:
    line = stream.readline() if stream is not None else ""
    if not line:
        raise RuntimeError("a process that works on the job ended early; what it wrote says why")
    return line


def _print(one: Stages, leader: Stages, helper: Stages) -> None:
    columns = ("stage", "one: in chunks, s", "outside, s", "two: passed, s", "processor, s", "waited, s")
    table = Table(*columns, show_footer=True)
    for name, stage in one.items():
        of_both = [stages[name] for stages in (leader, helper) if name in stages]
        passed, busy = leader[name]["passed"], sum(own["chunks"] + own["outside"] for own in of_both)
        figures = (stage["chunks"], stage["outside"], passed, busy, 2 * passed - busy)
        table.add_row(name, *(f"{figure:.1f}" for figure in figures))
    Console(stderr=True).print(table)


def _work(cache: Path, model: Path, dataset: Path, role: str) -> None:
    """One process: it says that it is ready, begins when it is told to, and says what it measured."""
    import torch

    from app.schemas.parsing import parse_request, with_uploads
    from pipeline.events import Event, Progress, StageBegan, StageEnded
    from pipeline.run import run
    from pipeline.stage import Machine, Upload
    from pipeline.store import FolderStore
    from pipeline.table import TABLE

    class TimedStore(FolderStore):
        """Counts the processor time between taking something and letting it go, once for what is taken within."""

        def __init__(self, folder: Path) -> None:
            super().__init__(folder)
            self.seconds = 0.0
            self._outer: tuple[str, float] | None = None

        def take(self, key: str) -> bool:
            taken = super().take(key)
            if taken and self._outer is None:
                self._outer = key, time.process_time()
            return taken

        def give_back(self, key: str) -> None:
            if self._outer is not None and self._outer[0] == key:
                self.seconds += time.process_time() - self._outer[1]
                self._outer = None
            super().give_back(key)

    store = TimedStore(cache)
    stages: Stages = {}
    spreads = {stage.name: stage.spreads for stage in TABLE.stages}
    running: tuple[str, float, float, float] | None = None  # the stage, and the clocks when it began

    def report(event: Event) -> None:
        nonlocal running
        # a helper reports nothing but progress
        if isinstance(event, StageBegan | Progress):
            if running is not None and event.stage != running[0]:
                end()
            if running is None:
                running = event.stage, time.process_time(), store.seconds, time.perf_counter()
        elif isinstance(event, StageEnded):
            end()

    def end() -> None:
        nonlocal running
        if running is not None:
            name, busy, chunks, began = running
            inside = store.seconds - chunks if spreads[name] else 0.0
            outside = time.process_time() - busy - inside
            stages[name] = {"chunks": inside, "outside": outside, "passed": time.perf_counter() - began}
            running = None

    torch.set_num_threads(1)
    uploads = {"model": Upload.of(model), "dataset": Upload.of(dataset)}
    request = parse_request(with_uploads(REQUEST, {kind: upload.sha256 for kind, upload in uploads.items()}))
    print("ready", flush=True)
    sys.stdin.readline()
    started = time.perf_counter()
    result = run(
        TABLE,
        request,
        uploads,
        cache=store,
        progress=report,
        machine=Machine(threads=1),
        job_id="job",
        helping=role == "helper",
    )
    seconds = time.perf_counter() - started
    end()
    artifacts = {} if result is None else result.artifacts
    digests = {kind: hashlib.sha256(data).hexdigest() for kind, data in sorted(artifacts.items())}
    print(json.dumps({"seconds": seconds, "stages": stages, "sha256": digests}), flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        print(json.dumps(speedup(Path(sys.argv[1]))))
    else:
        _work(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
