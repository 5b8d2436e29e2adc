"""Describes uploads beside the worker's job, each in a process of its own: nobody waits for a job to look at a file."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from typing import Any

from pydantic import ValidationError

from app.errors import CATALOGUE
from app.schemas.descriptions import OF_KIND
from app.settings import Settings
from app.store import descriptions
from app.store.blobs import open_blob_to_file
from app.store.descriptions import Ask
from app.store.engine import Sessions, clock
from app.store.statements import storable
from app.store.uploads import upload_blob
from workers.child_process import Child, ChildGone
from workers.limits import ChildTooLarge, MemoryWatch
from workers.observer import storable_object
from workers.patience import UNREACHABLE
from workers.wire import WireBroken, WireClosed

logger = logging.getLogger(__name__)

PIPELINE = "pipeline.describing"
LOOK_SECONDS = 1.0
"""How soon a worker that is busy with a job, which no message reaches, finds that a description is asked for."""
MOST_SECONDS = 60.0
"""Of looking into a file; a slow storage and a busy machine may take longer until it is there."""
MOST_MEMORY_BYTES = 3 << 29
"""Where memory is limited at all: this process runs beside that of a job, which may take the whole limit."""
MOST_BYTES = 1 << 20
DETAIL_LIMIT = 10_000


class Stopped(Exception):
    """The worker ends, or another one is at it."""


class Refusal(Exception):
    """The upload cannot be described: a code of the catalogue, and a text with a remedy."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(code, detail)
        self.code, self.detail = code, detail


class Describer:
    """A thread of the worker `name`, as long as that lives: the kernel ends a child with the thread that started it."""

    def __init__(self, settings: Settings, sessions: Sessions, name: str) -> None:
        limit = settings.worker_memory_bytes
        limit = None if limit is None else min(limit, MOST_MEMORY_BYTES)
        self._settings = settings.model_copy(update={"worker_memory_bytes": limit})
        self._sessions = sessions
        self._owner = name
        self._look = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="descriptions", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """There may be something to describe."""
        self._look.set()

    def close(self) -> None:
        """End what it is at, which is free for others then, and wait for that."""
        self._stopping.set()
        self._look.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                while not self._stopping.is_set() and (taken := self._take()) is not None:
                    self._make(taken)
            except UNREACHABLE as error:
                logger.warning("descriptions wait, the database or the storage does not answer: %s", error)
            except Exception:
                logger.exception("a description was not finished")
            self._look.wait(LOOK_SECONDS)
            self._look.clear()

    def _take(self) -> Ask | None:
        with self._sessions.read() as session:
            if not descriptions.waiting(session, clock(session)):
                return None
        with self._sessions.begin() as session:
            now = clock(session)
            return descriptions.take(session, self._owner, now, now + self._settings.lease)

    def _make(self, taken: Ask) -> None:
        lost = taken.attempts - 1
        values = self._outcome(taken) if lost < self._settings.max_attempts else _given_up(lost)
        with self._sessions.begin() as session:
            descriptions.end(session, taken, self._owner, values)

    def _outcome(self, taken: Ask) -> dict[str, Any]:
        """How it ended, as its row holds it.

        Raises:
            UNREACHABLE: the file cannot be had now. It is free for all again when its lease has ended.
        """
        logger.info("%s %s: described", taken.kind, taken.upload_id)
        try:
            return {"state": "ready", "document": self._document(taken)}
        except Stopped:
            return {"state": "pending", "attempts": taken.attempts - 1}
        except Refusal as refusal:
            detail = storable(refusal.detail, DETAIL_LIMIT)
            return {"state": "failed", "problem_code": refusal.code, "problem_detail": detail}
        except UNREACHABLE:
            raise
        except (ChildGone, ChildTooLarge, WireBroken, WireClosed, ValidationError, OSError) as error:
            logger.warning("%s %s: not described: %s", taken.kind, taken.upload_id, error)
        except Exception:
            logger.exception("%s %s: not described", taken.kind, taken.upload_id)
        return {"state": "pending"} if taken.attempts < self._settings.max_attempts else _given_up(taken.attempts)

    def _document(self, taken: Ask) -> dict[str, Any]:
        sessions = self._sessions.of(taken.project_id)
        child = Child(self._settings, PIPELINE)
        keep_at, end = 0.0, math.inf
        memory = MemoryWatch(child.memory_bytes, self._settings.worker_memory_bytes)

        def check() -> None:
            nonlocal keep_at
            memory.check()
            now = time.monotonic()
            if self._stopping.is_set():
                raise Stopped
            if now > end:
                raise Refusal("time_limit", f"Looking into the file took more than {MOST_SECONDS:.0f} s.")
            if now > keep_at:
                keep_at = now + self._settings.heartbeat_seconds
                with self._sessions.begin() as session:
                    if not descriptions.keep(session, taken, self._owner, clock(session) + self._settings.lease):
                        raise Stopped

        try:
            child.wait_until_ready(check)
            path = child.new_folder() / taken.kind
            with sessions.read() as session:
                blob = upload_blob(session, taken.kind, taken.upload_id)
            if blob is None:
                raise Stopped  # its description went with it
            open_blob_to_file(sessions, blob, path, check)
            end = time.monotonic() + MOST_SECONDS
            most = self._settings.max_dataset_bytes
            child.wire.send({"do": "describe", "kind": taken.kind, "path": str(path), "max_bytes": most})
            while (message := child.wire.receive()) is None:
                check()
            return _document(taken.kind, message.header)
        finally:
            child.kill()


def _given_up(attempts: int) -> dict[str, Any]:
    detail = (
        f"{attempts} attempts in turn to look into this file ended before there was an answer. The usual reasons are a "
        "file that crashes its reader, too little memory, and storage that does not answer: see the log of the worker."
    )
    return {"state": "failed", "problem_code": "worker_lost", "problem_detail": detail}


def _document(kind: str, header: dict[str, Any]) -> dict[str, Any]:
    if header.get("do") == "failed" and header.get("code") in CATALOGUE:
        raise Refusal(str(header["code"]), str(header.get("detail")))
    if header.get("do") != "described":
        raise WireBroken("no description")
    document = OF_KIND[kind].model_validate_json(json.dumps(header.get("document")))
    return storable_object(document.model_dump(mode="json", exclude={"state"}), MOST_BYTES)
