"""The calls of the API, as steps."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any

import httpx

from bitbudget_client.documents import Document, Job, Upload
from bitbudget_client.errors import JobCancelled, JobFailed, NotFound, Problem
from bitbudget_client.steps import Call, Patience, Pause, Steps, answered, checked

POLL_SECONDS = 0.5

ShowJob = Callable[[Job], None]


def get(path: str, seconds: float, **params: Any) -> Steps[Document]:
    """The JSON object at an address."""
    answer = yield from answered(Call("GET", path, given(params)), seconds)
    return _object(answer)


def text(path: str, seconds: float, **params: Any) -> Steps[str]:
    """The text at an address."""
    answer = yield from answered(Call("GET", path, given(params)), seconds)
    return str(answer.text)


def job(job_id: str, seconds: float) -> Steps[Job]:
    return Job((yield from get(f"/v1/jobs/{job_id}", seconds)))


def jobs(seconds: float, /, **filters: Any) -> Steps[tuple[list[Job], str | None]]:
    """A page of jobs, newest first, and the cursor of the next one."""
    page = yield from get("/v1/jobs", seconds, **filters)
    return [Job(document) for document in page["jobs"]], page["next_cursor"]


def uploads(kind: str, seconds: float, /, **filters: Any) -> Steps[tuple[list[Upload], str | None]]:
    """A page of models or datasets, newest first, and the cursor of the next one."""
    page = yield from get(f"/v1/{kind}s", seconds, **filters)
    return [Upload(document) for document in page["uploads"]], page["next_cursor"]


def make(path: str, body: Document, seconds: float, key: str | None = None) -> Steps[Job]:
    """A job by a POST; repeated after a lost answer it makes no second one."""
    headers = {"Idempotency-Key": key or uuid.uuid4().hex}
    answer = yield from answered(Call("POST", path, headers=headers, json=dict(body)), seconds)
    return Job(_object(answer))


def cancel(job_id: str, seconds: float) -> Steps[Job]:
    return Job(_object((yield from answered(Call("POST", f"/v1/jobs/{job_id}/cancel"), seconds))))


def label(path: str, changes: Document, seconds: float) -> Steps[Document]:
    """What stands at the address, with other labels."""
    return _object((yield from answered(Call("PATCH", path, json=dict(changes)), seconds)))


def delete(path: str, seconds: float) -> Steps[None]:
    """Nothing is left at the address; a repeated call that finds nothing has done it the first time."""
    patience, repeated = Patience(seconds), False
    while True:
        try:
            checked((yield Call("DELETE", path)))
            return
        except (httpx.TransportError, Problem) as error:
            if repeated and isinstance(error, NotFound):
                return
            pause = patience.pause(error)
        repeated = True
        yield pause


def wait(job_id: str, seconds: float, show: ShowJob, every_seconds: float) -> Steps[Job]:
    """The job once it has ended; a server that restarts meanwhile is waited for `seconds`."""
    while True:
        now = yield from job(job_id, seconds)
        show(now)
        if now.ended:
            return now
        yield Pause(every_seconds)


def event_call(path: str, after: int) -> Call:
    """What opens the stream of the events of a job, of those after the one with this number."""
    return Call("GET", f"{path}/events", headers={"Accept": "text/event-stream", "Last-Event-ID": str(after)})


def succeeded(job: Job) -> Job:
    """The job, if it succeeded.

    Raises:
        JobFailed, JobCancelled: it did not.
    """
    if job.state == "failed":
        raise JobFailed(job)
    if job.state == "cancelled":
        raise JobCancelled(job)
    return job


def given(members: Mapping[str, Any]) -> dict[str, Any]:
    """The members that are not None."""
    return {name: value for name, value in members.items() if value is not None}


def _object(answer: httpx.Response) -> Document:
    document: Document = answer.json()
    return document
