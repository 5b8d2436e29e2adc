"""The process that draws charts and writes reports, from outside: started when something is asked for, one at a time.

The library behind the charts computes for seconds without letting other threads run, and what it draws came from an
upload: it must neither stop nor endanger the process that answers requests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from app.errors import AppError

LONGEST_SECONDS = 60.0
"""That one file may take; those before it are waited for as long."""
MOST_WAITING = 16
"""Requests that may wait at once: each holds a thread of the server."""
MOST_OF_A_PROJECT = 10
"""Of these, requests of one project: more than the six that a browser has open at once."""
MEMORY_BYTES = 1024**3
"""That the process may map to write to. The library behind the charts maps 0.7 GB and uses 0.2 GB of it, so that 0.5 GB
can be in use: that fits beside the API in a container of 1 GB."""

KEPT_BYTES = 32 * 1024**2
"""Of what was drawn last: reports take 0.3 to 5 MB, and people come back to them."""

_PASSED_ON = ("PATH", "HOME", "LANG", "PYTHONPATH", "TMPDIR", "FONTCONFIG_PATH")


@dataclass(frozen=True, slots=True)
class Source:
    """A document, read only when it is its turn: one can have hundreds of megabytes.

    Args:
        pieces: reads it from its start, `size_bytes` in all.
    """

    size_bytes: int
    pieces: Callable[[], Iterable[bytes]]

    @classmethod
    def of(cls, contents: bytes) -> Source:
        """A document that is in memory already."""
        return cls(len(contents), lambda: [contents])


@dataclass(frozen=True)
class Drawing:
    """A file of a report that is wanted.

    Args:
        file: as `report.files.make` names it.
        documents: contents by kind, as they are stored.
        job: what the report says of the job itself.
        tag: the same for the same file, which is kept; none: it is not.
    """

    file: str
    documents: Mapping[str, Source]
    theme: str = "light"
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    job: Mapping[str, Any] = field(default_factory=dict)
    tag: str = ""


class Renderer:
    """Draws, in a process of its own, what is asked for by any thread.

    The process ends by itself when nothing is asked for, and is started anew when it is gone.
    """

    def __init__(self, longest_seconds: float = LONGEST_SECONDS) -> None:
        self._longest_seconds = longest_seconds
        self._guard = threading.Lock()
        self._waiting: Counter[str | None] = Counter()
        self._of_waiting = threading.Lock()
        self._of_kept = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False
        self._kept: OrderedDict[tuple[str | None, str], bytes] = OrderedDict()  # what was asked for last comes last

    def __call__(self, drawing: Drawing, project_id: str | None) -> bytes:
        """The file.

        Args:
            project_id: whose request it is; None where there are no projects.

        Raises:
            AppError: `artifact_missing` where the job has nothing to show in it; `report_unavailable` where it took
                too long, or too many wait.
        """
        key = project_id, drawing.tag
        if (contents := self._found(key)) is not None:
            return contents
        with self._place(project_id):
            if not self._guard.acquire(timeout=self._longest_seconds):
                raise _busy()
            try:
                contents = self._found(key)  # somebody else may have asked for the same
                if contents is None:
                    contents = self._drawn(drawing)
                    self._keep(key, contents)
                return contents
            finally:
                self._guard.release()

    def close(self) -> None:
        """End the process, if it runs, whatever it draws; nothing is drawn any more."""
        self._closed = True
        process = self._process
        if process is not None:
            process.kill()  # before its turn: whoever waits for an answer gets none
        with self._guard:
            self._end()

    def _found(self, key: tuple[str | None, str]) -> bytes | None:
        with self._of_kept:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def _keep(self, key: tuple[str | None, str], contents: bytes) -> None:
        _, tag = key
        with self._of_kept:
            if tag:
                self._kept[key] = contents
            while sum(map(len, self._kept.values())) > KEPT_BYTES:
                self._kept.popitem(last=False)

    @contextmanager
    def _place(self, project_id: str | None) -> Iterator[None]:
        with self._of_waiting:
            if self._waiting.total() >= MOST_WAITING or self._waiting[project_id] >= MOST_OF_A_PROJECT:
                raise _busy()
            self._waiting[project_id] += 1
        try:
            yield
        finally:
            with self._of_waiting:
                self._waiting -= Counter([project_id])  # which forgets a project that has none left

    def _drawn(self, drawing: Drawing) -> bytes:
        was_running = self._process is not None
        late = threading.Event()
        answer = self._asked(drawing, late)
        if answer is None and was_running and not late.is_set():  # it may have ended before it read this request
            answer = self._asked(drawing, late)
        if answer is None:
            raise AppError(
                "report_unavailable",
                f"{drawing.file} could not be drawn within {self._longest_seconds:.0f} s and the memory for it; the "
                "documents that it shows can be downloaded as JSON",
            )
        header, contents = answer
        if "missing" in header:
            raise AppError("artifact_missing", str(header["missing"]))
        return contents

    def _asked(self, drawing: Drawing, late: threading.Event) -> tuple[Mapping[str, Any], bytes] | None:
        """Header and contents of the answer; None where the process is gone before it gave one.

        Args:
            late: is set where the process was ended because it took too long.
        """
        process = self._running()
        stdin, stdout = process.stdin, process.stdout
        if stdin is None or stdout is None:
            raise LookupError("the process that draws was started without pipes")

        def give_up() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(self._longest_seconds, give_up)
        timer.start()
        try:
            header = {
                "file": drawing.file,
                "theme": drawing.theme,
                "stage_seconds": dict(drawing.stage_seconds),
                "job": dict(drawing.job),
                "documents": {kind: source.size_bytes for kind, source in drawing.documents.items()},
            }
            stdin.write(json.dumps(header).encode() + b"\n")
            for source in drawing.documents.values():
                for piece in source.pieces():
                    stdin.write(piece)
            stdin.flush()
            line = stdout.readline()
            if line.endswith(b"\n"):
                answer: Mapping[str, Any] = json.loads(line)
                contents = stdout.read(answer.get("bytes", 0))
                if len(contents) == answer.get("bytes", 0):
                    return answer, contents
        except BrokenPipeError:
            pass
        except BaseException:  # an answer that nobody has read would be that of the next request
            self._end()
            raise
        finally:
            timer.cancel()
        self._end()
        return None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._closed:
            raise _busy()
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._process = subprocess.Popen(  # noqa: S603 - our own command line
                [sys.executable, "-P", "-m", "report", "--memory-bytes", str(MEMORY_BYTES)],
                env={name: os.environ[name] for name in _PASSED_ON if name in os.environ},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # a signal from the terminal is for the service, which then ends it
            )
            if self._closed:  # meanwhile
                self._process.kill()
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):  # what was not sent yet
                    stream.close()
        process.wait()


def _busy() -> AppError:
    return AppError(
        "report_unavailable",
        "many reports are drawn just now; try again in a few seconds",
        headers={"Retry-After": "5"},
    )
