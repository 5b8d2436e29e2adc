"""What a call does, apart from how: generators that yield steps, which a client runs blocking or not.

A generator yields `Call`, `Pause` or `Work` and is sent what came of it. Whoever runs it raises `httpx.TransportError`
inside it where a call got no answer. So retries, uploads and downloads are written once for both clients.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx

from bitbudget_client.errors import Problem, Unreachable, problem_of
from bitbudget_client.sources import Body

SHORTEST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0

T = TypeVar("T")


Receiver = Callable[[httpx.Response], AbstractContextManager[Callable[[bytes], None]]]
"""Makes, of the head of an answer that is no error, what takes the parts of its body."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request. `body` is sent in parts; the body of the answer goes to `receiver` where there is one."""

    method: str
    path: str
    params: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    body: Body | None = None
    receiver: Receiver | None = None


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing is to happen for so long."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Work:
    """A function that takes its time, such as hashing a file."""

    function: Callable[[], Any]


Step = Call | Pause | Work
Steps = Generator[Step, Any, T]


@dataclass
class Patience:
    """How long one waits for a server that does not answer, or asks to be left alone: it restarts, jobs go on.

    Pauses double from `SHORTEST_PAUSE_SECONDS` to `LONGEST_PAUSE_SECONDS`, and are never shorter than `Retry-After`.
    """

    seconds: float

    def __post_init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Something has come further: the time begins anew."""
        self._end = time.monotonic() + self.seconds
        self._pause = SHORTEST_PAUSE_SECONDS

    def pause(self, error: Exception) -> Pause:
        """What to wait after `error`.

        Raises:
            BitbudgetError: waiting does not help, or has been long enough.
        """
        asked: float | None = 0.0
        if isinstance(error, Problem):
            asked = _worth_waiting(error)
            if asked is None:
                raise error
        elif not isinstance(error, httpx.TransportError):
            raise error
        seconds = max(self._pause, asked or 0.0)
        if time.monotonic() + seconds > self._end:
            raise error if isinstance(error, Problem) else unreachable(error)
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
        return Pause(seconds)


def _worth_waiting(problem: Problem) -> float | None:
    """Seconds that the server asked for, 0 where it named none; None: the next answer would be the same."""
    if problem.status in (502, 503, 504):
        return problem.retry_after_seconds or 0.0
    return problem.retry_after_seconds if problem.status == 429 else None


def unreachable(error: Exception) -> Unreachable:
    """The exception for a connection that gave no answer."""
    where = ""
    if isinstance(error, httpx.RequestError) and error._request is not None:
        where = f" from {error.request.url.copy_with(path='/', query=None)}"
    return Unreachable(
        f"no answer{where}: {error or type(error).__name__}; is the server running, and the address right?"
    )


def checked(answer: httpx.Response) -> httpx.Response:
    """The answer, if it gives what was asked for.

    Raises:
        Problem: it is an error, or leads elsewhere: no redirect is followed, so that the key goes to nobody else.
    """
    if not answer.is_success:
        raise problem_of(answer)
    return answer


def answered(call: Call, seconds: float) -> Steps[httpx.Response]:
    """The answer to a call that may be repeated, however often it takes within `seconds`."""
    patience = Patience(seconds)
    while True:
        try:
            return checked((yield call))
        except (httpx.TransportError, Problem) as error:
            pause = patience.pause(error)
        yield pause
