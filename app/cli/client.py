"""The service's API for commands: uploads, jobs, results; errors of the server as exceptions."""

from __future__ import annotations

import base64
import hashlib
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

DEFAULT_SERVER = "http://127.0.0.1:8000"
CHUNK_BYTES = 1024 * 1024
PIECES_FROM_BYTES = 8 * 1024 * 1024
"""Files from this size on are sent so that a cut connection does not cost all that was sent."""

_TUS = {"Tus-Resumable": "1.0.0"}
_TUS_BODY = {"Content-Type": "application/offset+octet-stream"}

RESULTS = {
    "model.onnx": "model.onnx",
    "plan.json": "plan",
    "plan.csv": "plan?format=csv",
    "frontier.json": "frontier",
    "sensitivity.json": "sensitivity",
}
"""What a finished job gives: file name by address below the job."""

OF_A_SEARCH = ("frontier.json", "sensitivity.json")
"""Those that a job lacks which applied a plan in place of searching for one."""

OF_A_CERTIFICATE = {"certificate.json": "certificate"}
"""What a job gives that certified a quantized file."""

PAUSE_SECONDS = 0.2
PATIENCE_SECONDS = 60.0
"""How long a server may be away while somebody waits for a job: it restarts, the job goes on."""

Job = Mapping[str, Any]


class ServerProblem(Exception):
    """The server's answer was an error: problem details of RFC 9457."""

    def __init__(self, status: int, code: str, title: str, detail: str) -> None:
        super().__init__(status, code, title, detail)
        self.status = status
        self.code = code
        self.title = title
        self.detail = detail


class Client:
    """The API at `server`, or on the Unix socket `socket` if one is given; `key` is what the server asks for."""

    def __init__(self, server: str, *, key: str | None = None, socket: Path | None = None) -> None:
        self._far = socket is None
        self._http = httpx.Client(
            base_url=server,
            headers=None if key is None else {"Authorization": f"Bearer {key}"},
            transport=None if socket is None else httpx.HTTPTransport(uds=str(socket)),
            # An upload of some gigabytes is hashed and stored before it is answered.
            timeout=httpx.Timeout(30.0, read=600.0, write=600.0),
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def upload(self, kind: str, path: Path, sent: Callable[[int], None], name: str) -> str:
        """Upload the file at `path` as a `model` or a `dataset` called `name`, and return its id; `sent` gets bytes
        sent so far."""
        size_bytes = path.stat().st_size
        if self._far and size_bytes >= PIECES_FROM_BYTES:
            return self._upload_in_pieces(kind, path, sent, name[-255:])
        answer = self._http.put(
            f"/v1/{kind}s",
            params={"name": name[-255:]},
            content=_chunks(path, sent),
            headers={"Content-Type": "application/octet-stream", "Content-Length": str(size_bytes)},
        )
        return str(_checked(answer).json()["id"])

    def _upload_in_pieces(self, kind: str, path: Path, sent: Callable[[int], None], name: str) -> str:
        """By the tus protocol: a connection that is cut costs what the network held. Goes on as long as it comes
        further within `PATIENCE_SECONDS`."""
        size_bytes = path.stat().st_size
        members = {"kind": kind, "name": name}
        metadata = ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in members.items())
        headers = {**_TUS, "Upload-Length": str(size_bytes), "Upload-Metadata": metadata}
        address = self._answered(lambda: self._http.post("/v1/uploads", headers=headers)).headers["location"]
        offset, end = 0, time.monotonic() + PATIENCE_SECONDS
        while offset < size_bytes:
            length = {"Upload-Offset": str(offset), "Content-Length": str(size_bytes - offset)}
            try:
                body = _chunks(path, sent, offset)
                _checked(self._http.patch(address, content=body, headers={**_TUS, **_TUS_BODY, **length}))
                offset = size_bytes
            except (httpx.TransportError, ServerProblem) as error:
                elsewhere = isinstance(error, ServerProblem) and error.code == "upload_offset_mismatch"
                if not (elsewhere or _is_away(error)) or time.monotonic() > end:
                    raise
                time.sleep(PAUSE_SECONDS)
                before, offset = offset, self._arrived(address)
                if offset > before:
                    end = time.monotonic() + PATIENCE_SECONDS
        upload_id = self._patiently(lambda: self._http.get(address))["upload_id"]
        with path.open("rb") as file:
            if upload_id != hashlib.file_digest(file, "sha256").hexdigest():
                raise ServerProblem(
                    409,
                    "upload_damaged",
                    "The upload is not the file",
                    f"{path} changed while it was sent; send it again",
                )
        return str(upload_id)

    def _arrived(self, address: str) -> int:
        return int(self._answered(lambda: self._http.head(address, headers=_TUS)).headers["upload-offset"])

    def submit(self, request: Mapping[str, Any], call: str = "jobs", key: str | None = None) -> Job:
        """Make a job by the call `jobs` or `certificates`; a repeated request after a lost answer makes no second."""
        key = key or uuid.uuid4().hex
        return self._patiently(lambda: self._http.post(f"/v1/{call}", json=request, headers={"Idempotency-Key": key}))

    def job(self, job_id: str) -> Job:
        """The job as it is now."""
        answer: Job = _checked(self._http.get(f"/v1/jobs/{job_id}")).json()
        return answer

    def jobs(self, limit: int, **filters: str | None) -> list[Job]:
        """The newest jobs, by default all; `filters` are parameters of the call, such as `tag`."""
        given = {name: value for name, value in filters.items() if value is not None}
        answer = _checked(self._http.get("/v1/jobs", params={"limit": limit, **given}))
        jobs: list[Job] = answer.json()["jobs"]
        return jobs

    def cancel(self, job_id: str) -> Job:
        """Ask for the job to be cancelled."""
        return self._patiently(lambda: self._http.post(f"/v1/jobs/{job_id}/cancel"))

    def remove(self, job_id: str) -> None:
        """Remove a job that has ended, with all that it gave."""
        _checked(self._http.delete(f"/v1/jobs/{job_id}"))

    def follow(self, job_id: str, show: Callable[[Job], None], every_seconds: float) -> Job:
        """Call `show` with the job until it has ended, and return it; a server that restarts is waited for."""
        while True:
            job = self._patiently(lambda: self._http.get(f"/v1/jobs/{job_id}"))
            show(job)
            if job["state"] not in ("queued", "running"):
                return job
            time.sleep(every_seconds)

    def download(self, job_id: str, folder: Path) -> list[Path]:
        """Write every result that the job has into `folder`; each file is there whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        request = self.job(job_id)["request"]
        results = RESULTS
        if "quantized_id" in request:
            results = OF_A_CERTIFICATE
        elif request.get("plan") is not None:
            results = {name: address for name, address in RESULTS.items() if name not in OF_A_SEARCH}
        return [self._save(f"/v1/jobs/{job_id}/{address}", folder / name) for name, address in results.items()]

    def certificate(self, job_id: str) -> Mapping[str, Any]:
        """What a job says of the quantized file that it certified."""
        answer: Mapping[str, Any] = _checked(self._http.get(f"/v1/jobs/{job_id}/certificate")).json()
        return answer

    def _save(self, address: str, path: Path) -> Path:
        partial = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            with self._http.stream("GET", address) as answer, partial.open("wb") as file:
                if answer.is_error:
                    answer.read()
                for chunk in _checked(answer).iter_bytes(CHUNK_BYTES):
                    file.write(chunk)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return path

    def _patiently(self, send: Callable[[], httpx.Response]) -> Job:
        answer: Job = self._answered(send).json()
        return answer

    def _answered(self, send: Callable[[], httpx.Response]) -> httpx.Response:
        end = time.monotonic() + PATIENCE_SECONDS
        pause = PAUSE_SECONDS
        while True:
            try:
                return _checked(send())
            except (httpx.TransportError, ServerProblem) as error:
                if not _is_away(error) or time.monotonic() + pause > end:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, 5.0)


def _is_away(error: httpx.TransportError | ServerProblem) -> bool:
    return isinstance(error, httpx.TransportError) or error.status in (502, 503, 504)


def _chunks(path: Path, sent: Callable[[int], None], start: int = 0) -> Iterator[bytes]:
    total = start
    with path.open("rb") as file:
        file.seek(start)
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
            total += len(chunk)
            sent(total)


def _checked(answer: httpx.Response) -> httpx.Response:
    if not answer.is_error:
        return answer
    try:
        body = answer.json()
        problem = body if isinstance(body, dict) else {}
    except ValueError:  # a proxy's page, not ours
        problem = {}
    raise ServerProblem(
        answer.status_code,
        str(problem.get("code", "unknown")),
        str(problem.get("title", f"The server answered {answer.status_code} {answer.reason_phrase}")),
        str(problem.get("detail", answer.text[:500])),
    )
