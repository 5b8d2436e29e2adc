"""Downloads, as steps: what broke off goes on where it stopped, and what arrived is compared with its digest."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

from bitbudget_client.documents import Job
from bitbudget_client.errors import Damaged, Problem
from bitbudget_client.sources import PART_BYTES
from bitbudget_client.steps import Call, Patience, Steps, Work, checked

OF_A_PLAN = {"model.onnx": "model.onnx", "plan.json": "plan", "plan.csv": "plan?format=csv"}
OF_A_SEARCH = {"frontier.json": "frontier", "sensitivity.json": "sensitivity"}
OF_A_CERTIFICATE = {"certificate.json": "certificate"}

_NO_DIGEST = "0" * 64
"""Of an answer that names none: tables are made for it."""
_TAG = re.compile(r'"([0-9a-f]{64})"')

Received = Callable[[str, int, int], None]
"""Is told what arrives, the bytes that have so far, and how many there are (0: not known)."""


def results_of(job: Job) -> Mapping[str, str]:
    """What a job that succeeded gives: file name by address below the job."""
    if job.certifies:
        return OF_A_CERTIFICATE
    return OF_A_PLAN if job.applies_plan else {**OF_A_PLAN, **OF_A_SEARCH}


def download(address: str, path: Path, seconds: float, received: Received) -> Steps[Path]:
    """The result at `address` as the file `path`, which is there whole or not at all.

    Goes on as long as it comes further within `seconds`; also with what an earlier call had got.

    Raises:
        Damaged: the bytes do not have the digest that the server named.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, patience = _Partial(path, received), Patience(seconds)
    while True:
        before = partial.size_bytes
        try:
            checked((yield Call("GET", address, headers=partial.headers(), receiver=partial.receive)))
        except (httpx.TransportError, Problem) as error:
            if isinstance(error, Problem) and error.code == "range_unsatisfiable":
                partial.forget()
                continue
            if partial.size_bytes > before:
                patience.renew()
            pause = patience.pause(error)
        else:
            yield Work(partial.finish)
            return path
        yield pause


class _Partial:
    """The bytes that have arrived, in a file whose name says of what: `.NAME.DIGEST.part`."""

    def __init__(self, path: Path, received: Received) -> None:
        self._path = path
        self._received = received
        left = path.parent.glob(f".{_literal(path.name)}.{'[0-9a-f]' * len(_NO_DIGEST)}.part")
        self._kept = next(iter(sorted(left)), self._named(_NO_DIGEST))

    @property
    def size_bytes(self) -> int:
        return self._kept.stat().st_size if self._kept.exists() else 0

    def headers(self) -> dict[str, str]:
        # as it is: compressed bytes are others than those of the digest
        headers = {"Accept-Encoding": "identity"}
        if self.size_bytes and self._digest != _NO_DIGEST:
            headers |= {"Range": f"bytes={self.size_bytes}-", "If-Range": f'"{self._digest}"'}
        return headers

    @contextmanager
    def receive(self, answer: httpx.Response) -> Iterator[Callable[[bytes], None]]:
        """What takes the body of this answer, after what has arrived before if the answer goes on there."""
        tag = _TAG.fullmatch(answer.headers.get("etag", ""))
        of_answer = self._named(tag[1] if tag else _NO_DIGEST)
        goes_on = answer.status_code == 206 and of_answer == self._kept
        if not goes_on:
            self.forget()
            self._kept = of_answer
        with self._kept.open("ab" if goes_on else "wb") as file:
            total = file.tell() + int(answer.headers.get("content-length", 0))

            def take(part: bytes) -> None:
                file.write(part)
                self._received(self._path.name, file.tell(), total)

            yield take

    def finish(self) -> None:
        """Give the file its name."""
        digest = hashlib.sha256()
        with self._kept.open("rb") as file:
            while part := file.read(PART_BYTES):
                digest.update(part)
        arrived, named = digest.hexdigest(), self._digest
        if named not in (arrived, _NO_DIGEST):
            self.forget()
            raise Damaged(f"{self._path.name} arrived with the digest {arrived}, not {named}; download it again")
        self._kept.replace(self._path)

    def forget(self) -> None:
        """Begin anew."""
        self._kept.unlink(missing_ok=True)
        self._kept = self._named(_NO_DIGEST)

    @property
    def _digest(self) -> str:
        return self._kept.name[: -len(".part")][-len(_NO_DIGEST) :]

    def _named(self, digest: str) -> Path:
        return self._path.with_name(f".{self._path.name}.{digest}.part")


def _literal(name: str) -> str:
    return "".join(f"[{character}]" if character in "*?[" else character for character in name)
