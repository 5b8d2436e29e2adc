"""Hostile files through the process that parses and runs models, alone: how each ends.

    python -m benchmarks.service.hostile_child --count 1000 --seed 0

A file ends with a result or a documented code; or its process ends itself, or is ended by a time limit; or it ends
with the code `internal`, which is a mistake of ours.
"""

from __future__ import annotations

import argparse
import json
import resource
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.service.hostile_models import HostileFile, hostile_file

MEMORY_BYTES = 3 << 30
SECONDS = 40.0
JOBS = 200
"""Of one process, before it is replaced."""

REQUEST = {"weights": {"bits": [8]}, "budget": {"max_drop": 0.02}}
"""A job that passes all stages in little time."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a file ended: `done`, a code of the catalogue, `died` (its process ended itself) or `killed` by the limit."""

    code: str
    detail: str
    seconds: float


Run = Callable[[HostileFile], Ending]


class Child:
    """One process at a time, that takes a file after the other; it is replaced when it is gone."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._folder = tempfile.TemporaryDirectory(prefix="hostile-")
        self._process: subprocess.Popen[str] | None = None
        self._jobs = 0

    def __call__(self, file: HostileFile) -> Ending:
        folder = Path(self._folder.name)
        (folder / "model").write_bytes(file.model)
        paths = [str(folder / "model"), ""]
        if file.dataset is not None:
            paths[1] = str(folder / "dataset")
            Path(paths[1]).write_bytes(file.dataset)
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        began = time.monotonic()
        process.stdin.write(json.dumps(paths) + "\n")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], self.seconds)
        seconds = time.monotonic() - began
        line = process.stdout.readline() if ready else ""
        self._jobs += 1
        if not line:
            code = "died" if ready else "killed"
            return Ending(code, f"{code}, status {self.close()}", seconds)
        answer = json.loads(line)
        return Ending(answer["code"], answer["detail"], seconds)

    def _running(self) -> subprocess.Popen[str]:
        if self._jobs >= JOBS:
            self.close()
        if self._process is None:
            self._jobs = 0
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.service.hostile_child", "--child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            assert self._process.stdout is not None
            if self._process.stdout.readline() != "ready\n":
                raise RuntimeError("the process that takes hostile files does not start")
        return self._process

    def close(self) -> int | None:
        """End the process; its status if it had one."""
        process, self._process = self._process, None
        if process is None:
            return None
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.kill()
        status = process.wait()
        for end in (process.stdin, process.stdout):
            if end is not None:
                with suppress(BrokenPipeError):
                    end.close()
        return status


def _child() -> None:
    """Take files until there are no more."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    import torch

    import pipeline.job
    from pipeline.stage import Machine
    from workers.failures import failure

    torch.set_num_threads(1)
    answers = sys.stdout
    sys.stdout = sys.stderr
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        model, dataset = json.loads(line)
        data = Path(dataset) if dataset else None
        try:
            pipeline.job.plan(Path(model), data, REQUEST, machine=Machine(1, MEMORY_BYTES))
            answer = {"code": "done", "detail": ""}
        except Exception as error:  # noqa: BLE001 - whatever a file brings about is what is counted
            over = failure(error, "?", MEMORY_BYTES)
            detail = _trace(error) if over.fault else over.detail
            answer = {"code": over.code, "detail": detail}
        print(json.dumps(answer), file=answers, flush=True)


def _trace(error: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(error)[-12:])[-4000:]


def endings(files: Iterable[HostileFile], run: Run) -> Iterator[tuple[HostileFile, Ending]]:
    """How each file ends."""
    for file in files:
        yield file, run(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, help="every ending, a line of JSON each")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        _child()
        return
    child, codes = Child(), Counter[str]()
    files = (hostile_file(index, arguments.seed) for index in range(arguments.first, arguments.first + arguments.count))
    try:
        for file, ending in endings(files, child):
            codes[ending.code] += 1
            if ending.code in ("internal", "died", "killed"):
                print(f"{file.name}: {ending.code} after {ending.seconds:.1f} s: {ending.detail}", flush=True)
            if arguments.log:
                with arguments.log.open("a") as log:
                    log.write(json.dumps([file.name, ending.code, round(ending.seconds, 2), ending.detail]) + "\n")
    finally:
        child.close()
    figures = {"hostile_files": arguments.count, "hostile_internal": codes["internal"], "codes": dict(codes)}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
