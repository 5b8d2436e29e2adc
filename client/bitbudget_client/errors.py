"""What can go wrong with a call, as exceptions: all of them are a `BitbudgetError`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from bitbudget_client.documents import Job


class BitbudgetError(Exception):
    """What this package raises."""


class Unreachable(BitbudgetError):
    """No answer came: there is no server at the address, or the connection broke for longer than one waits."""


class Damaged(BitbudgetError):
    """The bytes that arrived are not those that were sent."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """One wrong field of a request, such as `budget.max_drop`."""

    field: str
    message: str


class Problem(BitbudgetError):
    """The server's answer was an error, or a redirect: problem details of RFC 9457.

    `code` is stable (docs/api.md lists them), `detail` says what, got, expected and remedy. `document` is the whole
    object, `retry_after_seconds` what the server asked to wait for.
    """

    def __init__(self, status: int, document: Mapping[str, Any], retry_after_seconds: float | None = None) -> None:
        super().__init__(status, document)
        self.status = status
        self.document = document
        self.retry_after_seconds = retry_after_seconds
        self.code = str(document.get("code", "unknown"))
        self.title = str(document.get("title", f"The server answered {status}"))
        self.detail = str(document.get("detail", ""))
        wrong = document.get("errors") or ()
        self.errors = tuple(FieldError(str(one["field"]), str(one["message"])) for one in wrong)

    def __str__(self) -> str:
        return f"{self.title} ({self.code}): {self.detail}" if self.detail else f"{self.title} ({self.code})"


class NotAllowed(Problem):
    """The key is missing, not valid, or may not do this (401, 403)."""


class NotFound(Problem):
    """There is no such model, dataset, job or result (404)."""


class Invalid(Problem):
    """The request is wrong, and will be the next time (400, 413, 415, 422)."""


class Unavailable(Problem):
    """The server cannot do it now (429, 502 to 504, 507)."""


class JobFailed(Problem):
    """The job failed; `job` has all that is known of it."""

    def __init__(self, job: Job) -> None:
        problem = job.document["error"] or {}
        super().__init__(int(problem.get("status", 500)), problem)
        self.job = job


class JobCancelled(BitbudgetError):
    """The job was cancelled; `job` has all that is known of it."""

    def __init__(self, job: Job) -> None:
        super().__init__(f"the job {job.id} was cancelled")
        self.job = job


_KINDS: Mapping[int, type[Problem]] = {
    **dict.fromkeys((401, 403), NotAllowed),
    404: NotFound,
    **dict.fromkeys((400, 413, 415, 422), Invalid),
    **dict.fromkeys((429, 502, 503, 504, 507), Unavailable),
}


def problem_of(answer: httpx.Response) -> Problem:
    """The exception for an answer that does not give what was asked for; its body has been read."""
    try:
        body = answer.json()
    except ValueError:  # a proxy's page
        body = None
    if not isinstance(body, dict) or "code" not in body:
        body = {
            "title": f"The server answered {answer.status_code} {answer.reason_phrase}",
            "detail": _elsewhere(answer) if answer.has_redirect_location else answer.text[:500],
        }
    after = answer.headers.get("retry-after", "")
    kind = _KINDS.get(answer.status_code, Problem)
    return kind(answer.status_code, body, float(after) if after.isdecimal() else None)


def _elsewhere(answer: httpx.Response) -> str:
    return (
        f"{answer.request.url.path} leads to {answer.headers['location'][:500]!r}, and redirects are not followed; "
        "make the client with the address at which the server answers itself"
    )
