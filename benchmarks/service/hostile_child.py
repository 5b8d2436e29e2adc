"""Hostile files through the process that parses and runs models, alone: how each ends.

    python -m benchmarks.service.hostile_child --count 10000 --seed 0

The process is that of a worker, with its walls and limits, and this is its worker: it keeps the results of stages, and
kills the process at the end of a stage's time. A file ends with a result, or with a code of the catalogue (which
`internal`, a mistake of ours, should never be). Or its process ends itself, or has to be killed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from app.errors import CATALOGUE
from app.schemas.parsing import parse_request, with_uploads
from app.settings import Settings
from benchmarks.service.hostile_models import HostileFile, hostile_file, hostile_files, kind_of
from pipeline.events import StageBegan
from pipeline.stage import Machine
from pipeline.store import MemoryStore
from workers.child_process import Child, ChildGone
from workers.observer import parse_event
from workers.wire import Message, WireBroken, WireClosed

MOST_SECONDS = 60.0
MEMORY_BYTES = 3 << 30
JOBS = 100
"""Of one process, before it is replaced. A worker replaces it sooner; loading torch takes seconds."""

GRACE_SECONDS = 30.0
"""Beyond the time limit of its stage, after which a file counts as stuck."""

REQUEST = {"weights": {"bits": [8]}, "budget": {"max_drop": 0.02}}
"""A job that passes all stages in little time."""

DONE, DIED, KILLED, STUCK = "done", "died", "killed", "stuck"


@dataclass(frozen=True, slots=True)
class Ending:
    """How a file ended.

    `code`: `done`, a code of the catalogue, `died` (its process ended itself), `killed` (by the limit of a stage, as a
    worker does it), or `stuck` (the process could not be ended in time).
    """

    code: str
    detail: str
    seconds: float


Run = Callable[[HostileFile], Ending]


class Worker:
    """Gives one file after the other to a child, and takes another when it is gone.

    Args:
        folder: for the child's own folder.
        most_seconds: of a stage, where its own limit is longer.
    """

    def __init__(self, folder: Path, most_seconds: float) -> None:
        # the folders of a home, no database: what a child reads of the settings
        self._settings = Settings(home=folder, worker_memory_bytes=MEMORY_BYTES, worker_threads=1)
        self._settings.tmp_dir.mkdir(parents=True, exist_ok=True)
        self._most_seconds = most_seconds
        self._child: Child | None = None

    def __call__(self, file: HostileFile) -> Ending:
        """How the file ends."""
        if self._child is not None and (self._child.jobs >= JOBS or not self._child.has_room):
            self.close()
        if self._child is None:
            self._child = Child(self._settings, "pipeline.table")
            self._child.wait_until_ready(lambda: None)
        began = time.monotonic()
        try:
            code, detail = self._converse(self._child, file)
        except (WireClosed, WireBroken, ChildGone) as error:
            code, detail = DIED, self._child.ending() if isinstance(error, WireClosed) else str(error)
        seconds = time.monotonic() - began
        if code in (DIED, KILLED):
            self.close()
            ended_in = time.monotonic() - began
            if ended_in > seconds + GRACE_SECONDS:
                return Ending(STUCK, f"its process ended only after {ended_in:.0f} s", ended_in)
        return Ending(code, detail, seconds)

    def close(self) -> None:
        """End the process, if there is one."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()

    def _converse(self, child: Child, file: HostileFile) -> tuple[str, str]:
        child.wire.send(self._header(child, file))
        store, stage = MemoryStore(), "start"
        end = time.monotonic() + self._most_seconds
        while time.monotonic() < end:
            message = child.wire.receive()
            if message is None or _answered(child, store, message):
                continue
            header = message.header
            if header["do"] == "event":
                event = parse_event(header)
                if isinstance(event, StageBegan):
                    stage = event.stage
                    end = time.monotonic() + min(self._most_seconds, event.time_limit.total_seconds())
            elif header["do"] == "failed":
                if header["code"] not in CATALOGUE:
                    raise WireBroken(f"the catalogue does not have {header['code']}")
                return header["code"], str(header["text"] or header["detail"])
            elif header["do"] == "result":
                return DONE, ""
            elif header["do"] == "artifact":
                message.read()
            else:
                raise WireBroken(f"no message does {header['do']!r}")
        return KILLED, f"in the stage {stage}"

    def _header(self, child: Child, file: HostileFile) -> dict[str, object]:
        folder = child.new_folder()
        uploads = {}
        for kind, data in (("model", file.model), ("dataset", file.dataset)):
            if data is not None:
                (folder / kind).write_bytes(data)
                uploads[kind] = [str(folder / kind), hashlib.sha256(data).hexdigest()]
        request = parse_request(with_uploads(REQUEST, {kind: digest for kind, (_, digest) in uploads.items()}))
        return {
            "do": "run",
            "job_id": hashlib.sha256(file.name.encode()).hexdigest()[:32],
            "request": request.model_dump(mode="json"),
            "machine": asdict(Machine(1, MEMORY_BYTES)),
            "elapsed_seconds": 0.0,
            "uploads": uploads,
        }


def _answered(child: Child, store: MemoryStore, question: Message) -> bool:
    """Whether it was a question about results, which then is answered."""
    verb, key = question.header["do"], str(question.header.get("key"))
    if verb == "store":
        store.store(key, question.read())
        child.wire.send({"yes": True})
    elif verb == "load":
        data = store.load(key)
        child.wire.send({"yes": data is not None}, () if data is None else (data,), len(data or b""))
    elif verb == "drop":
        store.drop(key)
        child.wire.send({"yes": True})
    elif verb == "give back":
        child.wire.send({"yes": True})  # nobody else takes anything
    elif verb in ("exists", "take"):
        child.wire.send({"yes": store.exists(key) if verb == "exists" else store.take(key)})
    else:
        return False
    return True


def endings(files: Iterable[HostileFile], run: Run) -> Iterator[tuple[HostileFile, Ending]]:
    """How each file ends."""
    for file in files:
        yield file, run(file)


def figures(codes: Counter[str]) -> dict[str, int]:
    """What counts of how files ended."""
    return {
        "hostile_child_models": codes.total(),
        "hostile_child_documented": sum(codes[code] for code in (DONE, *CATALOGUE) if code != "internal"),
        "hostile_child_internal": codes["internal"],
        "hostile_child_died": codes[DIED],
        "hostile_child_killed": codes[KILLED],
        "hostile_child_stuck": codes[STUCK],
    }


def hostile_child(count: int, seed: int = 0) -> dict[str, int]:
    """So many files, each as a job in a process of its own kind."""
    codes = Counter[str]()
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        worker = Worker(Path(folder), MOST_SECONDS)
        try:
            for file, ending in endings(hostile_files(count, seed), worker):
                codes[ending.code] += 1
                if ending.code in ("internal", STUCK):
                    sys.stderr.write(f"{file.name}: {ending.code}: {ending.detail}\n")
        finally:
            worker.close()
    return figures(codes)


def _files(arguments: argparse.Namespace) -> Iterator[HostileFile]:
    kinds = None if arguments.kinds is None else set(arguments.kinds.split(","))
    for index in range(arguments.first, arguments.first + arguments.count):
        if kinds is None or kind_of(index, arguments.seed) in kinds:
            yield hostile_file(index, arguments.seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="begin at this place of the list")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", help="of these kinds alone, separated by commas")
    parser.add_argument(
        "--most-seconds", type=float, default=MOST_SECONDS, help="of a stage, where its limit is longer"
    )
    parser.add_argument("--log", type=Path, help="every ending, a line of JSON each")
    arguments = parser.parse_args()
    codes = Counter[str]()
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        worker = Worker(Path(folder), arguments.most_seconds)
        files = _files(arguments)
        try:
            for file, ending in endings(files, worker):
                codes[ending.code] += 1
                if ending.code in ("internal", DIED, KILLED, STUCK):
                    print(f"{file.name}: {ending.code} after {ending.seconds:.1f} s: {ending.detail}", flush=True)
                if arguments.log:
                    with arguments.log.open("a") as log:
                        log.write(json.dumps([file.name, *asdict(ending).values()]) + "\n")
        finally:
            worker.close()
    print(json.dumps(dict(codes.most_common())))
    print(json.dumps(figures(codes)))


if __name__ == "__main__":
    main()
