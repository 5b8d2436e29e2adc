"""Several processes that work on the same job, on a folder of results that writes down who stores what.

    python -m tests.pipeline.job_process

reads commands, a line of JSON each, and answers each with a line. To import the pipeline takes seconds, so this process
does so once, and every other one is forked from it:

    ["begin", FOLDER, "leader" or "helper", null or [STAGE, NUMBER]]   its process number
    ["wait", PROCESS]                                                  its exit status, once it has ended
    ["poll", PROCESS]                                                  the same, or null while it runs

FOLDER holds `model.onnx`, `data.npz` and `request.json`, and gets the artifacts as `result/KIND`. Every stored result
becomes a line `pid stage key` of the file `stored`. Where chunks of a stage are open, the leader waits until another
process has stored one, so that all take part. A process that is told so kills itself when it has taken chunk NUMBER of
STAGE and not begun it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from app.schemas.parsing import parse_request, with_uploads
from pipeline.events import Event, Progress, Spread
from pipeline.process import settle
from pipeline.run import run
from pipeline.stage import Machine, Upload
from pipeline.store import FolderStore
from pipeline.table import TABLE


class WatchedStore(FolderStore):
    """A folder of results; `dies` is a stage and the number of the chunk that ends this process."""

    def __init__(self, folder: Path, dies: tuple[str, int] | None) -> None:
        super().__init__(folder / "cache")
        self._file = folder / "stored"
        self._dies = dies
        self._took = 0
        self.stage = "none"

    def lines(self) -> list[list[str]]:
        return [line.split() for line in self._file.read_text().splitlines()] if self._file.exists() else []

    def store(self, key: str, data: bytes) -> bytes:
        self._write(key)
        return super().store(key, data)

    def take(self, key: str) -> bool:
        taken = super().take(key)
        if taken and self._dies is not None and self._dies[0] == self.stage:
            self._took += 1
            if self._took == self._dies[1]:
                self._write("killed")
                os.kill(os.getpid(), signal.SIGKILL)
        return taken

    def _write(self, word: str) -> None:
        with self._file.open("a") as file:
            file.write(f"{os.getpid()} {self.stage} {word}\n")


def work(folder: Path, role: str, dies: tuple[str, int] | None) -> None:
    store = WatchedStore(folder, dies)
    waited: set[str] = set()

    def report(event: Event) -> None:
        if isinstance(event, Progress):
            store.stage = event.stage
        # One that is to die in this stage waits for nobody there: others might leave it nothing to die of.
        dying = dies is not None and isinstance(event, Spread) and dies[0] == event.stage
        if role == "leader" and isinstance(event, Spread) and event.open and event.stage not in waited and not dying:
            waited.add(event.stage)
            while not any(int(pid) != os.getpid() and stage == event.stage for pid, stage, _ in store.lines()):
                time.sleep(0.01)

    uploads = {"model": Upload.of(folder / "model.onnx"), "dataset": Upload.of(folder / "data.npz")}
    members = json.loads((folder / "request.json").read_text())
    request = parse_request(with_uploads(members, {kind: upload.sha256 for kind, upload in uploads.items()}))
    arguments = {"cache": store, "progress": report, "machine": Machine(threads=1), "job_id": "job"}
    if role == "helper":
        run(TABLE, request, uploads, helping=True, **arguments)
        return
    result = run(TABLE, request, uploads, **arguments)
    (folder / "result").mkdir()
    for kind, data in result.artifacts.items():
        (folder / "result" / kind).write_bytes(data)


def main() -> None:
    settle(threads=1)
    for line in sys.stdin:
        command, *arguments = json.loads(line)
        if command == "begin":
            answer: int | None = os.fork()
            if answer == 0:
                os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # answers are the first process's
                folder, role, dies = arguments
                work(Path(folder), role, dies and tuple(dies))
                return
        else:
            process, status = os.waitpid(arguments[0], os.WNOHANG if command == "poll" else 0)
            answer = os.waitstatus_to_exitcode(status) if process else None
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
