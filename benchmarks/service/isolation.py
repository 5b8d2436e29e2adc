"""Whether a key shows anything of another project: calls over the whole API with everything that the other one has.

    python -m benchmarks.service.isolation --calls 10000 --seed 0

Every call of the service's OpenAPI document is made with ids, digests, cursors and idempotency keys of another project.
Each such call is made once more with values that never were: both answers must be the same, so that nobody can tell
one from the other. At the end, the other project must be as it was.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from app.access.keys import create_key
from app.access.projects import ensure_project
from app.access.roles import Role
from app.store.engine import Sessions, open_sessions
from benchmarks.service.team import running_team
from benchmarks.service.tenants import SHARED, TUS, Tenant, settled

# What an address with an id that is another's may be answered: refused for its form before anything is looked up.
UNREAD = frozenset({400, 411, 412, 413, 415, 422})
_BODIES = ("model_id", "dataset_id", "quantized_id", "metric_id")


@dataclass(frozen=True)
class Call:
    """One request, and which of its texts are the other project's."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Mapping[str, Any] | bytes | None
    foreign: tuple[str, ...]
    foreign_path: bool

    def send(self, client: httpx.Client) -> httpx.Response:
        content = self.body if isinstance(self.body, bytes) or self.body is None else json.dumps(self.body).encode()
        return client.request(self.method, self.path, params=self.query, headers=self.headers, content=content)


@dataclass
class Found:
    """What went wrong, and how the calls were answered."""

    calls: int = 0
    leaks: list[str] = field(default_factory=list)
    by_status: Counter[int] = field(default_factory=Counter)

    def note(self, call: Call, what: str) -> None:
        self.leaks.append(f"{call.method} {call.path} {dict(call.query)} {what}")


class Fuzzer:
    """Makes calls as one project with what is another's.

    Args:
        document: the OpenAPI document of the service.
    """

    def __init__(self, document: Mapping[str, Any], rng: random.Random) -> None:
        self._operations = [
            (method.upper(), path, operation)
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
            if path != "/metrics"
        ]
        self._rng = rng

    def attack(self, ours: Tenant, theirs: Tenant, calls: int, found: Found) -> None:
        """Make this many calls, and compare what the other project is shown before and after them."""
        before = theirs.snapshot()
        end = found.calls + calls
        while found.calls < end:
            self._try(ours, theirs, found)
        if theirs.snapshot() != before:
            found.leaks.append("the other project is not as it was")

    def _try(self, ours: Tenant, theirs: Tenant, found: Found) -> None:
        call = self._call(ours, theirs)
        answer = call.send(ours.client)
        found.calls += 1
        found.by_status[answer.status_code] += 1
        shown = answer.text + json.dumps(dict(answer.headers))
        for text in theirs.hidden:
            # What was sent may be repeated in the answer.
            if text in shown.replace(call.path, "") and text not in call.foreign:
                found.note(call, f"shows {text}")
        if call.foreign_path and answer.status_code != 404 and answer.status_code not in UNREAD:
            found.note(call, f"is answered {answer.status_code}")
        # A key that we took before is ours too: a mismatch names the job that we made with it, or it is a leak above.
        if call.foreign and "idempotency_mismatch" not in answer.text:
            self._compare(call, answer, ours, found)

    def _compare(self, call: Call, answer: httpx.Response, ours: Tenant, found: Found) -> None:
        """Make the call with values that never were; the answers must not differ."""
        made_up = {text: _like(text, self._rng) for text in call.foreign}
        twin = Call(
            call.method,
            _replaced(call.path, made_up),
            {name: _replaced(value, made_up) for name, value in call.query.items()},
            {name: _replaced(value, made_up) for name, value in call.headers.items()},
            _replaced_body(call.body, made_up),
            (),
            False,
        )
        never = twin.send(ours.client)
        found.calls += 1
        found.by_status[never.status_code] += 1
        if answer.status_code != never.status_code:
            found.note(call, f"is answered {answer.status_code}, and {never.status_code} for what never was")
        elif answer.status_code >= 400:
            back = {value: text for text, value in made_up.items()}
            if answer.text != _replaced(never.text, back):
                found.note(call, "is not answered as what never was")

    def _call(self, ours: Tenant, theirs: Tenant) -> Call:
        method, path, operation = self._rng.choice(self._operations)
        foreign: list[str] = []
        for name in [part[1:-1] for part in path.split("/") if part.startswith("{")]:
            path = path.replace(f"{{{name}}}", self._id(name, ours, theirs, foreign))
        foreign_path = bool(foreign)
        query: dict[str, str] = {}
        headers: dict[str, str] = {}
        if path.startswith("/v1/uploads"):
            headers |= TUS | {"Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
        for parameter in operation.get("parameters", ()):
            name, place = parameter["name"], parameter["in"]
            if place == "path" or name == "Authorization" or self._rng.random() < 0.4:
                continue
            value = self._value(name, method, ours, theirs, foreign)
            if value is not None:
                (query if place == "query" else headers)[name] = value
        body = self._body(method, path, ours, theirs, foreign)
        if isinstance(body, Mapping):
            headers["Content-Type"] = "application/json"
        return Call(method, path, query, headers, body, tuple(foreign), foreign_path)

    def _id(self, name: str, ours: Tenant, theirs: Tenant, foreign: list[str]) -> str:
        chance = self._rng.random()
        if chance < 0.7:
            # An id of the kind that is asked for, or of another one.
            every = [value for key, values in theirs.ids.items() if key.endswith("_id") for value in values]
            value = self._rng.choice(theirs.ids.get(name, every) if chance < 0.6 else every)
            foreign.append(value)
            return value
        if chance < 0.9 and name in ours.ids:
            return self._rng.choice(ours.ids[name])
        return f"{self._rng.getrandbits(128):032x}"

    def _value(self, name: str, method: str, ours: Tenant, theirs: Tenant, foreign: list[str]) -> str | None:
        if name == "limit":
            return str(self._rng.randint(1, 200))
        if name in theirs.ids and name != "cursor":
            value = self._rng.choice(theirs.ids[name])
            foreign.append(value)
            return f'"{value}"' if name == "If-None-Match" else value
        if name == "cursor":
            return self._rng.choice(theirs.ids[name] + ours.ids[name])
        if name in ("name", "tag") and method == "GET":  # or it would be a name of ours from then on
            foreign.append(theirs.marker)
            return theirs.marker
        return None

    def _body(
        self, method: str, path: str, ours: Tenant, theirs: Tenant, foreign: list[str]
    ) -> Mapping[str, Any] | bytes | None:
        if method == "PUT":
            return SHARED
        if path.startswith("/v1/uploads"):
            return b"a piece" if method == "PATCH" else None
        if method not in ("POST", "PATCH"):
            return None
        if path.endswith("/keys"):
            return {"role": "viewer"}
        if not path.endswith(("/jobs", "/certificates")):
            return {}
        body: dict[str, Any] = {}
        theirs_too = self._rng.random() < 0.6
        for name in _BODIES:
            if name == "quantized_id" and not path.endswith("/certificates"):
                continue
            known = name.replace("quantized", "model").replace("metric", "model")
            tenant = theirs if theirs_too and self._rng.random() < 0.5 else ours
            value = self._rng.choice(tenant.ids[known])
            if name == "metric_id":
                if self._rng.random() < 0.7:
                    continue
                body["budget"] = {"metric_id": value}
            else:
                body[name] = value
            if tenant is theirs:
                foreign.append(value)
        return body


def _like(text: str, rng: random.Random) -> str:
    """A text of the same form that never was, and sorts alike: of several that are missing the first one is named."""
    kept, changed = text[: len(text) // 2], text[len(text) // 2 :]
    return kept + "".join(
        rng.choice("0123456789abcdef") if letter in "0123456789abcdef" else letter for letter in changed
    )


def _replaced(text: str, values: Mapping[str, str]) -> str:
    for before, after in values.items():
        text = text.replace(before, after)
    return text


def _replaced_body(
    body: Mapping[str, Any] | bytes | None, values: Mapping[str, str]
) -> Mapping[str, Any] | bytes | None:
    if body is None or isinstance(body, bytes):
        return body
    replaced: Mapping[str, Any] = json.loads(_replaced(json.dumps(body), values))
    return replaced


@contextmanager
def two_tenants(sessions: Sessions, url: str) -> Iterator[tuple[Tenant, Tenant]]:
    """Two projects with a key each, both with everything, at a service that asks for keys."""
    with ExitStack() as stack:

        def settle(name: str) -> Tenant:
            of_project = sessions.of(ensure_project(sessions, name).id)
            bearer = {"Authorization": f"Bearer {create_key(of_project, Role.ADMIN)[1]}"}
            client = stack.enter_context(httpx.Client(base_url=url, timeout=60, headers=bearer))
            return settled(client, of_project)

        yield settle("left"), settle("right")


def fuzzed(left: Tenant, right: Tenant, calls: int, seed: int) -> Found:
    """What the two projects see of each other in so many calls, half of them by each."""
    found = Found()
    fuzzer = Fuzzer(left.client.get("/openapi.json").json(), random.Random(seed))
    fuzzer.attack(left, right, calls // 2, found)
    fuzzer.attack(right, left, calls - calls // 2, found)
    return found


def cross_project_reads(calls: int, seed: int = 0) -> dict[str, Any]:
    """Answers that show something of another project, on a PostgreSQL and a Redis of its own; and what equal uploads
    take: of a first project, of a second one, and again."""
    with (
        tempfile.TemporaryDirectory(prefix="bitbudget-isolation-") as folder,
        running_team(Path(folder) / "team", workers=0, auth="keys") as team,
    ):
        sessions = open_sessions(team.environment["BITBUDGET_DATABASE_URL"])
        with two_tenants(sessions, team.url) as (left, right):
            began = time.monotonic()
            found = fuzzed(left, right, calls, seed)
            seconds = time.monotonic() - began
            uploads = _equal_uploads(left, right)
        sessions.dispose()
    for leak in found.leaks[:20]:
        print(leak)
    return {
        "cross_project_calls": found.calls,
        "cross_project_reads": len(found.leaks),
        "cross_project_statuses": dict(sorted(found.by_status.items())),
        "cross_project_seconds": round(seconds, 1),
        **uploads,
    }


def _equal_uploads(left: Tenant, right: Tenant, times: int = 10, size_bytes: int = 8 << 20) -> dict[str, float]:
    """Medians of seconds to upload new contents, contents that only another project has, and one's own again."""
    taken: dict[str, list[float]] = {"new": [], "of_another_project": [], "own_again": []}
    for number in range(times):
        contents = random.Random(number).randbytes(size_bytes)
        for name, tenant, status in (("new", left, 201), ("of_another_project", right, 201), ("own_again", right, 200)):
            began = time.monotonic()
            answer = tenant.client.put("/v1/datasets", content=contents)
            taken[name].append(time.monotonic() - began)
            if answer.status_code != status:
                raise RuntimeError(f"the upload of {name} was answered {answer.status_code}")
    return {f"upload_{name}_s": round(statistics.median(values), 4) for name, values in taken.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(json.dumps(cross_project_reads(given.calls, given.seed)))
