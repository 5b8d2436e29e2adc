"""Every part of a team is killed again and again while jobs are sent: none may be lost, doubled, or end differently.

    python -m benchmarks.service.chaos --jobs 500 --kills 200

Several projects send the same jobs with keys of their own, so that no project's results help another's. Jobs are sent
with an Idempotency-Key until they are answered, as a client has to. At the end each job must have succeeded once, with
the plan and the file of an undisturbed run, to the byte.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.service.team import Team, kill, patiently, running_team
from benchmarks.service.tiny import TinyJob, tiny_job

VARIANTS = 25
PROJECTS = 4
WAITING = 20
"""Jobs that wait or run at a time."""
PATIENCE_SECONDS = 900.0


@dataclass(frozen=True)
class Sent:
    """A job that was accepted."""

    job_id: str
    project: int
    tiny: TinyJob


class Clients:
    """One client for each project; every call is repeated while the API is away."""

    def __init__(self, team: Team) -> None:
        keys = [team.command("keys", "create", "--project", f"p{n}", "--role", "member") for n in range(PROJECTS)]
        self._clients = [
            httpx.Client(base_url=team.url, timeout=60, headers={"Authorization": f"Bearer {key.strip()}"})
            for key in keys
        ]

    def call(self, project: int, method: str, path: str, **arguments: Any) -> httpx.Response:
        """The answer, once there is one that is not about something being started."""
        while True:
            answer = patiently(lambda: self._clients[project].request(method, path, **arguments))
            if answer.status_code < 500 and answer.status_code != 429:
                return answer.raise_for_status()
            time.sleep(0.1)

    def send(self, project: int, tiny: TinyJob, key: str) -> str:
        files = {
            "model": ("tiny.onnx", tiny.model),
            "dataset": ("tiny.npz", tiny.dataset),
            "request": (None, tiny.request),
        }
        answer = self.call(project, "POST", "/v1/jobs", files=files, headers={"Idempotency-Key": key})
        return str(answer.json()["id"])


class Killer:
    """Kills parts of the team, chosen by chance."""

    def __init__(self, team: Team, seed: int) -> None:
        self._team = team
        self._choose = random.Random(seed)
        self.kills: Counter[str] = Counter()
        self._victims: Mapping[str, Callable[[], bool]] = {
            "worker": lambda: self._choose.choice(self._team.workers).kill(),
            "child": self._kill_child,
            "busy child": self._kill_busy_child,
            "api": self._team.parts["api"].kill,
            "dispatcher": self._team.parts["dispatcher"].kill,
            "redis": self._team.parts["redis"].kill,
            "postgresql": self._kill_postgresql,
        }

    def strike(self) -> None:
        """Kill one part, at some moment of the next second."""
        time.sleep(self._choose.uniform(0.0, 1.0))
        # Children die more often than databases; each kind dies often.
        names = [*self._victims, "child", "busy child", "busy child"]
        name = self._choose.choice(names)
        self.kills[name] += self._victims[name]()

    def _kill_child(self) -> bool:
        children = [child for worker in self._team.workers for child in worker.children()]
        return bool(children) and kill(self._choose.choice(children).pid)

    def _kill_busy_child(self) -> bool:
        def seconds(process: psutil.Process) -> float:
            try:
                return float(process.cpu_times().user)
            except psutil.NoSuchProcess:
                return 0.0

        children = [child for worker in self._team.workers for child in worker.children()]
        before = {child: seconds(child) for child in children}
        time.sleep(0.1)
        busy = max(children, key=lambda child: seconds(child) - before[child], default=None)
        return busy is not None and kill(busy.pid)

    def _kill_postgresql(self) -> bool:
        """One of its processes, which makes it recover; now and then all of it."""
        part = self._team.parts["postgresql"]
        backends = part.children()
        if backends and self._choose.random() < 0.7:
            return kill(self._choose.choice(backends).pid)
        return part.kill()


def chaos(jobs: int, kills: int, seed: int = 0) -> dict[str, Any]:
    """Send `jobs` jobs while parts are killed, at least `kills` times; what became of them."""
    tinies = [tiny_job(seed * 1000 + number) for number in range(min(VARIANTS, jobs))]
    with (
        tempfile.TemporaryDirectory(prefix="bitbudget-") as folder,
        running_team(Path(folder) / "team", workers=2, auth="keys", lease_seconds="6", heartbeat_seconds="1") as team,
    ):
        clients = Clients(team)
        killer = Killer(team, seed)
        sent: list[Sent] = []
        ended = 0
        while ended < jobs or sum(killer.kills.values()) < kills:
            # A kill for so many ended jobs: on a slow machine everything is slow, and nothing dies before it lives.
            if sum(killer.kills.values()) * jobs < kills * (ended + 1):
                killer.strike()
            if len(sent) < ended + WAITING:
                number = len(sent)
                project, tiny = number % PROJECTS, tinies[number % len(tinies)]
                sent.append(Sent(clients.send(project, tiny, f"job-{number}"), project, tiny))
            else:
                time.sleep(0.1)
            ended = int(str(team.sql("SELECT count(*) FROM jobs WHERE finished_at IS NOT NULL")[0][0]))
        states = [_ended(clients, one) for one in sent]
        return {
            "chaos_jobs": len(sent),
            "chaos_kills": sum(killer.kills.values()),
            "chaos_kills_by_part": dict(killer.kills),
            "chaos_lost": sum(state.get("state") != "succeeded" for state in states),
            "chaos_failures": Counter(
                str((state.get("error") or {}).get("code")) for state in states if state["error"]
            ),
            "chaos_doubled": _doubled(team, sent),
            "chaos_differing_plans": sum(
                _differs(clients, one)
                for one, state in zip(sent, states, strict=True)
                if state.get("state") == "succeeded"
            ),
        }


def _ended(clients: Clients, one: Sent) -> dict[str, Any]:
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        job = dict(clients.call(one.project, "GET", f"/v1/jobs/{one.job_id}").json())
        if job["state"] not in ("queued", "running") or time.monotonic() > end:
            return job
        time.sleep(0.1)


def _doubled(team: Team, sent: list[Sent]) -> int:
    """Jobs that were made twice, or ended twice."""
    made = team.sql("SELECT count(*) FROM jobs")[0][0]
    ended = team.sql(
        "SELECT job_id FROM job_events WHERE kind = 'state' AND data->>'state' IN ('succeeded', 'failed', 'cancelled') "
        "GROUP BY job_id HAVING count(*) > 1"
    )
    return int(str(made)) - len({one.job_id for one in sent}) + len(ended)


def _differs(clients: Clients, one: Sent) -> bool:
    plan = clients.call(one.project, "GET", f"/v1/jobs/{one.job_id}/plan").content
    model = clients.call(one.project, "GET", f"/v1/jobs/{one.job_id}/model.onnx").content
    return _comparable(plan) != _comparable(one.tiny.plan) or model != one.tiny.quantized


def _comparable(plan: bytes) -> Any:
    """All but what no two runs can share."""
    return json.loads(plan)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(json.dumps(chaos(given.jobs, given.kills, given.seed)))


if __name__ == "__main__":
    main()
