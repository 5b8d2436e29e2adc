"""One job in a child: handed over, its questions answered, its reports passed on, its end received."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from app.errors import CATALOGUE, AppError
from app.schemas.job_request import uploaded_as
from app.schemas.parsing import parse_stored
from app.store.blobs import BlobRef, open_blob_to_file
from app.store.engine import Sessions
from app.store.uploads import upload_blob
from pipeline.events import Event
from pipeline.stage import OUTCOMES, Machine
from workers.child_process import Child, ChildGone
from workers.failures import Failure
from workers.observer import parse_event, storable_object
from workers.patience import patiently
from workers.store import Shelf
from workers.uploads import Uploads
from workers.wire import Message, WireBroken, WireClosed

ARTIFACTS = frozenset({"model", "plan", "ort", "aimet", "frontier", "sensitivity", "samples", "certificate"})


_IN_THE_WAY = frozenset({errno.ELOOP, errno.EEXIST, errno.ENOTDIR, errno.ENOENT, errno.EACCES, errno.EPERM})


@dataclass(frozen=True, slots=True)
class Task:
    """What a child is to do: a job, or helping with one, whose result is then nobody's."""

    job_id: str
    request: Mapping[str, Any]
    machine: Machine
    elapsed_seconds: float = 0.0
    helping: bool = False


@dataclass(frozen=True, slots=True)
class Outputs:
    """How the job ended that a child ran to its end; empty for help with one."""

    outcome: str
    summary: Mapping[str, Any]
    artifacts: Mapping[str, BlobRef]


class Conversation:
    """Between the worker and `child`, about one task.

    Args:
        sessions: about the project of the job.
        observe: takes what is reported.
        check: raises if the job has to stop; called at least ten times a second while nothing comes.
    """

    def __init__(
        self,
        child: Child,
        sessions: Sessions,
        uploads: Uploads,
        shelf: Shelf,
        observe: Callable[[Event], None],
        check: Callable[[], None],
    ) -> None:
        self._child = child
        self._sessions = sessions
        self._uploads = uploads
        self._shelf = shelf
        self._observe = observe
        self._check = check
        self._artifacts: dict[str, BlobRef] = {}
        self._helping = False

    def hold(self, task: Task) -> Outputs | Failure:
        """Hand the task over, and stay with it to its end. Whatever ends it otherwise leaves a child of no more use.

        Raises:
            ChildGone: the process ended, or said what makes no sense.
            AppError: an upload is gone.
        """
        self._helping = task.helping
        try:
            self._child.wait_until_ready(self._check)
            self._child.wire.send(self._header(task))
            while True:
                self._check()
                message = self._child.wire.receive()
                end = None if message is None else self._take(message)
                if end is not None:
                    return end
        except WireClosed as error:
            raise ChildGone(self._child.ending()) from error
        except WireBroken as error:
            raise ChildGone(f"does not keep to the protocol: {error}") from error

    def _header(self, task: Task) -> dict[str, Any]:
        folder = self._child.new_folder()
        uploads = parse_stored(dict(task.request)).uploads
        return {
            "do": "help" if task.helping else "run",
            "job_id": task.job_id,
            "request": dict(task.request),
            "machine": asdict(task.machine),
            "elapsed_seconds": task.elapsed_seconds,
            "uploads": {kind: [str(self._fetch(kind, sha, folder)), sha] for kind, sha in uploads.items()},
        }

    def _fetch(self, kind: str, digest: str, folder: Path) -> Path:
        def fetch(path: Path) -> Path:
            with self._sessions.read() as session:
                blob = upload_blob(session, uploaded_as(kind), digest)
            if blob is None:
                raise AppError("not_found", f"The {kind} {digest} of this job was removed; upload it again.")
            return open_blob_to_file(self._sessions, blob, path, self._check)

        project_id = self._sessions.project_id or ""
        try:
            return patiently(
                lambda: self._uploads.copy(project_id, digest, fetch, folder, kind, self._check), self._check
            )
        except OSError as error:
            if error.errno in _IN_THE_WAY:
                raise ChildGone("put something in the way of its files") from error
            raise

    def _take(self, message: Message) -> Outputs | Failure | None:
        if self._shelf.answer(self._child.wire, message):
            return None
        header = message.header
        match header.get("do"):
            case "event":
                self._observe(parse_event(header))
            case "artifact":
                kind = str(header.get("key"))
                if kind not in ARTIFACTS or kind in self._artifacts:
                    raise WireBroken("a result of another kind than jobs have, or twice the same")
                self._artifacts[kind] = self._shelf.keep(message.parts)
            case "result":
                outcome, summary = str(header.get("outcome")), header.get("summary")
                if outcome not in OUTCOMES or not isinstance(summary, dict):
                    raise WireBroken("a result without an outcome and a summary")
                return Outputs(outcome, storable_object(summary), self._artifacts)
            case "helped" if self._helping:
                return Outputs("", {}, {})
            case "failed":
                return _failure(header)
            case verb:
                raise WireBroken(f"no message does {str(verb)[:80]!r} so")
        return None


def _failure(header: Mapping[str, Any]) -> Failure:
    code, detail = header.get("code"), header.get("detail")
    if not isinstance(code, str) or code not in CATALOGUE or not isinstance(detail, str):
        raise WireBroken("a job failed with an error that the catalogue does not have")
    return Failure(code, detail, fault=bool(header.get("fault")), text=str(header.get("text") or ""))
