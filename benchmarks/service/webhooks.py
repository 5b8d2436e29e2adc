"""Whether webhooks are told everything: dispatchers and the database are killed, the receiver refuses, hangs and dies.

    python -m benchmarks.service.webhooks [--jobs 200] [--kills 50]

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import TypeVar

from sqlalchemy.exc import SQLAlchemyError

from app.delivery.addresses import Reach, parse_networks
from app.lifecycle import claims, recovery
from app.lifecycle.states import Outcome
from app.schemas.job_request import JobRequest
from app.schemas.webhook_request import WebhookRequest
from app.services import jobs, webhooks
from app.store.blobs import write_bytes
from app.store.engine import Sessions, clock, open_sessions
from app.store.migrate import upgrade
from app.store.tables import DEFAULT_PROJECT, DeliveryRow, JobEventRow, JobRow
from app.store.uploads import put_upload
from app.store.webhooks import KIND_OF_STATE
from benchmarks.service.receiver import FORGED
from benchmarks.service.team import Part, free_ports, own_postgresql

LOCAL = "127.0.0.0/8"
DISPATCHERS = 2
TIMEOUT_SECONDS = 1.0
LEASE = timedelta(hours=1)
ATTEMPTS = 3
PATIENCE_SECONDS = 600.0
"""What has not come by then, after the last kill, is missing."""
LOOK_SECONDS = 0.02
SHARE_OF_DATABASE = 0.2
T = TypeVar("T")


@dataclass(frozen=True)
class Trial:
    """A database with one webhook, and the processes about it."""

    sessions: Sessions
    dispatchers: list[Part]
    receiver: Part
    database: Part | None
    taken: Path
    received: Path

    def victim(self, random: Random) -> Part:
        """What is killed next."""
        if self.database is not None and random.random() < SHARE_OF_DATABASE:
            return self.database
        return random.choice(self.dispatchers)

    def wait_for_messages(self, count: int) -> None:
        """Until so many more have come in, taken or not."""
        wanted = _lines(self.received) + count
        while _lines(self.received) < wanted:
            time.sleep(LOOK_SECONDS)


def deliveries_under_kills(
    jobs_made: int, kills: int | None = None, *, database_url: str | None = None, seed: int = 0
) -> dict[str, int]:
    """Make jobs, end them in every way, and kill (SIGKILL) who is to tell of it; then see what has come.

    Args:
        kills: each some messages after the last one; None: one for four jobs.
        database_url: of a new database, which then is not killed; None: a PostgreSQL of its own, which is.

    Returns:
        `webhook_messages` that were to come, and `webhook_missing` of them; `webhook_repeated`, which came more than
        once; `webhook_forged`, whose signature was wrong; `webhook_kills`, and `webhook_receiver_deaths`.
    """
    kills, random = jobs_made // 4 if kills is None else kills, Random(seed)
    with tempfile.TemporaryDirectory(prefix="bitbudget-") as folder, _trial(Path(folder), database_url, seed) as trial:
        maker = threading.Thread(target=_make_jobs, args=(trial.sessions, jobs_made, Random(seed)))
        maker.start()
        between = max(1, jobs_made // kills)  # about two messages a job: the kills are over before the messages are
        killed = 0
        while killed < kills:
            trial.wait_for_messages(random.randint(1, between))
            killed += trial.victim(random).kill()
        maker.join()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while _patiently(lambda: _pending(trial.sessions)) and time.monotonic() < deadline:
            time.sleep(0.1)
        expected = _patiently(lambda: _expected(trial.sessions))
        came = Counter(trial.taken.read_text().splitlines())
        return {
            "webhook_messages": len(expected),
            "webhook_missing": len(expected - came.keys()),
            "webhook_repeated": sum(count > 1 for line, count in came.items() if line != FORGED),
            "webhook_forged": came[FORGED],
            "webhook_kills": killed,
            "webhook_receiver_deaths": trial.receiver.starts - 1,
        }


@contextmanager
def _trial(folder: Path, database_url: str | None, seed: int) -> Iterator[Trial]:
    port, database_port = free_ports(2)
    database = None
    if database_url is None:
        database = own_postgresql(folder, database_port)
        database.start()
        database_url = f"postgresql+psycopg://postgres@127.0.0.1:{database_port}/postgres"
    sessions = open_sessions(database_url).of(DEFAULT_PROJECT)
    url = f"http://127.0.0.1:{port}/"
    _patiently(lambda: upgrade(database_url))
    hook = webhooks.create(sessions, Reach(parse_networks(LOCAL)), WebhookRequest(url=url))
    taken, received = folder / "taken", folder / "receiver.log"
    receiving = [sys.executable, "-m", "benchmarks.service.receiver", str(port), hook.secret, str(taken), str(seed)]
    dispatching = [str(Path(sys.executable).with_name("bitbudget")), "dispatcher"]
    settings = _environment(database_url, folder)
    receiver = Part("receiver", receiving, os.environ, received)
    dispatchers = [
        Part("dispatcher", dispatching, settings, folder / f"dispatcher{number}.log") for number in range(DISPATCHERS)
    ]
    received.touch()
    try:
        for part in (receiver, *dispatchers):
            part.start()
        yield Trial(sessions, dispatchers, receiver, database, taken, received)
    finally:
        sessions.dispose()
        for part in (*dispatchers, receiver, *([] if database is None else [database])):
            if part.starts:
                part.stop()


def _make_jobs(sessions: Sessions, count: int, random: Random) -> None:
    """Make jobs and end them, whatever happens to the database meanwhile."""
    model = _patiently(lambda: write_bytes(sessions, b"model"))

    def upload() -> None:
        with sessions.begin() as session:
            put_upload(session, "model", model, None, clock(session))

    _patiently(upload)
    for _ in range(count):
        job = _patiently(lambda: jobs.submit(sessions, lambda: None, JobRequest(model_id=model.sha256)))
        if random.random() < 0.1:
            _patiently(partial(jobs.cancel, sessions, job.id))
        else:
            _patiently(lambda: _work(sessions, random))
    while _patiently(lambda: _active(sessions)):
        # A claim whose answer was lost with the database is nobody's.
        _patiently(lambda: recovery.reap_worker(sessions, "worker/", ATTEMPTS))
        _patiently(lambda: _work(sessions, random))


def _work(sessions: Sessions, random: Random) -> None:
    """Take every job that waits, and end it in one of the ways in which jobs end."""
    while (claim := claims.claim_next(sessions, "worker/1/", LEASE)) is not None:
        luck = random.random()
        if luck < 0.1:
            recovery.reap_worker(sessions, "worker/", ATTEMPTS)
        elif luck < 0.2:
            jobs.cancel(sessions, claim.job_id)
            claims.cancelled(sessions, claim)
        elif luck < 0.4:
            claims.fail(sessions, claim, "model_not_onnx", "made to fail")
        else:
            claims.finish(sessions, claim, Outcome.MET, {}, {})


def _expected(sessions: Sessions) -> set[str]:
    with sessions.read() as session:
        events = session.query(JobEventRow).where(JobEventRow.kind == "state").all()
    return {f"{event.job_id} {event.seq}" for event in events if event.data["state"] in KIND_OF_STATE}


def _pending(sessions: Sessions) -> int:
    with sessions.read() as session:
        return session.query(DeliveryRow).where(DeliveryRow.state == "pending").count()


def _active(sessions: Sessions) -> int:
    with sessions.read() as session:
        return session.query(JobRow).where(JobRow.state.in_(("queued", "running"))).count()


def _patiently(ask: Callable[[], T]) -> T:
    """`ask()`, again while the database is being started."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return ask()
        except SQLAlchemyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _lines(file: Path) -> int:
    return file.read_bytes().count(b"received\n")


def _environment(database_url: str, folder: Path) -> dict[str, str]:
    settings = {
        "HOME": str(folder / "home"),
        "DATABASE_URL": database_url,
        "DISPATCH_INTERVAL_SECONDS": "0.2",
        "WEBHOOK_NETWORKS": LOCAL,
        "WEBHOOK_TIMEOUT_SECONDS": str(TIMEOUT_SECONDS),
        "WEBHOOK_RETRY_SECONDS": "0.05",
    }
    others = {name: value for name, value in os.environ.items() if not name.startswith("BITBUDGET_")}
    return others | {f"BITBUDGET_{name}": value for name, value in settings.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--kills", type=int)
    given = parser.parse_args()
    print(json.dumps(deliveries_under_kills(given.jobs, given.kills)))


if __name__ == "__main__":
    main()
