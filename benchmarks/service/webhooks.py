"""Whether webhooks are told everything: dispatchers are killed while they send, to a receiver that refuses and dies.

    python -m benchmarks.service.webhooks [--jobs 300] [--kills 50] [--database URL]

Give it a new database. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from queue import SimpleQueue
from random import Random

from app.delivery.addresses import Reach, parse_networks
from app.lifecycle import claims, recovery
from app.lifecycle.states import Outcome
from app.schemas.job_request import JobRequest
from app.schemas.webhook_request import WebhookRequest
from app.services import jobs, webhooks
from app.store.blobs import write_bytes
from app.store.engine import Sessions, clock, open_sessions
from app.store.migrate import upgrade
from app.store.tables import DEFAULT_PROJECT, DeliveryRow, JobEventRow
from app.store.uploads import put_upload
from app.store.webhooks import KIND_OF_STATE
from benchmarks.service.receiver import FORGED

LOCAL = "127.0.0.0/8"
DISPATCHERS = 2
TIMEOUT_SECONDS = 1.0
LEASE = timedelta(hours=1)
ATTEMPTS = 3
PATIENCE_SECONDS = 600.0
"""What has not come by then, after the last kill, is missing."""


@dataclass
class Process:
    """A process that is started again whenever it ends, until the block ends; `lines` has what it prints."""

    command: list[str]
    environment: dict[str, str]
    log: Path
    lines: SimpleQueue[str] = field(default_factory=SimpleQueue)
    starts: int = 0
    _running: subprocess.Popen[str] | None = None
    _over: threading.Event = field(default_factory=threading.Event)

    def kill(self) -> None:
        """SIGKILL, wherever it is."""
        if self._running is not None:
            self._running.send_signal(signal.SIGKILL)

    def keep_running(self) -> None:
        while not self._over.is_set():
            self.starts += 1
            command = [part.replace("{start}", str(self.starts)) for part in self.command]
            with (
                self.log.open("ab") as log,
                subprocess.Popen(
                    command, env=self.environment, stdout=subprocess.PIPE, stderr=log, text=True
                ) as process,
            ):
                self._running = process
                if self._over.is_set():
                    process.kill()
                for line in process.stdout or ():
                    self.lines.put(line)

    def end(self) -> None:
        self._over.set()
        self.kill()


def deliveries_under_kills(
    database_url: str, folder: Path, *, jobs_made: int, kills: int, seed: int = 0
) -> dict[str, int]:
    """Make jobs, end them in every way, and kill dispatchers with SIGKILL while they send; then see what has come.

    Args:
        database_url: of a database of its own, which is brought to the current schema.
        folder: for files and logs, empty.
        kills: each after some messages have come in since the last one.

    Returns:
        `webhook_messages` that were to come, `webhook_missing` of them; `webhook_repeated`, which came more than once;
        `webhook_forged`, whose signature was wrong; `webhook_kills` of dispatchers; `webhook_receiver_deaths`.
    """
    random = Random(seed)
    upgrade(database_url)
    sessions = open_sessions(database_url).of(DEFAULT_PROJECT)
    port, taken = _free_port(), folder / "taken"
    url = f"http://127.0.0.1:{port}/"
    secret = webhooks.create(sessions, Reach(parse_networks(LOCAL)), WebhookRequest(url=url)).secret
    receiving = [sys.executable, "-m", "benchmarks.service.receiver", str(port), secret, str(taken), "{start}"]
    receiver = Process(receiving, {**os.environ}, folder / "receiver.log")
    dispatching = [str(Path(sys.executable).with_name("bitbudget")), "dispatcher"]
    settings = _environment(database_url, folder)
    dispatchers = [Process(dispatching, settings, folder / "dispatcher.log") for _ in range(DISPATCHERS)]
    with _running([receiver, *dispatchers]):
        maker = threading.Thread(target=_make_jobs, args=(sessions, jobs_made, Random(seed)))
        maker.start()
        between = max(1, jobs_made // kills)  # about two messages a job: the kills are over before the messages are
        for _ in range(kills):
            for _ in range(random.randint(1, between)):
                receiver.lines.get()
            random.choice(dispatchers).kill()
        maker.join()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while _pending(sessions) and time.monotonic() < deadline:
            time.sleep(0.1)
    expected = _expected(sessions)
    came = Counter(taken.read_text().splitlines())
    sessions.dispose()
    return {
        "webhook_messages": len(expected),
        "webhook_missing": len(expected - came.keys()),
        "webhook_repeated": sum(count > 1 for line, count in came.items() if line != FORGED),
        "webhook_forged": came[FORGED],
        "webhook_kills": kills,
        "webhook_receiver_deaths": receiver.starts - 1,
    }


def _make_jobs(sessions: Sessions, count: int, random: Random) -> None:
    model = write_bytes(sessions, b"model")
    with sessions.begin() as session:
        put_upload(session, "model", model, None, clock(session))
    for _ in range(count):
        job = jobs.submit(sessions, lambda: None, JobRequest(model_id=model.sha256))
        if random.random() < 0.1:
            jobs.cancel(sessions, job.id)
            continue
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


@contextmanager
def _running(processes: list[Process]) -> Iterator[None]:
    threads = [threading.Thread(target=process.keep_running) for process in processes]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for process in processes:
            process.end()
        for thread in threads:
            thread.join()


def _environment(database_url: str, folder: Path) -> dict[str, str]:
    settings = {
        "HOME": str(folder / "home"),
        "DATABASE_URL": database_url,
        "DISPATCH_INTERVAL_SECONDS": "0.2",
        "WEBHOOK_NETWORKS": LOCAL,
        "WEBHOOK_TIMEOUT_SECONDS": str(TIMEOUT_SECONDS),
        "WEBHOOK_RETRY_SECONDS": "0.05",
    }
    return {**os.environ, **{f"BITBUDGET_{name}": value for name, value in settings.items()}}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--database", help="a new database; default: SQLite in a temporary folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, contextlib.suppress(KeyboardInterrupt):
        folder = Path(name)
        url = arguments.database or f"sqlite:///{folder / 'bitbudget.db'}"
        print(json.dumps(deliveries_under_kills(url, folder, jobs_made=arguments.jobs, kills=arguments.kills)))


if __name__ == "__main__":
    main()
