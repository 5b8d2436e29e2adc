"""Results of stages and chunks in the database: bytes by key, each stored once however many workers compute it."""

from __future__ import annotations

from collections.abc import Callable

from app.store.blobs import read_bytes, write_bytes
from app.store.engine import Sessions
from app.store.stages import get_stage_result, put_stage_result, remove_stage_results
from workers.patience import patiently


class DatabaseStore:
    """A `pipeline.store.Store` that waits for a database that restarts.

    Args:
        check: called while it waits; raises if the job has to stop.
    """

    def __init__(self, sessions: Sessions, check: Callable[[], None]) -> None:
        self._sessions = sessions
        self._check = check

    def exists(self, key: str) -> bool:
        return patiently(lambda: get_stage_result(self._sessions, key) is not None, self._check)

    def load(self, key: str) -> bytes | None:
        def load() -> bytes | None:
            blob = get_stage_result(self._sessions, key)
            return None if blob is None else read_bytes(self._sessions, blob)

        return patiently(load, self._check)

    def store(self, key: str, data: bytes) -> bytes:
        def store() -> bytes:
            written = write_bytes(self._sessions, data)
            counts = put_stage_result(self._sessions, key, written)
            return data if counts == written else read_bytes(self._sessions, counts)

        return patiently(store, self._check)

    def take(self, key: str) -> bool:  # noqa: ARG002 - one worker has the whole job
        return True

    def drop(self, prefix: str) -> None:
        patiently(lambda: remove_stage_results(self._sessions, prefix), self._check)
