"""Results of stages and chunks in the database, as a child asks for them: bytes by key, each stored once."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import BinaryIO

from app.store import queue
from app.store.blobs import BlobRef, open_blob_to_file, write_stream
from app.store.engine import Sessions, clock
from app.store.stages import get_stage_result, put_stage_result, remove_stage_results
from app.store.temporary import spooled
from workers.patience import patiently
from workers.wire import PIECE_BYTES, Message, Wire, WireBroken


class Shelf:
    """Answers the questions of one child about the results of one project, and waits for a database that restarts.

    Args:
        check: called while it waits; raises if the job has to stop.
        taken, put: called with the key of what is taken or not there, so that it may be computed now, and of what is
            stored.
    """

    def __init__(
        self,
        sessions: Sessions,
        owner: str,
        lease: timedelta,
        tmp_dir: Path,
        check: Callable[[], None],
        *,
        taken: Callable[[str], None],
        put: Callable[[str], None],
    ) -> None:
        self._sessions = sessions
        self._owner = owner
        self._lease = lease
        self._tmp_dir = tmp_dir
        self._check = check
        self._taken, self._put = taken, put
        self.stored = 0
        """Results that were stored for this child."""

    def answer(self, wire: Wire, question: Message) -> bool:
        """Answer, if it is a question about results; False if it is something else.

        Raises:
            WireBroken: the question is not well formed.
        """
        verb = question.header.get("do")
        if verb not in ("exists", "load", "store", "drop", "take", "give back"):
            return False
        key = question.header.get("key")
        if not isinstance(key, str) or not 1 <= len(key) <= 255 or not key.isascii():
            raise WireBroken(f"the key of a result has 1 to 255 ASCII characters, got {str(key)[:80]!r}")
        if verb == "load":
            blob = self._find(key)
            if blob is None:
                self._taken(key)
            self._send(wire, blob)
        elif verb == "store":
            self._store(wire, key, question)
        else:
            wire.send({"yes": self._simple(verb, key)})
        return True

    def keep(self, parts: Iterable[bytes]) -> BlobRef:
        """Store contents that have no key, such as a result for the user."""
        with tempfile.TemporaryFile(dir=self._tmp_dir) as file:
            size_bytes, digest = spooled(file, parts)

            def write() -> BlobRef:
                file.seek(0)
                return write_stream(self._sessions, _Checked(file, self._check), digest, size_bytes)

            return patiently(write, self._check)

    def _simple(self, verb: str, key: str) -> bool:
        if verb == "exists":
            return self._find(key) is not None
        if verb == "drop":
            return patiently(lambda: remove_stage_results(self._sessions, key) > 0, self._check)
        if verb == "give back":
            return patiently(lambda: self._give_back(key), self._check)
        if taken := patiently(lambda: self._take(key), self._check):
            self._taken(key)
        return taken

    def _take(self, key: str) -> bool:
        with self._sessions.begin() as session:
            now = clock(session)
            return queue.take_chunk(session, key, self._owner, now, now + self._lease)

    def _give_back(self, key: str) -> bool:
        with self._sessions.begin() as session:
            return queue.give_back_chunk(session, key, self._owner)

    def _find(self, key: str) -> BlobRef | None:
        return patiently(lambda: get_stage_result(self._sessions, key), self._check)

    def _store(self, wire: Wire, key: str, question: Message) -> None:
        blob = self.keep(question.parts)

        def put() -> BlobRef:
            counts = put_stage_result(self._sessions, key, blob)
            with self._sessions.begin() as session:
                queue.give_chunk(session, key)
            return counts

        counts = patiently(put, self._check)
        self.stored += 1
        self._put(key)
        if counts == blob:
            wire.send({"yes": True})
        else:
            self._send_contents(wire, {"yes": False}, counts)

    def _send(self, wire: Wire, blob: BlobRef | None) -> None:
        if blob is None:
            wire.send({"yes": False})
        else:
            self._send_contents(wire, {"yes": True}, blob)

    def _send_contents(self, wire: Wire, answer: dict[str, bool], blob: BlobRef) -> None:
        """Fetch all before the first byte is sent: what has been sent cannot be fetched again."""
        with tempfile.TemporaryDirectory(dir=self._tmp_dir) as folder:
            path = Path(folder) / "contents"
            patiently(lambda: open_blob_to_file(self._sessions, blob, path, self._check), self._check)
            with path.open("rb") as file:
                wire.send(answer, iter(partial(file.read, PIECE_BYTES), b""), blob.size_bytes)


class _Checked:
    """A file that is read by others, and asks for every piece whether to go on."""

    def __init__(self, file: BinaryIO, check: Callable[[], None]) -> None:
        self._file = file
        self._check = check

    def read(self, size: int, /) -> bytes:
        self._check()
        return self._file.read(size)
