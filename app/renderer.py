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
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from app.errors import AppError

LONGEST_SECONDS = 60.0
"""That one file may take; those before it are waited for as long."""
MOST_WAITING = 16
"""Requests that may wait at once: each holds a thread of the server."""
MEMORY_BYTES = 2 * 1024**3
"""That the process may write to; it needs some 200 MB."""

_PASSED_ON = ("PATH", "HOME", "LANG", "PYTHONPATH", "TMPDIR", "FONTCONFIG_PATH")


@dataclass(frozen=True)
class Drawing:
    """A file of a report that is wanted.

    Args:
        file: as `report.files.make` names it.
        documents: contents by kind, as they are stored.
        job: what the report says of the job itself.
    """

    file: str
    documents: Mapping[str, bytes]
    theme: str = "light"
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    job: Mapping[str, Any] = field(default_factory=dict)


class Renderer:
    """Draws, in a process of its own, what is asked for by any thread.

    The process ends by itself when nothing is asked for, and is started anew when it is gone.
    """

    def __init__(self, longest_seconds: float = LONGEST_SECONDS) -> None:
        self._longest_seconds = longest_seconds
        self._guard = threading.Lock()
        self._places = threading.BoundedSemaphore(MOST_WAITING)
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self, drawing: Drawing) -> bytes:
        """The file.

        Raises:
            AppError: `artifact_missing` where the job has nothing to show in it; `report_unavailable` where it took
                too long, or too many wait.
        """
        if not self._places.acquire(blocking=False):
            raise _busy()
        try:
            if not self._guard.acquire(timeout=self._longest_seconds):
                raise _busy()
            try:
                return self._drawn(drawing)
            finally:
                self._guard.release()
        finally:
            self._places.release()

    def close(self) -> None:
        """End the process, if it runs."""
        with self._guard:
            self._end()

    def _drawn(self, drawing: Drawing) -> bytes:
        answer = self._asked(drawing)
        if answer is None:  # it ended between two requests, or by this one
            answer = self._asked(drawing)
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

    def _asked(self, drawing: Drawing) -> tuple[Mapping[str, Any], bytes] | None:
        """Header and contents of the answer; None where the process is gone before it gave one."""
        process = self._running()
        stdin, stdout = process.stdin, process.stdout
        if stdin is None or stdout is None:
            raise LookupError("the process that draws was started without pipes")
        timer = threading.Timer(self._longest_seconds, process.kill)
        timer.start()
        try:
            header = {
                "file": drawing.file,
                "theme": drawing.theme,
                "stage_seconds": dict(drawing.stage_seconds),
                "job": dict(drawing.job),
                "documents": {kind: len(document) for kind, document in drawing.documents.items()},
            }
            stdin.write(json.dumps(header).encode() + b"\n")
            for document in drawing.documents.values():
                stdin.write(document)
            stdin.flush()
            line = stdout.readline()
            answer: Mapping[str, Any] = json.loads(line) if line else {}
            contents = stdout.read(answer.get("bytes", 0))
            if answer and len(contents) == answer.get("bytes", 0):
                return answer, contents
        except OSError:  # a broken pipe
            pass
        finally:
            timer.cancel()
        self._end()
        return None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._process = subprocess.Popen(  # noqa: S603 - our own command line
                [sys.executable, "-P", "-m", "report", "--memory-bytes", str(MEMORY_BYTES)],
                env={name: os.environ[name] for name in _PASSED_ON if name in os.environ},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # a signal from the terminal is for the service, which then ends it
            )
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        with suppress(OSError):
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()
        process.wait()


def _busy() -> AppError:
    return AppError(
        "report_unavailable",
        "many reports are drawn just now; try again in a few seconds",
        headers={"Retry-After": "5"},
    )
